"""Every way to ask: each operation of the API, with what another tenant's things are called in each of its parameters.

A route or a parameter that is not known here fails the test: say how to fill it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant

from meterhouse.api.auth.guard import DOCUMENTATION, PUBLIC
from meterhouse.api.operations import routes_of
from tests.ingest.foreign_payloads import litellm_call, litellm_openmeter, otlp_request, otlp_span
from tests.isolation.town import Marks, event

Known = Mapping[str, Mapping[int, str]]

_NOWHERE: Final = {
    "alert": "00000000-0000-5000-8000-000000000000",
    "silence": "silence-sx99kw",
    "place": "0/987654/0",
    "key": "0123456789ab",
}

OF_A_TENANT: Final[Mapping[str, Callable[[Marks], str]]] = {
    "tenant": lambda m: m.tenant,
    "application": lambda m: m.application(0),
    "model": lambda m: f"model-{m.secret}",
    "environment": lambda m: f"env-{m.secret}",
    "org_unit": lambda m: f"unit-{m.name}",
    "cost_center": lambda m: f"CC-{m.name}",
    "subject": lambda m: f"budget-{m.name}",
    "budget": lambda m: f"budget-{m.name}",
    "objective": lambda m: f"objective-{m.name}",
    "only": lambda m: f"application: {m.application(0)}",
}
"""Query parameters whose values are names of a tenant's things."""
PLAIN: Final[Mapping[str, tuple[str, ...]]] = {
    "from": ("2026-01-01",),
    "to": ("2100-01-01",),
    "every": ("hour", "day"),
    "group_by": (
        "tenant,application", "model,environment", "org_unit", "cost_center", "kind", "hour,provider,operation",
    ),
    "status": ("open",),
    "kind": ("threshold", "output", "pending"),
    "reason": ("count_out_of_range",),
    "resolved": ("true",),
    "after": (),  # a token of a page: asked with those that others were given
    "limit": ("2",),
    "provider": ("atlas",),
    "operation": ("chat",),
    "format": ("csv", "parquet"),
    "suite": ("events",),
    "actor": ("local",),
    "range": ("last-30-days",),
    "by": ("application", "model", "org_unit", "cost_center", "kind"),
    "then": ("environment",),
    "form": ("csv", "parquet"),
    "view": ("hex",),
    "action": ("silence.made", "requeue", "discard"),
    "name": ("tenant", "application"),
}  # fmt: skip
"""Query parameters that name nothing of a tenant, and values worth asking with."""
IN_PATHS: Final[Mapping[str, Callable[[Known, Marks], str]]] = {
    "alert_id": lambda known, m: known["alert"].get(m.number, _NOWHERE["alert"]),
    "silence_id": lambda known, m: known["silence"].get(m.number, _NOWHERE["silence"]),
    "reservation": lambda known, m: f"reservation-{m.secret}",
    **{
        name: lambda known, m, part=part: known["place"].get(m.number, _NOWHERE["place"]).split("/")[part]
        for part, name in enumerate(("partition", "offset", "index"))
    },
    "topic": lambda known, m: "usage.events",
    "key_id": lambda known, m: _NOWHERE["key"],  # keys are an admin's
}


@dataclass(frozen=True)
class Ask:
    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    body: Any = None

    @property
    def of_a_page(self) -> bool:
        return not self.path.startswith(("/v1/", "/api/"))

    @property
    def text(self) -> str:
        return json.dumps([self.path, dict(self.params), self.body])


