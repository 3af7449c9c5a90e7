"""Org units and cost centers of the time: reports against sums over charges, row by row, where tenants moved."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meterhouse.streams.control import EVER_US, Place, Snapshot, Tenant
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.reports import places
from meterhouse.warehouse.reports.chargeback import chargeback
from meterhouse.warehouse.reports.errors import ReportError
from meterhouse.warehouse.reports.groups import Selection, charges_where
from meterhouse.warehouse.reports.query import DAY_US, Query
from meterhouse.warehouse.reports.usage import usage
from tests.builders import HOUR_US, MINUTE_US, T0_US
from tests.warehouse.filled import SNAPSHOT, fill, microseconds

SECOND_US = 1_000_000
ROWS = [
    {
        "tenant": ("acme", "bolt", "cork", "stranger")[i % 4],
        "model": ("atlas-large", "atlas-small")[i % 7 % 2],
        "status": ("ok", "ok", "error", "aborted")[i % 13 % 4],
        "time": T0_US - DAY_US + i * 1_234_567_891 % (3 * DAY_US),
        "input_tokens": i * 37 % 1000,
        "output_tokens": i * 7 % 500,
    }
    for i in range(300)
]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    folder = tmp_path_factory.mktemp("lake")
    with Lake.open(LakeConfig(folder / "lake.sqlite", folder / "data", threads=1)) as lake:
        yield lake


@pytest.fixture(scope="module")
def charges(lake: Lake) -> list[dict[str, Any]]:
    return fill(lake, ROWS)


def moved(*later: Place) -> Snapshot:
    """SNAPSHOT after these moves, which are in order of tenant and time."""
    first = [Place(t.id, EVER_US, t.org, t.cost_center) for t in SNAPSHOT.tenants]
    movers = {place.tenant for place in later}
    last = {place.tenant: place for place in later}
    return replace(
        SNAPSHOT,
        tenants=tuple(
            Tenant(t.id, t.name, last[t.id].org, last[t.id].cost_center) if t.id in movers else t
            for t in SNAPSHOT.tenants
        ),
        places=tuple(
            sorted(
                [place for place in first if place.tenant in movers] + list(later), key=lambda p: (p.tenant, p.from_us)
            )
        ),
    )


def stood(snapshot: Snapshot, row: dict[str, Any]) -> Place | None:
    """Where the row's tenant stood at its time, looked up place by place."""
    found = None
    for place in snapshot.places_by_tenant().get(row["tenant"], ()):
        if place.from_us <= microseconds(row):
            found = place
    return found


def value(snapshot: Snapshot, row: dict[str, Any], name: str) -> str | None:
    place = stood(snapshot, row)
    if name == "org_unit":
        return "/".join(place.org) or None if place else None
    if name == "cost_center":
        return place.cost_center if place else None
    return str(row[name])


def lines(snapshot: Snapshot, rows: Sequence[dict[str, Any]], group_by: Sequence[str]) -> dict[Any, tuple[int, int]]:
    """Requests and pico-units by group."""
    sums: dict[Any, list[int]] = defaultdict(lambda: [0, 0])
    for row in rows:
        key = tuple(value(snapshot, row, name) for name in group_by)
        sums[key][0] += 1
        sums[key][1] += row["cost_pico"] or 0
    return {key: (requests, pico) for key, (requests, pico) in sums.items()}


def reported(
    lake: Lake, snapshot: Snapshot, selection: Selection, group_by: Sequence[str]
) -> dict[Any, tuple[int, int]]:
    report = chargeback(lake, snapshot, selection, group_by)
    return {
        tuple(line.groups[name] for name in group_by): (line.figures.requests, int(line.figures.cost.scaleb(12)))
        for line in report.lines
    }


