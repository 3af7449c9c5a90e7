"""Reconciliation over a lake: planted gaps of each kind are found and no other, and each leads to its events."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from meterhouse.streams.reconciliation import KINDS, Limits, Terms
from meterhouse.warehouse.books import SeenBooks
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.reports.as_of import Freshness
from meterhouse.warehouse.reports.errors import ReportError
from meterhouse.warehouse.reports.groups import Selection
from meterhouse.warehouse.reports.reconciliation import Reconciliation, reconciliation
from meterhouse.warehouse.reports.reconciliation_json import reconciled_requests_json, reconciliation_json
from meterhouse.warehouse.reports.reconciliation_requests import (
    ReconciledRequest,
    RequestPlace,
    WantedRequests,
    reconciled_requests,
)
from meterhouse.warehouse.view import EVERYTHING, Grant, View
from tests.builders import DAY_US, HOUR_US, MINUTE_US, SECOND_US, T0_US
from tests.warehouse.filled import fill

NOON = T0_US + DAY_US // 2
MIDNIGHT = T0_US + DAY_US
TERMS = Terms(Limits(share=Decimal("0.10"), device_s=1))
LONG_AGO = Freshness(T0_US + 5 * DAY_US, {0: 0})


def gateway(request_id: str | None, *, tokens: tuple[int, int] = (10, 5), **more: Any) -> dict[str, Any]:
    counts = {"input_tokens": tokens[0], "output_tokens": tokens[1]}
    return {"request_id": request_id, "time": NOON, "arrived": NOON, **counts, **more}


def node(request_id: str, *, tokens: tuple[int, int] = (10, 5), **more: Any) -> dict[str, Any]:
    counts = {"input_tokens": tokens[0], "output_tokens": tokens[1], "accelerator_us": 1_000_000}
    return {"request_id": request_id, "node": "node-1", "time": NOON, "arrived": NOON, **counts, **more}


SOUND = {
    "plain": ([gateway("plain")], [node("plain")]),
    "cached parts and reasoning are told otherwise": (
        [gateway("parts", tokens=(4, 2), cache_read_tokens=6, reasoning_tokens=3)],
        [node("parts")],
    ),
    "tried again after an error, by another node": (
        [gateway("again", tokens=(10, 0), status="error"), gateway("again", time=NOON + MINUTE_US)],
        [node("again", tokens=(10, 1)), node("again", time=NOON + MINUTE_US)],
    ),
    "served by two nodes": ([gateway("two")], [node("two", tokens=(10, 0)), node("two", tokens=(0, 5), node="node-2")]),
    "two gateways' events of it": (
        [gateway("halves", tokens=(5, 5)), gateway("halves", tokens=(5, 0))],
        [node("halves")],
    ),
    "aborted: the node went on for a token": ([gateway("left", status="aborted")], [node("left", tokens=(10, 6))]),
    "failed at the gateway, done by the node": ([gateway("fail", tokens=(0, 0), status="error")], [node("fail")]),
    "throttled, then let through": (
        [gateway("later", tokens=(0, 0), status="throttled"), gateway("later", time=NOON + SECOND_US)],
        [node("later")],
    ),
    "the node's clock is half an hour ahead, over midnight": (
        [gateway("clock", time=MIDNIGHT - SECOND_US)],
        [node("clock", time=MIDNIGHT + 30 * MINUTE_US)],
    ),
    "the node calls the model by another name": ([gateway("alias", model="large")], [node("alias")]),
}
NO_NODE_NEEDED = [
    gateway("refused", tokens=(0, 0), status="throttled"),
    gateway("failed", tokens=(10, 0), status="error"),
    gateway("from the gateway's cache", tokens=(0, 0)),
]
GAPS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "tokens_differ": ([gateway("differs")], [node("differs", tokens=(10, 4))]),
    "gateway_only": ([gateway("unworked")], []),
    "node_only": ([], [node("unbilled")]),
    "refused_but_run": ([gateway("sneaked", tokens=(0, 0), status="blocked")], [node("sneaked")]),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    folder: Path = tmp_path_factory.mktemp("lake")
    with Lake.open(LakeConfig(folder / "lake.sqlite", folder / "data", threads=1)) as lake:
        yield lake


_NUMBERS = itertools.count()


@dataclass
class Scene:
    """Two tenants of a lake, which are this test's alone."""

    lake: Lake
    acme: str
    bolt: str

    def fill(self, *parts: tuple[Sequence[dict[str, Any]], Sequence[dict[str, Any]]]) -> None:
        """One commit, every event at an offset and with an id of its own; acme's where nothing else is said."""
        rows = [{"tenant": self.acme, **row} for part, _ in parts for row in part]
        nodes = [{"tenant": self.acme, **row} for _, part in parts for row in part]
        fill(
            self.lake,
            [{"offset": n, "id": f"gateway-{n}", **row} for n, row in enumerate(rows)],
            [{"offset": 100 + n, "id": f"node-{n}", **row} for n, row in enumerate(nodes)],
        )

    def selection(self, from_us: int = T0_US, to_us: int = MIDNIGHT, **filters: Any) -> Selection:
        return Selection(from_us, to_us, {"tenant": [self.acme, self.bolt], **filters})

    def report(self, freshness: Freshness = LONG_AGO) -> Reconciliation:
        return reconciliation(self.lake, self.selection(), TERMS, freshness)

    def listed(self, kind: str | None = None, limit: int = 100, **filters: Any) -> list[ReconciledRequest]:
        """The requests of all pages."""
        found: list[ReconciledRequest] = []
        after: RequestPlace | None = None
        while True:
            wanted = WantedRequests(self.selection(**filters), kind, after, limit)
            page = reconciled_requests(self.lake, wanted, TERMS, LONG_AGO)
            found += page.lines
            assert len(page.lines) <= limit
            if page.next is None:
                return found
            after = page.next