BODIES: Final[Mapping[str, Callable[[Marks], Any]]] = {
    "POST /v1/events": lambda m: event(m, 500),
    "POST /api/v1/events": lambda m: litellm_openmeter(subject=m.tenant),
    "POST /v1/ingest/litellm": lambda m: litellm_call(metadata={"user_api_key_team_id": m.tenant}),
    "POST /v1/traces": lambda m: otlp_request(otlp_span(), resource={"meterhouse.tenant": m.tenant}),
    "POST /v1/admissions": lambda m: {"tenant": m.tenant, "application": m.application(0), "model": "shared"},
    "POST /v1/admissions/{reservation}/settlement": lambda m: {"cost": "0.1", "tokens": 1},
    "POST /v1/alerts/{alert_id}/acknowledgement": lambda m: {"by": "someone", "note": "looking"},
    "POST /budgets/alerts/{alert_id}/acknowledgement": lambda m: {"note": "looking"},
    "POST /v1/keys": lambda m: {"name": "key", "role": "gateway", "grants": [{"tenant": m.tenant}]},
    "POST /v1/keys/{key_id}/rotation": lambda m: {},
    "POST /rejects/resolutions": lambda m: {},
    "POST /rejects/matching": lambda m: {},
    "POST /pipeline/verification": lambda m: {},
    "POST /audit/verification": lambda m: {},
    "POST /v1/silences": lambda m: {
        "subject": f"budget-{m.name}", "until": "2026-12-20T00:00:00Z", "by": "someone", "reason": "work",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    parameters: tuple[str, ...]  # of its query

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def in_path(self) -> list[str]:
        return re.findall(r"\{(\w+)\}", self.path)

    def about(self, marks: Marks, known: Known) -> Iterator[Ask]:
        """All that can be asked about a tenant by naming what is its."""
        path, body = self._path(marks, known), self._body(marks)
        if self.in_path or body is not None:
            yield Ask(self.method, path, {}, body)
        for name in self.parameters:
            if name in OF_A_TENANT:
                grouped = {"group_by": "day,tenant"} if "group_by" in self.parameters else {}
                yield Ask(self.method, path, {name: OF_A_TENANT[name](marks), **grouped}, body)

    def at_large(self) -> Iterator[Ask]:
        """All that can be asked without naming anyone; only what changes nothing."""
        if self.method != "GET" or self.in_path:
            return
        yield Ask(self.method, self.path)
        for name in self.parameters:
            for value in PLAIN.get(name, ()):
                yield Ask(self.method, self.path, {name: value})

    def _path(self, marks: Marks, known: Known) -> str:
        return re.sub(r"\{(\w+)\}", lambda found: IN_PATHS[found[1]](known, marks), self.path)

    def _body(self, marks: Marks) -> Any:
        return None if self.method in ("GET", "DELETE") else BODIES[self.name](marks)


def operations(app: FastAPI) -> list[Operation]:
    """Every operation that is not public: those of the API's own document, and pages."""
    return [*_of_the_document(app), *_of_pages(app)]


def _of_pages(app: FastAPI) -> list[Operation]:
    return [
        Operation(method, route.path or "", tuple(dict.fromkeys(_query(route.dependant))))
        for route in routes_of(app)
        if not route.include_in_schema and route.path not in PUBLIC | DOCUMENTATION
        for method in sorted(route.methods or ())
    ]


def _query(dependant: Dependant) -> Iterator[str]:
    yield from (each.alias for each in dependant.query_params)
    for deeper in dependant.dependencies:
        yield from _query(deeper)


def _of_the_document(app: FastAPI) -> list[Operation]:
    return [
        Operation(
            method.upper(), path, tuple(p["name"] for p in said.get("parameters", ()) if p["in"] == "query")
        )
        for path, methods in app.openapi()["paths"].items()
        for method, said in methods.items()
        if path not in PUBLIC
    ]  # fmt: skip


def unknown(operation: Operation) -> list[str]:
    """What this file does not know how to fill."""
    lacking = [f"query {name}" for name in operation.parameters if name not in OF_A_TENANT and name not in PLAIN]
    lacking += [f"path {name}" for name in operation.in_path if name not in IN_PATHS]
    if operation.method not in ("GET", "DELETE") and operation.name not in BODIES:
        lacking.append("body")
    return lacking