TIMES = st.one_of(
    st.integers(T0_US - DAY_US, T0_US + 2 * DAY_US),
    st.integers(-24, 48).map(lambda hours: T0_US + hours * HOUR_US),
    st.integers(-1440, 2880).map(lambda minutes: T0_US + minutes * MINUTE_US),
    # At an event, and just beside it.
    st.tuples(st.integers(0, 299), st.integers(-1, 1)).map(lambda at: int(ROWS[at[0]]["time"]) + at[1]),
)
MOVES = st.lists(
    st.builds(
        Place,
        st.sampled_from(["acme", "bolt", "cork"]),
        TIMES,
        st.sampled_from([(), ("group",), ("group", "consumer"), ("lab",)]),
        st.sampled_from([None, "CC-1", "CC-2"]),
    ),
    max_size=8,
    unique_by=lambda place: (place.tenant, place.from_us),
).map(lambda moves: moved(*sorted(moves, key=lambda place: (place.tenant, place.from_us))))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(MOVES, TIMES, TIMES, st.sampled_from([("org_unit",), ("cost_center", "tenant"), ("org_unit", "model")]))
def test_what_was_spent_is_charged_where_the_tenant_stood_at_that_microsecond(
    lake: Lake, charges: list[dict[str, Any]], snapshot: Snapshot, one_us: int, other_us: int, group_by: tuple[str, ...]
) -> None:
    selection = Selection(min(one_us, other_us), max(one_us, other_us) + 1)
    inside = [row for row in charges if selection.from_us <= microseconds(row) < selection.to_us]
    assert reported(lake, snapshot, selection, group_by) == lines(snapshot, inside, group_by)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    MOVES,
    st.sampled_from(
        [
            {"org_unit": ["group"]},
            {"org_unit": [None, "lab"]},
            {"cost_center": ["CC-1"], "tenant": ["acme", "bolt"]},
            {"org_unit": ["group/consumer"], "cost_center": [None, "CC-2"]},
        ]
    ),
    st.sampled_from([(), ("tenant",), ("org_unit", "cost_center")]),
)
def test_filters_keep_what_was_spent_in_a_place(
    lake: Lake,
    charges: list[dict[str, Any]],
    snapshot: Snapshot,
    filters: dict[str, list[str | None]],
    group_by: tuple[str, ...],
) -> None:
    def kept(row: dict[str, Any]) -> bool:
        place = stood(snapshot, row)
        if place is None:
            return False
        units = {None} if not place.org else {*place.org, "/".join(place.org[:2])}
        return (
            bool(units & set(filters.get("org_unit", units)))
            and place.cost_center in filters.get("cost_center", [place.cost_center])
            and row["tenant"] in filters.get("tenant", [row["tenant"]])
        )

    selection = Selection(T0_US - DAY_US, T0_US + 2 * DAY_US, filters)
    inside = [row for row in charges if kept(row)]
    report = chargeback(lake, snapshot, selection)
    assert (report.total.requests, int(report.total.cost.scaleb(12))) == lines(snapshot, inside, ()).get((), (0, 0))
    behind = charges_where(selection, snapshot)
    with lake.read() as cursor:
        [(count,)] = Query(f"SELECT count(*) FROM charges WHERE {behind.sql}", behind.params).rows(cursor)
    assert count == len(inside)
    if group_by:
        assert reported(lake, snapshot, selection, group_by) == lines(snapshot, inside, group_by)


def test_usage_and_kinds_follow_the_moves_too(lake: Lake, charges: list[dict[str, Any]]) -> None:
    at_us = microseconds(next(row for row in charges if row["tenant"] == "acme" and row["cost_pico"]))
    snapshot = moved(Place("acme", at_us + 1, ("lab",), "CC-9"))
    whole = Selection(T0_US - DAY_US, T0_US + 2 * DAY_US)
    counted: dict[str | None, int] = defaultdict(int)
    for line in usage(lake, snapshot, whole, ("cost_center",), "hour").lines:
        counted[line.groups["cost_center"]] += line.figures.requests
    expected = lines(snapshot, charges, ("cost_center",))
    assert counted == {key: requests for (key,), (requests, _) in expected.items()}
    costs: dict[str | None, int] = defaultdict(int)
    for charged in chargeback(lake, snapshot, whole, ("cost_center", "kind")).lines:
        costs[charged.groups["cost_center"]] += int(charged.figures.cost.scaleb(12))
    assert costs == {key: pico for (key,), (_, pico) in expected.items()}


def test_the_reads_stay_few_however_many_moves_there_are(lake: Lake, charges: list[dict[str, Any]]) -> None:
    moves = [
        Place(tenant, T0_US - DAY_US + n * 37 * MINUTE_US + 1, ("lab",) if n % 2 else (), str(n % 3))
        for tenant in ("acme", "bolt")
        for n in range(100)
    ]
    snapshot, whole = moved(*moves), Selection(T0_US - DAY_US, T0_US + 2 * DAY_US)
    stays = [s for s in places.stays_of(snapshot, whole.from_us, whole.to_us) if s.number != places.SETTLED]
    assert (
        len(places.cut_at_moves([], "rollup_day", stays, frozenset({"acme", "bolt"})))
        <= places.MAX_CHARGE_RUNS + 3 * places.MAX_ROLLUP_RUNS
    )
    assert reported(lake, snapshot, whole, ("cost_center",)) == lines(snapshot, charges, ("cost_center",))


def test_more_moves_than_a_report_takes_are_refused(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "MAX_STAYS", 1)
    snapshot = moved(Place("acme", T0_US, (), "CC-9"))
    with pytest.raises(ReportError, match="a filter of tenants"):
        chargeback(lake, snapshot, Selection(T0_US - 1, T0_US + 1), ("org_unit",))
    assert chargeback(lake, snapshot, Selection(T0_US - 1, T0_US + 1, {"tenant": ["bolt"]}), ("org_unit",))