@pytest.fixture
def scene(shared: Lake) -> Scene:
    number = next(_NUMBERS)
    return Scene(shared, f"acme-{number}", f"bolt-{number}")


def kinds(report: Reconciliation) -> dict[str, int]:
    return {kind: tally.requests for kind, tally in report.total.kinds.items() if tally.requests}


def test_what_agrees_is_no_gap_however_it_came_about(scene: Scene) -> None:
    scene.fill(*SOUND.values(), (NO_NODE_NEEDED, []))
    report = scene.report()
    assert kinds(report) == {"matched": len(SOUND), "no_node_needed": 3}
    assert report.exceeded == {}
    assert scene.listed() == []
    assert [each.request_id for each in scene.listed("no_node_needed")] != []


@pytest.mark.parametrize("planted", [[kind] for kind in GAPS] + [list(GAPS)], ids=" ".join)
def test_planted_gaps_of_each_kind_are_found_and_no_other(scene: Scene, planted: list[str]) -> None:
    scene.fill(*SOUND.values(), (NO_NODE_NEEDED, []), *(GAPS[kind] for kind in planted))
    report = scene.report()
    assert kinds(report) == {"matched": len(SOUND), "no_node_needed": 3, **dict.fromkeys(planted, 1)}
    expected = {(kind, event["request_id"]) for kind in planted for side in GAPS[kind] for event in side}
    assert {(each.kind, each.request_id) for each in scene.listed()} == expected
    without = sum(kind in ("node_only", "refused_but_run") for kind in planted)
    assert report.total.device_us == without * 1_000_000
    assert report.exceeded == ({scene.acme: ("share", "device_s")} if len(planted) > 1 else {})


def test_a_request_whose_other_half_may_be_on_its_way_is_no_gap_yet(scene: Scene) -> None:
    scene.fill(*GAPS.values())
    soon = Freshness(NOON + HOUR_US, {0: 0})
    assert kinds(scene.report(soon)) == {"pending": 4}
    behind = Freshness(T0_US + 5 * DAY_US, {0: 10_000}, {0: NOON + HOUR_US})  # the clock is no sign: the meter is late
    assert kinds(scene.report(behind)) == {"pending": 4}
    later = Freshness(NOON + HOUR_US + 1, {0: 0})
    assert kinds(scene.report(later)) == dict.fromkeys(GAPS, 1)


def test_a_tenant_whose_nodes_are_silent_and_an_outside_provider_are_said_once_and_are_no_gaps(scene: Scene) -> None:
    silent = [gateway(f"silent {n}", tenant=scene.bolt) for n in range(3)]
    outside = [gateway(f"outside {n}", provider="borea", model="pro") for n in range(2)]
    scene.fill(SOUND["plain"], GAPS["gateway_only"], (silent, []), (outside, []))
    report = scene.report()
    assert {(line.tenant, line.provider): line.counted.kinds["no_node_events"].requests for line in report.lines} == {
        (scene.acme, "atlas"): 0,
        (scene.acme, "borea"): 2,
        (scene.bolt, "atlas"): 3,
    }
    assert report.total.gaps == 1


def test_nodes_that_tell_of_device_time_only_have_no_tokens_to_compare(scene: Scene) -> None:
    silent = [gateway("timed", tenant=scene.bolt)], [node("timed", tenant=scene.bolt, tokens=(0, 0))]
    scene.fill(silent, ([gateway("none")], [node("none", tokens=(0, 0))]), SOUND["plain"])
    by_tenant = {line.tenant: line.counted for line in scene.report().lines}
    assert by_tenant[scene.bolt].kinds["matched"].requests == 1
    assert by_tenant[scene.acme].kinds["tokens_differ"].requests == 1


