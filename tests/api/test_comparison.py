"""What changed, why, what will be, and the tree of org units: over HTTP and at the command line."""

from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from meterhouse.api.app import create_app
from meterhouse.api.clock import now_us
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.api.workers import Workers
from meterhouse.warehouse.control_file import parse
from meterhouse.warehouse.control_plan import plan
from tests.api.serving import served
from tests.api.test_http import CONTROL, body, event, problem
from tests.commands import invoked

MIDNIGHT = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
MOVED = MIDNIGHT - timedelta(days=2) + timedelta(hours=7, microseconds=1)
FROM, TO = MIDNIGHT - timedelta(days=3), MIDNIGHT


def text(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


SPAN = {"from": text(FROM), "to": text(TO)}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compared") / "home"


@pytest.fixture(scope="module")
def http(home: Path) -> Iterator[httpx.Client]:
    """A house whose tenant moved a microsecond after an event, with three events in the range and one before it."""
    with House(Settings(home=home), writer=True) as house:  # type: ignore[call-arg]
        move = f"tenants: [{{id: acme, org: [group, labs], cost_center: CC-2, org_from: {text(MOVED)}}}]"
        for control in (CONTROL, move):
            house.control.apply(plan(parse(control), house.control.snapshot(), now_us()), now_us())
        with served(create_app(house)) as client:
            events = [
                event(1, time=text(FROM - timedelta(days=1)), data={"cache_read_input_tokens": 0}),
                event(2, time=text(MOVED - timedelta(microseconds=1)), data={"cache_read_input_tokens": 500}),
                event(3, time=text(MOVED), data={"cache_read_input_tokens": 500}),
            ]
            headers = {"content-type": "application/json"}
            assert client.post("/v1/events", content=body(*events), headers=headers).status_code == 204
            with Workers(house) as workers:
                workers.run_until_idle(threading.Event())
            yield client


def get(http: httpx.Client, path: str, **params: Any) -> Any:
    answer = http.get(path, params={**SPAN, **params})
    assert answer.status_code == 200, answer.text
    return answer.json()


OLD, NEW = "0.003500000000", "0.002375000000"  # 1000 input and 100 output; half of the input from the cache


def test_a_tenant_that_moved_is_in_both_units_of_the_tree(http: httpx.Client) -> None:
    tree = get(http, "/v1/chargeback/org-tree")
    assert [(n["path"], n["name"], n["level"], n["own"]["cost"], n["with_below"]["cost"]) for n in tree["nodes"]] == [
        (None, None, 0, "0.000000000000", "0.004750000000"),
        ("group", "group", 1, "0.000000000000", "0.004750000000"),
        ("group/consumer", "consumer", 2, NEW, NEW),
        ("group/labs", "labs", 2, NEW, NEW),
    ]
    assert [each["tenant"] for node in tree["nodes"] for each in node["tenants"]] == ["acme", "acme"]
    assert tree["total"]["cost"] == "0.004750000000"


def test_each_cost_center_is_compared_with_the_range_before(http: httpx.Client) -> None:
    report = get(http, "/v1/chargeback/comparison", group_by="cost_center")
    assert report["compared_with"] == {"from": text(FROM - timedelta(days=3)), "to": text(FROM)}
    lines = [
        (line["cost_center"], line["state"], line["difference"], line["relative"], line["now"]["cost"])
        for line in report["lines"]
    ]
    assert lines == [
        ("CC-1", "kept", "-0.001125000000", "-0.321429", NEW),
        ("CC-2", "new", NEW, None, NEW),
    ]
    assert report["lines"][1]["before"] is None
    assert (report["total"]["difference"], report["total"]["relative"]) == ("0.001250000000", "0.357143")


def test_an_explanation_says_what_brought_the_difference_about(http: httpx.Client) -> None:
    report = get(http, "/v1/chargeback/explanation", tenant="acme")
    nothing = dict.fromkeys(
        ("price", "volume", "model_mix", "output_share", "cache_share", "new_models", "gone_models"), "0.000000000000"
    )
    # Twice the tokens cost 0.0035 more, and half of 2,000 input tokens came from the cache at 0.25 instead of 2.50.
    parts = {**nothing, "volume": OLD, "cache_share": "-0.002250000000"}
    assert (report["before"], report["now"], report["difference"]) == (OLD, "0.004750000000", "0.001250000000")
    assert report["parts"] == parts
    assert [(line["tenant"], line["provider"], line["model"], line["parts"]) for line in report["lines"]] == [
        ("acme", "atlas", "large", parts)
    ]
    assert get(http, "/v1/chargeback/explanation", tenant="nobody")["lines"] == []


def test_a_forecast_is_of_what_is_running(http: httpx.Client) -> None:
    running = {"from": text(FROM), "to": text(MIDNIGHT + timedelta(days=4))}
    report = get(http, "/v1/forecast", group_by="tenant", **running)
    [line] = report["lines"]
    assert (line["tenant"], line["spent"]) == ("acme", "0.004750000000")
    assert line["forecast"] >= line["spent"]
    assert report["total"] == {"spent": line["spent"], "forecast": line["forecast"]}
    assert get(http, "/v1/forecast", group_by="tenant")["total"]["forecast"] == "0.004750000000"
    assert http.get("/v1/forecast").status_code == 200


def test_what_changed_is_a_file_too_with_a_column_per_figure(http: httpx.Client) -> None:
    params = {**SPAN, "group_by": "cost_center"}
    answer = http.get("/v1/chargeback/comparison", params=params, headers={"accept": "text/csv"})
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [(row["cost_center"], row["now.cost"], row["before.cost"]) for row in rows] == [
        ("CC-1", NEW, OLD),
        ("CC-2", NEW, ""),
    ]
    assert "before" not in rows[0], "an object that a line lacks is no column"
    answer = http.get("/v1/chargeback/explanation", params=SPAN, headers={"accept": "application/vnd.apache.parquet"})
    table = pq.read_table(io.BytesIO(answer.content))
    assert sum(table["parts.cache_share"].to_pylist()) == Decimal("-0.002250000000")
    answer = http.get("/v1/chargeback/org-tree", params=SPAN, headers={"accept": "text/csv"})
    nodes = list(csv.DictReader(io.StringIO(answer.text)))
    assert [(node["path"], node["tenants"]) for node in nodes] == [
        ("", ""), ("group", ""), ("group/consumer", "acme"), ("group/labs", "acme")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("/v1/chargeback/comparison", {"group_by": "day"}),
        ("/v1/chargeback/explanation", {"from": "2026-11-02", "to": "2026-11-01"}),
        ("/v1/forecast", {"from": "2026-11-01T00:00:01Z", "to": "2026-11-03"}),
        ("/v1/chargeback/org-tree", {"from": "yesterday"}),
    ],
)
def test_wrong_parameters_are_told(http: httpx.Client, path: str, params: dict[str, str]) -> None:
    problem(http.get(path, params=params), 400, "invalid-parameter")


def test_the_commands_show_the_same(http: httpx.Client, home: Path) -> None:
    def shown(*words: str) -> str:
        done = invoked(home, *words, "--from", SPAN["from"], "--to", SPAN["to"])
        assert done.exit_code == 0, done.output
        return done.output

    tree = shown("org-tree")
    assert [line.strip("│├└─ ") for line in tree.splitlines() if "──" in line] == [
        "group  0.004750",
        "consumer  0.002375",
        "acme  0.002375",
        "labs  0.002375",
        "acme  0.002375",
    ]
    assert "CC-2" in shown("compare", "--group-by", "cost_center")
    explained = shown("explain", "--tenant", "acme")
    assert "-0.002250" in explained, explained
    assert "gone models" not in explained
    assert "0.004750" in shown("forecast")
    as_json = json.loads(shown("org-tree", "--format", "json"))
    assert as_json["nodes"] == get(http, "/v1/chargeback/org-tree")["nodes"]
    assert "with_below.cost" in shown("org-tree", "--format", "csv").splitlines()[0]
