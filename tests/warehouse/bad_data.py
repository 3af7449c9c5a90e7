"""Bad data of each kind of check, and the rows that must be named; and the clean lake that it is planted in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Final

from meterhouse.streams.control import Budget, Objective, RateCard, Scope, Snapshot, WindowSpec
from meterhouse.warehouse.quality.checks import Suite
from meterhouse.warehouse.reports.as_of import Freshness
from tests.builders import DAY_US, HOUR_US, SECOND_US, T0_US
from tests.warehouse.filled import SNAPSHOT, card

NOW = T0_US + 20 * DAY_US + 12 * HOUR_US  # Saturday, 2026-11-21
BUSY: Final = 1_000
"""Requests of acme on a day: just enough for drift to be told."""
CONTROL = replace(
    SNAPSHOT, budgets=SNAPSHOT.budgets, objectives=(Objective("up", Scope(), "availability", None, Decimal("0.9"), 30),)
)


def clean_requests() -> list[dict[str, Any]]:
    """Acme's on Friday and on the Friday before; bolt's of today, an hour ago, one a minute."""
    busy = [
        {"time": at + n * 1_000, "arrived": at + n * 1_000, "input_tokens": 10, "duration_us": 5}
        for at in (T0_US + 12 * DAY_US, T0_US + 19 * DAY_US)
        for n in range(BUSY)
    ]
    today = [
        {
            "time": NOW - HOUR_US + n * 60 * SECOND_US,
            "arrived": NOW - HOUR_US + n * 60 * SECOND_US,
            "tenant": "bolt",
            "model": "atlas-small",
            "output_tokens": 7,
            "duration_us": 2_000,
            "time_to_first_token_us": 1_000,
            "http_status": 200,
        }
        for n in range(6)
    ]
    return [*busy, *today]


REQUESTS: Final = 2 * BUSY + 6


@dataclass(frozen=True)
class Planted:
    """Bad data, and what must be said of it: by check, the row that is named. `besides`: checks that it fails too."""

    fails: dict[str, str] = field(default_factory=dict)
    lake: Sequence[str] = ()
    control: Snapshot = CONTROL
    versions: Sequence[tuple[int, int]] = ((3, 0),)
    freshness: Freshness | None = None
    besides: frozenset[str] = frozenset()


TODAY = "day 2026-11-21, partition 0, tenant bolt, model atlas/atlas-small"
MINUTES = f"table rollup_minute, {TODAY}"


def bolt(number: int, changes: str, table: str = "charges") -> str:
    return f'UPDATE {table} SET {changes} WHERE "offset" = {2 * BUSY + number}'


EVENTS_RANGE = Planted(
    {
        "tokens-low": f"{TODAY}: fewest_tokens -5",
        "tokens-high": f"{TODAY}: most_tokens 20000007",
        "durations-low": f"{TODAY}: shortest_us -1",
        "durations-high": f"{TODAY}: longest_us 86400000001",
        "first-token": f"{TODAY}: first_token_after_end 1",
        "http-low": f"{TODAY}: least_http 99",
        "http-high": f"{TODAY}: most_http 600",
        "cost-low": f"{TODAY}: least_cost_pico -1",
        "cost-high": f"{TODAY}: most_cost_pico 10000000000000002",
        "not-early": f"{TODAY}: too_early_s 1",
        "not-late": "day 2026-10-17, partition 0, tenant bolt, model atlas/atlas-small: too_late_s 1",
    },
    [
        bolt(0, "input_tokens = -5, http_status = 99"),
        bolt(1, "input_tokens = 20_000_000, duration_us = 86_400_000_001, http_status = 600"),
        bolt(2, "time_to_first_token_us = 2_001, cost_pico = -1"),
        bolt(3, "queue_us = -1, cost_pico = 10_000_000_000_000_002"),
        bolt(4, "time = arrived + INTERVAL 3601 SECONDS"),
        bolt(5, "time = arrived - INTERVAL 35 DAYS - INTERVAL 1 SECOND"),
    ],
)
EVENTS_SET = Planted(
    {
        "status": "tenant bolt, day 2026-11-21: status cancelled",
        "disposition": "tenant bolt, day 2026-11-21: disposition gratis",
        "status-disposition": "tenant bolt, day 2026-11-21: status blocked, disposition billed",
    },
    [bolt(0, "status = 'cancelled'"), bolt(1, "disposition = 'gratis'"), bolt(2, "status = 'blocked'")],
    besides=frozenset({"ledger-rows"}),  # `gratis` is nothing that a position counts
)
EVENTS_FRESHNESS = Planted(
    {"watermark": "partition 1: waiting_s 901"},
    freshness=Freshness(NOW, {0: REQUESTS + 1, 1: 3}, {0: NOW - 900 * SECOND_US, 1: NOW - 901 * SECOND_US}),
)
EVENTS_COMPLETENESS = Planted(
    {
        "ledger-read": f"partition 0: read {REQUESTS + 1}, became {REQUESTS}",
        "ledger-rows": f"partition 0, what billed: counted {REQUESTS}, stored {REQUESTS - 1}",
    },
    ['DELETE FROM charges WHERE "offset" = 3', "UPDATE position_0 SET read = read + 1"],
)
EVENTS_DRIFT = Planted(
    {"rejects-drift": "day 2026-11-20, tenant acme: grew_permille 51"},
    [
        f"""INSERT INTO rejects SELECT 'usage.events', 0, 10_000 + i, 0, make_timestamptz({T0_US + 19 * DAY_US}),
            'missing_field', 'data.model is missing', 'acme', '{{}}'::BLOB FROM range(54) AS numbers(i)""",
        "UPDATE position_0 SET read = read + 54, rejected = rejected + 54",
    ],
)

OF_BOLT = "WHERE tenant = 'bolt'"
ROLLUPS_RANGE = Planted(
    {
        "requests-low": f"table rollup_day, {TODAY}: least_requests -1",
        "tokens-low": f"table rollup_day, {TODAY}: least_tokens -1",
        "cost-low": f"table rollup_day, {TODAY}: least_cost -1",
        "steps": f"{MINUTES}: off_step 6",
    },
    [
        f"UPDATE rollup_day SET requests = -1, input_tokens = -1, output_cost = -0.1 {OF_BOLT}",
        f"UPDATE rollup_minute SET time = time + INTERVAL 1 SECOND {OF_BOLT}",
    ],
    besides=frozenset({"requests", "tokens", "cost"}),
)
ROLLUPS_SET = Planted(
    {
        "status": "table rollup_hour, day 2026-11-21, tenant bolt: status cancelled",
        "status-disposition": "table rollup_minute, day 2026-11-21, tenant bolt: status ok, disposition unbilled",
    },
    [
        f"UPDATE rollup_hour SET status = 'cancelled' {OF_BOLT}",
        f"UPDATE rollup_minute SET disposition = 'unbilled' {OF_BOLT}",
    ],
)
ROLLUPS_FRESHNESS = Planted(
    {"newest": "table rollup_minute, partition 0: steps_behind 3"},
    [f"DELETE FROM rollup_minute WHERE time >= make_timestamptz({NOW - 57 * 60 * SECOND_US})"],
    besides=frozenset({"requests", "tokens", "cost"}),
)
ROLLUPS_COMPLETENESS = Planted(
    {
        "requests": f"table rollup_day, {TODAY}: requests 7, charged_requests 6",
        "tokens": f"table rollup_hour, {TODAY}: tokens 43, charged_tokens 42",
        "cost": f"{MINUTES}: cost 0.000000000295, charged_cost 0.000000000294",
    },
    [
        f"UPDATE rollup_day SET requests = requests + 1 {OF_BOLT}",
        f"UPDATE rollup_hour SET output_tokens = output_tokens + 1 {OF_BOLT}",
        f"""UPDATE rollup_minute SET output_cost = output_cost + 0.000000000001
            {OF_BOLT} AND time = make_timestamptz({NOW - HOUR_US})""",
    ],
)
ROLLUPS_DRIFT = Planted(
    {
        "requests-drift": "day 2026-11-20, tenant acme: requests_percent 301",
        "cost-drift": "day 2026-11-20, tenant acme: cost_percent 400",
        "tokens-drift": "day 2026-11-20, tenant acme: tokens_a_request_percent 201",
    },
    [
        f"""UPDATE rollup_day SET requests = 3_010, input_cost = input_cost * 4, input_tokens = 3_010 * 20 + 301
            WHERE time = make_timestamptz({T0_US + 19 * DAY_US})"""
    ],
    besides=frozenset({"requests", "tokens", "cost"}),
)


def more_cards(*cards: RateCard) -> Snapshot:
    return replace(CONTROL, rate_cards=(*CONTROL.rate_cards, *cards))


def since(number: int, from_us: int, to_us: int | None, model: str = "new", **pico: int) -> RateCard:
    return replace(card(number, model, **pico), valid_from_us=from_us, valid_to_us=to_us)


LIMITLESS = Budget("free", Scope(), WindowSpec("day", "UTC"), 0, None, (Decimal(0), Decimal(1_001)), "notify")
CONTROL_RANGE = Planted(
    {
        "prices": "card 8, model atlas/new, kind input: pico_per_token -1",
        "limits": "budget free: limit_units 0",
        "thresholds-low": "budget free: lowest_threshold 0",
        "thresholds-high": "budget free: highest_threshold 1001",
        "overlaps": "card 7, model atlas/new: overlap_s 1",
    },
    control=replace(
        more_cards(since(7, 0, NOW + 1, input=1), since(8, NOW, None, input=-1)),
        budgets=(*CONTROL.budgets, LIMITLESS),
    ),
    besides=frozenset({"price-drift"}),
)
CONTROL_SET = Planted(
    {
        "kinds": "card 9, model atlas/new, kind thoughts: kind thoughts",
        "scopes": "what budget, id nobody: names tenant ghost, which is not there",
        "tenants": "tenant bolt: in_control_data no",
        "cards": "card 3, model atlas/atlas-small, tenant bolt: in_control_data no",
    },
    control=replace(
        CONTROL,
        tenants=tuple(tenant for tenant in CONTROL.tenants if tenant.id != "bolt"),
        rate_cards=(*CONTROL.rate_cards[:2], replace(CONTROL.rate_cards[2], id=30), since(9, 0, None, thoughts=1)),
        budgets=(replace(CONTROL.budgets[0], id="nobody", scope=Scope(tenant="ghost")),),
    ),
)
CONTROL_FRESHNESS = Planted(
    {"versions-fresh": "partition 0: versions_behind 1"},
    control=replace(CONTROL, version=4),
    versions=((4, NOW - 2 * HOUR_US), (3, 0)),
)
CONTROL_COMPLETENESS = Planted(
    {
        "versions-known": "partition 0: versions_ahead 1",
        "gaps": "card 7, model atlas/new: gap_s 2",
        "unpriced": "model atlas/atlas-tiny, tenants bolt: unpriced 6",
    },
    [
        f"UPDATE {table} SET model = 'atlas-tiny', disposition = 'unpriced' {OF_BOLT}"
        for table in ("rollup_day", "rollup_hour")
    ],
    control=replace(more_cards(since(7, 0, NOW), since(8, NOW + 2 * SECOND_US, None)), version=2),
    versions=((2, 0),),
)
CONTROL_DRIFT = Planted(
    {"price-drift": "card 8, model atlas/new, kind input: percent 1001"},
    control=more_cards(since(7, 0, None, input=100), since(8, NOW, None, input=1_001)),
)

PLANTED: Final[dict[tuple[Suite, str], Planted]] = {
    ("events", "range"): EVENTS_RANGE,
    ("events", "set"): EVENTS_SET,
    ("events", "freshness"): EVENTS_FRESHNESS,
    ("events", "completeness"): EVENTS_COMPLETENESS,
    ("events", "drift"): EVENTS_DRIFT,
    ("rollups", "range"): ROLLUPS_RANGE,
    ("rollups", "set"): ROLLUPS_SET,
    ("rollups", "freshness"): ROLLUPS_FRESHNESS,
    ("rollups", "completeness"): ROLLUPS_COMPLETENESS,
    ("rollups", "drift"): ROLLUPS_DRIFT,
    ("control", "range"): CONTROL_RANGE,
    ("control", "set"): CONTROL_SET,
    ("control", "freshness"): CONTROL_FRESHNESS,
    ("control", "completeness"): CONTROL_COMPLETENESS,
    ("control", "drift"): CONTROL_DRIFT,
}