def test_an_event_without_a_request_id_is_listed_by_its_place(scene: Scene) -> None:
    scene.fill(([gateway(None), gateway(None), gateway("named")], [node("named")]))
    assert kinds(scene.report()) == {"matched": 1, "no_request_id": 2}
    found = scene.listed("no_request_id", limit=1)
    assert {each.gateway.places for each in found} == {("0/0/0",), ("0/1/0",)}


def test_the_report_says_how_its_sums_lead_to_the_events_of_the_range(scene: Scene) -> None:
    scene.fill(SOUND["the node's clock is half an hour ahead, over midnight"], SOUND["plain"])
    told = reconciliation_json(scene.report())
    assert told["in_range"] == {"gateway_events": 2, "node_events": 1}
    assert told["across_edges"] == {"gateway_events": 0, "node_events": 1}
    assert told["kinds"]["matched"] == {"requests": 2, "gateway_events": 2, "node_events": 2}
    after = reconciliation(scene.lake, scene.selection(MIDNIGHT, MIDNIGHT + DAY_US), TERMS, LONG_AGO)
    assert (kinds(after), after.node_in_range) == ({}, 1)


def test_a_request_tells_what_either_side_says_and_where(scene: Scene) -> None:
    scene.fill(GAPS["tokens_differ"])
    wanted = WantedRequests(scene.selection(), "tokens_differ")
    [told] = reconciled_requests_json(reconciled_requests(scene.lake, wanted, TERMS, LONG_AGO))["requests"]
    assert told == {
        "time": "2026-11-01T12:00:00Z",
        "kind": "tokens_differ",
        "tenant": scene.acme,
        "request_id": "differs",
        "provider": "atlas",
        "model": "atlas-large",
        "gateway": {"events": 1, "input_tokens": 10, "output_tokens": 5, "places": ["0/0/0"], "statuses": ["ok"]},
        "node": {
            "events": 1,
            "input_tokens": 10,
            "output_tokens": 4,
            "places": ["0/100/0"],
            "nodes": ["node-1"],
            "device_us": 1_000_000,
        },
    }


@pytest.mark.parametrize("limit", [3, 100])
def test_pages_together_are_all_requests_of_the_counts_oldest_first(scene: Scene, limit: int) -> None:
    lone = [
        gateway(f"lone {n}", time=NOON + n // 3 * SECOND_US, tenant=(scene.acme, scene.bolt)[n % 2]) for n in range(10)
    ]
    scene.fill((lone, [node("another", tenant=scene.bolt)]), *GAPS.values())
    found = scene.listed(limit=limit)
    assert [each.place for each in found] == sorted(each.place for each in found)
    assert Counter(each.kind for each in found) == kinds(scene.report())
    assert len({(each.tenant, each.request_id) for each in found}) == len(found)
    of_bolt = scene.listed(limit=limit, tenant=[scene.bolt])
    assert of_bolt == [each for each in found if each.tenant == scene.bolt]


def test_who_sees_a_tenant_whole_sees_its_requests_and_who_sees_an_application_none(scene: Scene) -> None:
    of_bolt = [gateway("b", tenant=scene.bolt)], [node("c", tenant=scene.bolt)]
    scene.fill(SOUND["plain"], of_bolt)

    def seen(view: View) -> set[str]:
        report = reconciliation(SeenBooks(scene.lake, view.only_whole()), scene.selection(), TERMS, LONG_AGO)
        return {line.tenant for line in report.lines}

    assert seen(EVERYTHING) == {scene.acme, scene.bolt}
    assert seen(View((Grant(scene.bolt), Grant(scene.acme, "assistant")))) == {scene.bolt}
    assert seen(View((Grant(scene.acme, "assistant"),))) == set()


def test_an_empty_range_a_foreign_filter_and_an_unknown_kind_are_refused(scene: Scene) -> None:
    with pytest.raises(ReportError, match="the range is empty"):
        reconciliation(scene.lake, Selection(MIDNIGHT, MIDNIGHT), TERMS, LONG_AGO)
    with pytest.raises(ReportError, match="no filter 'application' here, since nodes do not know it: use any of"):
        reconciliation(scene.lake, scene.selection(application=["assistant"]), TERMS, LONG_AGO)
    with pytest.raises(ReportError, match=f"no kind 'lost' of requests: use one of {', '.join(KINDS)}"):
        reconciled_requests(scene.lake, WantedRequests(scene.selection(), "lost"), TERMS, LONG_AGO)
