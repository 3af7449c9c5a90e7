"""Reconciliation from the events that both sides publish: over HTTP, by the client and at the command line."""

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
import pytest

from meterhouse.api.app import create_app
from meterhouse.api.clock import now_us
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.api.workers import Workers
from meterhouse.client import Meterhouse
from meterhouse.warehouse.control_file import parse
from meterhouse.warehouse.control_plan import plan
from tests.api.serving import served
from tests.api.sites import CONTROL, Site, event, problem
from tests.commands import invoked


def of_node(number: int, **changes: Any) -> dict[str, Any]:
    """What a node tells of the request that `event(number)` is."""
    data = {
        "request_id": f"r{number}",
        "model": "large",
        "provider": "atlas",
        "node": "node-1",
        "input_tokens": 1_000 + number,
        "output_tokens": 100,
        "accelerator_us": 1_500_000,
    }
    told = event(number, type="meterhouse.inference.v1", source="/nodes/1")
    return told | {"data": data | changes}


def named(number: int) -> dict[str, Any]:
    return event(number, data={"request_id": f"r{number}"})


PUBLISHED = [
    *(each for number in range(6) for each in (named(number), of_node(number))),
    *(named(6), of_node(6, output_tokens=99)),
    named(7),
    of_node(8),
]
TODAY = datetime.now(UTC).date()
SPAN = {"from": str(TODAY - timedelta(days=2)), "to": str(TODAY + timedelta(days=2))}
RANGE = ("--from", SPAN["from"], "--to", SPAN["to"])
GAPS = {"r6": "tokens_differ", "r7": "gateway_only", "r8": "node_only"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    settings = Settings(home=tmp_path_factory.mktemp("site") / "home", reconcile_grace_s=0)  # type: ignore[call-arg]
    with House(settings, writer=True) as house:
        house.control.apply(plan(parse(CONTROL), house.control.snapshot(), now_us()), now_us())
        with served(create_app(house)) as http:
            http.timeout = httpx.Timeout(60)  # a machine may be busy
            made = Site(house, http)
            made.publish(*PUBLISHED)
            with Workers(house) as workers:
                workers.run_until_idle(threading.Event())
            yield made


@pytest.fixture
def home(site: Site, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METERHOUSE_RECONCILE_GRACE_S", "0")
    return site.house.settings.home


def test_the_report_counts_each_request_once_and_names_who_exceeds(site: Site) -> None:
    told = site.get("/v1/reconciliation", **SPAN)
    assert {kind: n for kind, n in told["total"]["requests"].items() if n} == {
        "matched": 6,
        **dict.fromkeys(GAPS.values(), 1),
    }
    assert (told["total"]["share"], told["exceeded"]) == ("0.333333", {"acme": ["share"]})
    assert told["in_range"] == {"gateway_events": 8, "node_events": 8}
    assert told["across_edges"] == {"gateway_events": 0, "node_events": 0}
    assert told["total"]["device_us_without_request"] == 1_500_000
    assert site.get("/v1/reconciliation", provider="borea", **SPAN)["lines"] == []


def test_the_lines_are_a_table_too(site: Site) -> None:
    answer = site.http.get("/v1/reconciliation", params=SPAN, headers={"accept": "text/csv"})
    [line] = csv.DictReader(io.StringIO(answer.text))
    assert (line["tenant"], line["requests.matched"], line["gaps"], line["share"]) == ("acme", "6", "3", "0.333333")


def test_the_requests_are_paged_and_each_leads_to_its_charge(site: Site) -> None:
    found, path = [], f"/v1/reconciliation/requests?limit=1&from={SPAN['from']}&to={SPAN['to']}"
    while path:
        answer = site.http.get(path)
        found += answer.json()["requests"]
        path = answer.links.get("next", {}).get("url", "")
    assert {line["request_id"]: line["kind"] for line in found} == GAPS
    [differs] = [line for line in found if line["kind"] == "tokens_differ"]
    assert (differs["gateway"]["output_tokens"], differs["node"]["output_tokens"]) == (100, 99)
    [place] = differs["gateway"]["places"]
    assert site.get(f"/v1/charges/{place}")["charge"]["request_id"] == "r6"
    path = "/v1/reconciliation/requests"
    parquet = site.http.get(path, params=SPAN, headers={"accept": "application/vnd.apache.parquet"})
    assert parquet.status_code == 200


def test_the_client_reads_both(site: Site) -> None:
    with Meterhouse(str(site.http.base_url)) as client:
        told = client.reconciliation(*SPAN.values(), where={"tenant": "acme"})
        assert (told.total.requests.matched, told.total.share) == (6, Decimal("0.333333"))
        assert [line.request_id for line in client.reconciled_requests(*SPAN.values(), kind="node_only")] == ["r8"]


def test_an_unknown_kind_is_refused(site: Site) -> None:
    problem(site.http.get("/v1/reconciliation/requests", params={"kind": "lost"}), 400, "invalid-parameter")


def test_the_command_leaves_with_1_when_a_limit_is_exceeded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = invoked(home, "reconcile", *RANGE)
    assert done.exit_code == 1
    assert "acme exceeds: share over 0.010000" in done.stdout
    monkeypatch.setenv("METERHOUSE_RECONCILE_SHARE", "0.5")
    done = invoked(home, "reconcile", *RANGE, "--format", "json")
    assert (done.exit_code, json.loads(done.stdout)["exceeded"]) == (0, {})
    monkeypatch.setenv("METERHOUSE_RECONCILE_GRACE_S", "3600")
    waiting = json.loads(invoked(home, "reconcile", *RANGE, "--format", "json").stdout)
    assert waiting["total"]["requests"]["pending"] == 3


def test_the_command_lists_the_requests_behind_the_counts(home: Path) -> None:
    listed = invoked(home, "reconcile", *RANGE, "--gaps", "--limit", "2")
    assert listed.exit_code == 0
    assert "there is more: add --after" in listed.stderr
    csv_of_one = invoked(home, "reconcile", *RANGE, "--kind", "gateway_only", "--format", "csv").stdout
    [line] = csv.DictReader(io.StringIO(csv_of_one))
    assert (line["request_id"], line["gateway.statuses"], line["node.events"]) == ("r7", "ok", "0")
    wrong = invoked(home, "reconcile", *RANGE, "--where", "application=assistant")
    assert wrong.exit_code == 2
    assert "there is no filter 'application' here" in wrong.stderr
