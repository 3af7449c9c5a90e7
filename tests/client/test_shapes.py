"""The client and the server agree: what it reads is given, what it sends is taken, each operation has a method.

The client is taken for a program that was written to a document: that of its own shapes. The server must not break it.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from meterhouse.client import (
    Meterhouse,
    charge_shapes,
    key_shapes,
    objective_shapes,
    quality_shapes,
    reconciliation_shapes,
    shapes,
)
from tools.openapi import release
from tools.openapi.compare import breaks

REFERENCE = "#/components/schemas/{name}"
DOCUMENT = release.current()
OPERATIONS = {
    operation["operationId"]: (path, method, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
READ: dict[str, type[shapes.Shape]] = {
    "acknowledge": shapes.AlertStory,
    "admit": shapes.Admission,
    "alert": shapes.AlertStory,
    "alerts": shapes.AlertPage,
    "audit": key_shapes.AuditPage,
    "budgets": shapes.Budgets,
    "burn_down": objective_shapes.BurnDown,
    "charge": charge_shapes.ChargeAndRecord,
    "chargeback": shapes.Chargeback,
    "charges": charge_shapes.ChargePage,
    "comparison": charge_shapes.Comparison,
    "create_key": key_shapes.MadeKey,
    "explanation": charge_shapes.Explanation,
    "forecast": charge_shapes.Forecast,
    "keys": key_shapes.Keys,
    "latencies": objective_shapes.Latencies,
    "me": key_shapes.Me,
    "org_tree": charge_shapes.OrgTree,
    "prices": shapes.Prices,
    "quality": quality_shapes.Quality,
    "reconciled_requests": reconciliation_shapes.ReconciledRequestPage,
    "reconciliation": reconciliation_shapes.Reconciliation,
    "rejects": shapes.RejectPage,
    "rotate_key": key_shapes.MadeKey,
    "silence": shapes.Silence,
    "silences": shapes.Silences,
    "slo": shapes.Slo,
    "usage": shapes.Usage,
}
SENT: dict[str, type[shapes.Shape]] = {
    "acknowledge": shapes.Acknowledgement,
    "admit": shapes.AdmissionRequest,
    "create_key": key_shapes.NewKey,
    "rotate_key": key_shapes.Rotation,
    "settle": shapes.Settlement,
    "silence": shapes.NewSilence,
}
NO_METHOD = {
    "alive", "ready",  # for whoever runs the server
    "budget_states",  # a gate's feed reads it
    "openmeter", "from_litellm", "traces",  # other programs' clients send these
}  # fmt: skip
LIMITS = {"enum", "maxItems", "minLength", "maxLength", "minimum", "maximum", "pattern", "format"}
"""What the server's answer tells of, if the client sends something beyond."""


def of(shape: type[shapes.Shape]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A document's schema, and those that it names."""
    (schema,), components = msgspec.json.schema_components([shape], ref_template=REFERENCE)
    for each in components.values():
        each["additionalProperties"] = False  # it sends no others
    return schema, components


def without(words: set[str], node: Any) -> Any:
    if isinstance(node, dict):
        named = node.get("type") == "object"  # its properties may have such names
        node = {name: value for name, value in node.items() if not named or name != "anyOf"}  # what needs what
        return {
            name: {each: without(words, value[each]) for each in value}
            if named and name == "properties"
            else without(words, value)
            for name, value in node.items()
            if name not in words
        }
    return [without(words, each) for each in node] if isinstance(node, list) else node


def program(operation_id: str, what: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    """The document that a program of one operation was written to."""
    path, method, _ = OPERATIONS[operation_id]
    return {
        "paths": {path: {method: {"operationId": operation_id, "security": [{}], **what}}},
        "components": {"schemas": components},
    }


@pytest.mark.parametrize("operation_id", READ)
def test_what_the_client_reads_is_given(operation_id: str) -> None:
    schema, components = of(READ[operation_id])
    status = min(OPERATIONS[operation_id][2]["responses"])
    answer = {"responses": {status: {"content": {"application/json": {"schema": schema}}}}}
    found = breaks(without({"format"}, program(operation_id, answer, components)), DOCUMENT)
    assert [str(each) for each in found if f" {status} " in each.where] == []


@pytest.mark.parametrize("operation_id", SENT)
def test_what_the_client_sends_is_taken(operation_id: str) -> None:
    schema, components = of(SENT[operation_id])
    body = {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
    found = breaks(program(operation_id, body, components), without(LIMITS, DOCUMENT))
    assert [str(each) for each in found if " body " in each.where] == []


def test_each_operation_has_a_method_of_its_name() -> None:
    methods = {name for name in vars(Meterhouse) if not name.startswith("_")}
    assert OPERATIONS.keys() - methods - NO_METHOD == set(), "add a method to client/client.py, or to NO_METHOD"
    assert READ.keys() | SENT.keys() <= OPERATIONS.keys()
