"""The chargeback report against sums worked out row by row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meterhouse.streams.control import EMPTY, Snapshot
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.reports.chargeback import chargeback, default_range
from meterhouse.warehouse.reports.errors import BooksError, ReportError
from meterhouse.warehouse.reports.groups import GROUPS, Selection
from meterhouse.warehouse.reports.query import DAY_US, Piece, pieces
from meterhouse.warehouse.reports.to_json import to_json
from tests.builders import HOUR_US, MINUTE_US, T0_US
from tests.warehouse.filled import KINDS, PICO, SNAPSHOT, fill, kind_cost, microseconds

SECOND_US = 1_000_000
STATUSES = ("ok", "aborted", "error", "throttled", "blocked")
ROWS = [
    {
        "tenant": ("acme", "bolt", "cork", "stranger")[i % 4],
        "model": ("atlas-large", "atlas-small", "unpriced-model")[i % 7 % 3],
        "application": ("assistant", "search")[i % 5 % 2],
        "environment": (None, "prod")[i % 11 % 2],
        "operation": "chat",
        "status": STATUSES[i % 13 % 5],
        "time": T0_US - DAY_US + i * 1_234_567_891 % (3 * DAY_US),
        "partition": i % 2,
        "input_tokens": i * 37 % 1000,
        "cache_read_tokens": i * 11 % 64,
        "cache_write_tokens": i % 3,
        "output_tokens": i * 7 % 500,
        "reasoning_tokens": i % 2,
    }
    for i in range(400)
]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    folder = tmp_path_factory.mktemp("lake")
    with Lake.open(LakeConfig(folder / "lake.sqlite", folder / "data", threads=1)) as lake:
        yield lake


@pytest.fixture(scope="module")
def charges(lake: Lake) -> list[dict[str, Any]]:
    return fill(lake, ROWS)


WHOLE = Selection(T0_US - 2 * DAY_US, T0_US + 3 * DAY_US)


def group_value(row: dict[str, Any], name: str) -> str | None:
    tenant = next((t for t in SNAPSHOT.tenants if t.id == row["tenant"]), None)
    moment = datetime.fromtimestamp(microseconds(row) // SECOND_US, UTC)
    match name:
        case "org_unit":
            return "/".join(tenant.org) or None if tenant else None
        case "cost_center":
            return tenant.cost_center if tenant else None
        case "day":
            return f"{moment:%Y-%m-%d}"
        case "hour":
            return f"{moment:%Y-%m-%dT%H}:00:00Z"
        case "month":
            return f"{moment:%Y-%m}"
        case _:
            value = row[name]
            return None if value is None else str(value)


def expected(rows: Sequence[dict[str, Any]], group_by: Sequence[str]) -> list[dict[str, Any]]:
    groups: dict[tuple[str | None, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[tuple(group_value(row, name) for name in group_by)].append(row)
    ordered = sorted(groups, key=lambda key: [(value is not None, value or "") for value in key])
    return [{**dict(zip(group_by, key, strict=True)), **figures(groups[key])} for key in ordered]


def figures(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    billed = [row for row in rows if row["disposition"] == "billed"]
    return {
        "requests": len(rows),
        "billed_requests": len(billed),
        "unpriced_requests": sum(row["disposition"] == "unpriced" for row in rows),
        "tokens": {kind: sum(row[f"{kind}_tokens"] for row in billed) for kind in KINDS},
        "cost": f"{sum(row['cost_pico'] for row in billed) * PICO:.12f}",
    }


@pytest.mark.parametrize(
    "group_by",
    [
        (),
        *((name,) for name in GROUPS if name != "kind"),
        ("tenant", "model"),
        ("month", "cost_center", "application"),
        ("environment", "hour", "org_unit"),
    ],
)
def test_lines_and_total_are_the_sums_of_the_charges_under_any_grouping(
    lake: Lake, charges: list[dict[str, Any]], group_by: tuple[str, ...]
) -> None:
    report = to_json(chargeback(lake, SNAPSHOT, WHOLE, group_by))
    assert report["lines"] == (expected(charges, group_by) if group_by else [])
    assert report["total"] == figures(charges)
    assert (report["currency"], report["group_by"]) == ("USD", list(group_by))
    assert (report["from"], report["to"]) == ("2026-10-30T00:00:00Z", "2026-11-04T00:00:00Z")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(T0_US - DAY_US, T0_US + 2 * DAY_US),
    st.one_of(st.integers(1, 3 * MINUTE_US), st.integers(1, 3 * HOUR_US), st.integers(1, 3 * DAY_US)),
    st.sampled_from([("tenant", "model"), ("kind",), ("day", "tenant")]),
)
def test_any_range_cuts_at_its_microsecond(
    lake: Lake, charges: list[dict[str, Any]], from_us: int, length_us: int, group_by: tuple[str, ...]
) -> None:
    inside = [row for row in charges if from_us <= microseconds(row) < from_us + length_us]
    report = to_json(chargeback(lake, SNAPSHOT, Selection(from_us, from_us + length_us), group_by))
    assert report["total"] == figures(inside)
    if group_by != ("kind",):
        assert report["lines"] == expected(inside, group_by)


def test_a_range_ends_before_the_event_at_its_end_and_starts_with_the_one_at_its_start(
    lake: Lake, charges: list[dict[str, Any]]
) -> None:
    moment = microseconds(charges[17])
    for selection, count in [
        (Selection(moment, moment + 1), 1),
        (Selection(moment - 1, moment), 0),
        (Selection(moment, moment + 59 * SECOND_US), 1),
    ]:
        assert chargeback(lake, SNAPSHOT, selection).total.requests == count


def test_kinds_have_a_line_each_with_their_own_tokens_and_cost(lake: Lake, charges: list[dict[str, Any]]) -> None:
    # The range begins and ends within a minute, so that prices are looked up for charges too.
    selection = Selection(microseconds(charges[3]), microseconds(charges[170]) + 1)
    if selection.from_us > selection.to_us:
        selection = Selection(microseconds(charges[170]), microseconds(charges[3]) + 1)
    inside = [row for row in charges if selection.from_us <= microseconds(row) < selection.to_us]
    billed = [row for row in inside if row["disposition"] == "billed"]
    report = to_json(chargeback(lake, SNAPSHOT, selection, ("kind",)))
    assert report["lines"] == [
        {
            "kind": kind,
            "requests": len(inside),
            "billed_requests": len(billed),
            "unpriced_requests": sum(row["disposition"] == "unpriced" for row in inside),
            "tokens": {kind: sum(row[f"{kind}_tokens"] for row in billed)},
            "cost": f"{sum(kind_cost(row, kind) for row in billed) * PICO:.12f}",
        }
        for kind in sorted(KINDS)
    ]
    assert sum(Decimal(line["cost"]) for line in report["lines"]) == Decimal(report["total"]["cost"])


def test_kinds_combine_with_other_groups(lake: Lake, charges: list[dict[str, Any]]) -> None:
    report = chargeback(lake, SNAPSHOT, WHOLE, ("kind", "tenant"))
    billed = [row for row in charges if row["disposition"] == "billed"]
    assert {(line.groups["kind"], line.groups["tenant"]): line.figures.cost for line in report.lines} == {
        (kind, tenant): sum(kind_cost(row, kind) for row in billed if row["tenant"] == tenant) * PICO
        for kind in KINDS
        for tenant in ("acme", "bolt", "cork", "stranger")
    }


def test_a_kind_of_an_unknown_card_is_refused_rather_than_given_away(lake: Lake, charges: list[dict[str, Any]]) -> None:
    billed = next(row for row in charges if row["disposition"] == "billed" and row["cost_pico"])
    without_cards = Snapshot(version=3, currency="USD", tenants=SNAPSHOT.tenants)
    moment = microseconds(billed)
    with pytest.raises(BooksError, match="meterhouse verify"):
        chargeback(lake, without_cards, Selection(moment, moment + 1), ("kind",))


@pytest.mark.parametrize(
    ("filters", "keep"),
    [
        ({"tenant": ["acme", "bolt"]}, lambda row: row["tenant"] in ("acme", "bolt")),
        ({"environment": [None]}, lambda row: row["environment"] is None),
        ({"environment": [None, "prod"], "model": ["atlas-small"]}, lambda row: row["model"] == "atlas-small"),
        ({"org_unit": ["group"]}, lambda row: row["tenant"] in ("acme", "bolt")),
        ({"org_unit": ["group/consumer"]}, lambda row: row["tenant"] == "acme"),
        ({"cost_center": ["CC-1"]}, lambda row: row["tenant"] in ("acme", "cork")),
        ({"cost_center": ["CC-1"], "tenant": ["acme", "bolt"]}, lambda row: row["tenant"] == "acme"),
        ({"tenant": ["nobody'; DROP TABLE charges; --"]}, lambda row: False),
    ],
)
def test_filters_keep_what_matches_all_of_them(
    lake: Lake, charges: list[dict[str, Any]], filters: dict[str, list[str | None]], keep: Any
) -> None:
    report = to_json(chargeback(lake, SNAPSHOT, Selection(WHOLE.from_us, WHOLE.to_us, filters), ("tenant",)))
    inside = [row for row in charges if keep(row)]
    assert report["lines"] == expected(inside, ("tenant",))
    assert report["total"] == figures(inside)


def test_an_unknown_group_is_told_the_known_ones(lake: Lake) -> None:
    with pytest.raises(ReportError, match="no group 'team': use any of tenant, org_unit, cost_center, application"):
        chargeback(lake, SNAPSHOT, WHOLE, ("tenant", "team"))
    with pytest.raises(ReportError, match="given twice"):
        chargeback(lake, SNAPSHOT, WHOLE, ("tenant", "tenant"))
    with pytest.raises(ReportError, match="no filter 'kind': use any of tenant"):
        chargeback(lake, SNAPSHOT, Selection(0, 1, {"kind": ["input"]}))


def test_an_empty_range_is_refused(lake: Lake) -> None:
    with pytest.raises(ReportError, match=r"2026-11-01T00:00:00\+00:00 must come before"):
        chargeback(lake, SNAPSHOT, Selection(T0_US, T0_US))


def test_a_lake_without_events_reports_zero(tmp_path: Path) -> None:
    with Lake.open(LakeConfig(tmp_path / "lake.sqlite", tmp_path / "data")) as empty:
        report = to_json(chargeback(empty, EMPTY, WHOLE, ("tenant", "kind", "org_unit")))
    assert report["lines"] == []
    assert report["total"] == figures([])
    assert report["as_of"]["watermark"] is None
    assert report["as_of"]["offsets"] == {}


def test_the_default_range_is_the_month_of_utc() -> None:
    november = (T0_US, T0_US + 30 * DAY_US)
    assert default_range(T0_US) == november
    assert default_range(T0_US + 30 * DAY_US - 1) == november
    assert default_range(T0_US - 1) == (T0_US - 31 * DAY_US, T0_US)


@given(st.integers(T0_US, T0_US + 3 * DAY_US), st.integers(0, 4 * DAY_US))
def test_pieces_touch_cover_the_range_and_start_and_end_on_their_steps(from_us: int, length_us: int) -> None:
    cut = pieces(from_us, from_us + length_us)
    step = {"rollup_day": DAY_US, "rollup_hour": HOUR_US, "rollup_minute": MINUTE_US, "charges": 1}
    edges = [from_us, *(piece.to_us for piece in cut)]
    assert [piece.from_us for piece in cut] == edges[:-1]
    assert edges[-1] == from_us + length_us
    assert all(p.from_us < p.to_us and not p.from_us % step[p.table] and not p.to_us % step[p.table] for p in cut)
    charged = sum(piece.to_us - piece.from_us for piece in cut if piece.table == "charges")
    assert charged < 2 * MINUTE_US


def test_a_month_is_read_from_days_alone() -> None:
    assert pieces(T0_US, T0_US + 30 * DAY_US) == [Piece("rollup_day", T0_US, T0_US + 30 * DAY_US)]
