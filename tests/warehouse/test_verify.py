"""Verify names the law and the rows of every difference that is planted in the lake by plain SQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from meterhouse.streams.budget import BudgetTotal, definition_of
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.reports.to_json import to_json
from meterhouse.warehouse.verify import Verification, verify
from meterhouse.warehouse.verify_sql import MAX_ROWS
from tests.builders import DAY_US, HOUR_US, T0_US
from tests.warehouse.filled import SNAPSHOT, charges_of, fill, microseconds, reject

ROWS = [
    {
        "id": f"request-{i}",
        "offset": i,
        "tenant": ("acme", "bolt", "cork")[i % 3],
        "application": ("assistant", "search")[i % 2],
        "environment": (None, "prod")[i % 2],
        "model": ("atlas-large", "atlas-small", "no-price")[i % 7 % 3],
        "status": ("ok", "ok", "error", "aborted", "throttled")[i % 5],
        "partition": i % 2,
        "time": T0_US + i * 11 * 60 * 1_000_000,
        "input_tokens": 100 + i,
        "cache_read_tokens": i % 3,
        "output_tokens": i,
        "duration_us": 1000 * i,
        "time_to_first_token_us": 100 * i if i % 4 else None,
    }
    for i in range(200)
]
NODES = [{"id": f"node-{i}", "node": "n1", "offset": 1000 + i} for i in range(3)]
REJECTS = [reject(2000), reject(2001, index=-1)]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    folder = tmp_path_factory.mktemp("lake")
    with Lake.open(LakeConfig(folder / "lake.sqlite", folder / "data", threads=1)) as lake:
        fill(lake, ROWS, NODES, REJECTS)
        yield lake


class Planted(Lake):
    """A lake that a test may spoil: all its changes stay in one transaction, which is rolled back in the end."""

    def __init__(self, lake: Lake) -> None:
        self._spoilt = lake.cursor()
        self._spoilt.execute("BEGIN TRANSACTION")

    @contextmanager
    def read(self) -> Iterator[duckdb.DuckDBPyConnection]:
        yield self._spoilt

    def plant(self, *statements: str) -> None:
        for statement in statements:
            changed = self._spoilt.execute(statement).fetchone()
            assert changed is not None
            assert changed[0] > 0, f"nothing planted by {statement}"

    def close(self) -> None:
        self._spoilt.execute("ROLLBACK")
        self._spoilt.close()


@pytest.fixture
def lake(filled: Lake) -> Iterator[Planted]:
    planted = Planted(filled)
    yield planted
    planted.close()


def broken(verification: Verification) -> dict[str, tuple[str, ...]]:
    """Name of each law that does not balance → the rows it names."""
    return {law.name: law.rows for law in verification.laws if not law.balanced}


def test_books_that_balance_say_so_law_by_law(lake: Planted) -> None:
    verification = verify(lake, SNAPSHOT)
    assert broken(verification) == {}
    assert verification.balanced
    sides = {law.name: (law.left, law.right, law.difference) for law in verification.laws}
    assert sides["events read = what became of them: events"] == (205, 205, 0)
    assert sides["charges = rollup_minute: requests"] == (200, 200, 0)
    cost = sides["charges = chargeback lines: cost"]
    assert cost[0] == cost[1] > 0 == cost[2]
    assert sorted({law.law for law in verification.laws}) == [1, 2, 3, 4]


def test_an_empty_lake_balances(tmp_path: Path) -> None:
    with Lake.open(LakeConfig(tmp_path / "lake.sqlite", tmp_path / "data", threads=1)) as empty:
        assert verify(empty, SNAPSHOT).balanced


PLACE = "partition 0, offset 6, index 0"
CHARGE = '"partition" = 0 AND "offset" = 6'
ROLLED = "tenant = 'acme' AND model = 'no-price'"  # one key at most per minute
ROWS_LAW = "counts of the positions = rows of charges, node_events, rejects: rows"


def rolled_up(finer: str, coarser: str, *quantities: str) -> set[str]:
    return {f"{finer} = {coarser}: {quantity}" for quantity in quantities}


def in_charges(*quantities: str) -> set[str]:
    """Laws between charges and what is made of them."""
    lines = {"requests": "requests, billed and unpriced"}
    reported = {f"charges = chargeback lines: {lines.get(q, q)}" for q in quantities if q != "cost by kind"}
    return rolled_up("charges", "rollup_minute", *quantities) | reported


ALL = ("requests", "tokens", "cost", "cost by kind")
PRICED = "cost of each charge = tokens × price of its card: cost"
FITS = "a charge's card is one of its model and tenant: rows that break it"
FOLLOWS = "disposition, cost and card follow the status: rows that break it"
PARTS = "token kinds are parts of inclusive counts: rows that break it"
KEYS = "no key twice within the dedupe window: rows that break it"
PLACES = "no place in the log twice: rows that break it"
BEYOND = "no row beyond its partition's position: rows that break it"
LATENCY = "charges = latency_hour: requests"
READ = "events read = what became of them: events"


@pytest.mark.parametrize(
    ("statement", "laws", "named"),
    [
        pytest.param(
            f"DELETE FROM charges WHERE {CHARGE}",
            {ROWS_LAW, LATENCY, *in_charges(*ALL)},
            {ROWS_LAW: "partition 0, what billed: "},
            id="a deleted charge",
        ),
        pytest.param(
            f"INSERT INTO charges SELECT * FROM charges WHERE {CHARGE}",
            {ROWS_LAW, LATENCY, KEYS, PLACES, *in_charges(*ALL)},
            {KEYS: f"charges {PLACE} and charges {PLACE}", PLACES: f"charges {PLACE} (2 rows)"},
            id="a charge twice",
        ),
        pytest.param(
            f"UPDATE charges SET cost_pico = cost_pico + 1 WHERE {CHARGE}",
            {PRICED, *in_charges("cost")},
            {PRICED: f"{PLACE}, card 1: ", "charges = rollup_minute: cost": "partition 0, time 2026-11-01T01:06:00Z"},
            id="a changed cost",
        ),
        pytest.param(
            f"UPDATE charges SET input_tokens = input_tokens + 1, output_tokens = output_tokens - 1 WHERE {CHARGE}",
            {PRICED, *in_charges("tokens"), "charges = rollup_minute: cost by kind"},
            {PRICED: PLACE},
            id="tokens moved from one kind to another",
        ),
        pytest.param(
            f"UPDATE charges SET card = 99 WHERE {CHARGE}",
            {PRICED, FITS, "charges = rollup_minute: cost by kind"},
            {FITS: f"charges {PLACE}: card 99", PRICED: PLACE},
            id="an unknown card",
        ),
        pytest.param(
            f"UPDATE charges SET card = 2 WHERE {CHARGE}",
            {PRICED, FITS, "charges = rollup_minute: cost by kind"},
            {FITS: f"charges {PLACE}: card 2"},
            id="another tenant's card",
        ),
        pytest.param(
            f"UPDATE charges SET status = 'error' WHERE {CHARGE}",
            {FOLLOWS, *rolled_up("charges", "rollup_minute", *ALL)},
            {FOLLOWS: f"charges {PLACE}: error is billed"},
            id="a billed error",
        ),
        pytest.param(
            f"UPDATE charges SET tenant = 'bolt' WHERE {CHARGE}",
            {FITS, LATENCY, *in_charges(*ALL)} - {FITS},
            {"charges = chargeback lines: cost": "day 2026-11-01T00:00:00Z, tenant acme, application assistant"},
            id="a charge moved to another tenant",
        ),
        pytest.param(
            f"UPDATE charges SET duration_us = duration_us * 3 WHERE {CHARGE}",
            {LATENCY},
            {LATENCY: "metric duration"},
            id="a changed duration",
        ),
        pytest.param(
            f'UPDATE charges SET "offset" = 5000 WHERE {CHARGE}',
            {BEYOND},
            {BEYOND: "charges partition 0, offset 5000, index 0: the position is 2002"},
            id="a charge beyond the position",
        ),
        pytest.param(
            'UPDATE charges SET "offset" = 8 WHERE "partition" = 0 AND "offset" = 6',
            {PLACES},
            {PLACES: "charges partition 0, offset 8, index 0 (2 rows)"},
            id="two charges at one place",
        ),
        pytest.param(
            'UPDATE charges SET "key" = (SELECT "key" FROM charges WHERE "partition" = 0 AND "offset" = 8)'
            f" WHERE {CHARGE}",
            {KEYS},
            {KEYS: "charges partition 0, offset 6, index 0 and charges partition 0, offset 8, index 0"},
            id="a duplicate that was billed",
        ),
        pytest.param(
            'UPDATE node_events SET cache_read_tokens = -1 WHERE "offset" = 1001',
            {PARTS},
            {PARTS: "node_events partition 0, offset 1001, index 0: 0/-1/0/0/0"},
            id="a negative count",
        ),
        pytest.param(
            'DELETE FROM node_events WHERE "offset" = 1001',
            {ROWS_LAW},
            {ROWS_LAW: "partition 0, what informational: 3 against 2"},
            id="a deleted node event",
        ),
        pytest.param(
            'INSERT INTO node_events SELECT * FROM node_events WHERE "offset" = 1001',
            {ROWS_LAW, KEYS, PLACES},
            {PLACES: "node_events partition 0, offset 1001, index 0 (2 rows)"},
            id="a node event twice",
        ),
        pytest.param(
            'DELETE FROM rejects WHERE "index" = -1',
            {ROWS_LAW},
            {ROWS_LAW: "partition 0, what rejected: 2 against 1"},
            id="a deleted reject",
        ),
        pytest.param(
            "INSERT INTO rejects SELECT * FROM rejects LIMIT 1",
            {ROWS_LAW, PLACES},
            {PLACES: "(2 rows)"},
            id="a reject twice",
        ),
        pytest.param(
            'UPDATE rejects SET "partition" = 7 WHERE "index" = -1',
            {ROWS_LAW, BEYOND},
            {BEYOND: "rejects partition 7, offset 2001, index -1: the position is missing"},
            id="a reject of no partition",
        ),
        pytest.param(
            "UPDATE position_1 SET read = read + 1",
            {READ},
            {READ: "partition 1: 101 against 100"},
            id="a count of what was read",
        ),
        pytest.param(
            "UPDATE position_1 SET duplicates = duplicates + 1, billed = billed - 1",
            {ROWS_LAW},
            {ROWS_LAW: "partition 1, what billed: "},
            id="a count of what was billed",
        ),
        pytest.param(
            "UPDATE position_0 SET next_offset = 2001",
            {BEYOND},
            {BEYOND: "rejects partition 0, offset 2001, index -1: the position is 2001"},
            id="a position that went back",
        ),
    ],
)
def test_what_is_planted_is_named(lake: Planted, statement: str, laws: set[str], named: dict[str, str]) -> None:
    lake.plant(statement)
    found = broken(verify(lake, SNAPSHOT))
    assert set(found) == laws
    for law, text in named.items():
        assert any(text in row for row in found[law]), (law, found[law])


NEIGHBOURS = {
    "rollup_minute": [("charges", "rollup_minute"), ("rollup_minute", "rollup_hour")],
    "rollup_hour": [("rollup_minute", "rollup_hour"), ("rollup_hour", "rollup_day")],
    "rollup_day": [("rollup_hour", "rollup_day")],
}
KEY = "partition 0, time 2026-11-01"
ONE = '"partition" = 0 AND "time" = (SELECT min("time") FROM {table} WHERE "partition" = 0) AND tenant = \'acme\''


@pytest.mark.parametrize("table", list(NEIGHBOURS))
@pytest.mark.parametrize(
    ("change", "quantities"),
    [
        ("DELETE FROM {table} WHERE {one} AND disposition = 'billed'", ALL[:1]),
        ("INSERT INTO {table} SELECT * FROM {table} WHERE {one} AND disposition = 'billed'", ALL[:1]),
        ("UPDATE {table} SET requests = requests + 1 WHERE {one}", ("requests",)),
        ("UPDATE {table} SET output_tokens = output_tokens + 1 WHERE {one}", ("tokens",)),
        ("UPDATE {table} SET input_cost = input_cost + 0.000000000001 WHERE {one}", ("cost", "cost by kind")),
        (
            "UPDATE {table} SET input_cost = input_cost + 1, output_cost = output_cost - 1 WHERE {one}",
            ("cost by kind",),
        ),
        ("UPDATE {table} SET environment = 'test' WHERE {one}", ALL[:1]),
    ],
)
def test_a_difference_in_a_rollup_is_named_by_its_key(
    lake: Planted, table: str, change: str, quantities: tuple[str, ...]
) -> None:
    lake.plant(change.format(table=table, one=ONE.format(table=table)))
    found = broken(verify(lake, SNAPSHOT))
    for finer, coarser in NEIGHBOURS[table]:
        for name in rolled_up(finer, coarser, *quantities):
            assert any(row.startswith(KEY) for row in found[name]), found[name]
    tables_named = {name.split(":")[0] for name in found if "chargeback" not in name}
    assert tables_named == {f"{finer} = {coarser}" for finer, coarser in NEIGHBOURS[table]}


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM latency_hour WHERE metric = 'time_to_first_token' AND tenant = 'bolt' AND \"partition\" = 1",
        "UPDATE latency_hour SET bucket = bucket + 1 WHERE metric = 'time_to_first_token' AND tenant = 'bolt'",
        "INSERT INTO latency_hour SELECT * FROM latency_hour WHERE metric = 'time_to_first_token' AND tenant = 'bolt'",
    ],
)
def test_a_difference_in_a_histogram_is_named_by_its_key(lake: Planted, change: str) -> None:
    lake.plant(change)
    found = broken(verify(lake, SNAPSHOT))
    assert set(found) == {LATENCY}
    assert all("tenant bolt" in row and "metric time_to_first_token" in row for row in found[LATENCY])


def test_two_differences_do_not_make_up_for_each_other(lake: Planted) -> None:
    lake.plant(
        'UPDATE charges SET cost_pico = cost_pico + 5 WHERE "offset" = 6',
        'UPDATE charges SET cost_pico = cost_pico - 5 WHERE "offset" = 0',
    )
    law = next(law for law in verify(lake, SNAPSHOT).laws if law.name == PRICED)
    assert law.left == law.right
    assert (law.difference, law.offending) == (Decimal("1E-11"), 2)


def test_only_so_many_rows_are_named_and_all_are_counted(lake: Planted) -> None:
    lake.plant("UPDATE charges SET cost_pico = cost_pico + 1 WHERE disposition = 'billed'")
    law = next(law for law in to_json(verify(lake, SNAPSHOT))["laws"] if law["name"] == PRICED)
    assert len(law["rows"]) == MAX_ROWS
    assert law["offending"] > MAX_ROWS
    assert law["difference"] == f"0.{law['offending']:012d}"
    assert law["balanced"] is False


def test_a_key_may_come_again_after_the_dedupe_window(tmp_path: Path) -> None:
    again = {**ROWS[0], "offset": 3000, "arrived": T0_US + 48 * HOUR_US}
    lake = Lake.open(LakeConfig(tmp_path / "lake.sqlite", tmp_path / "data", threads=1))
    fill(lake, [ROWS[0], again])
    assert set(broken(verify(lake, SNAPSHOT, window_hours=49))) == {KEYS}
    assert broken(verify(lake, SNAPSHOT, window_hours=48)) == {}
    lake.close()


def total_of(lake_charges: list[dict[str, object]], offset: int, **more: int) -> BudgetTotal:
    budget = replace(SNAPSHOT.budgets[1])
    rows = [
        row
        for row in lake_charges
        if row["partition"] == 0
        and row["offset"] < offset  # type: ignore[operator]
        and row["disposition"] == "billed"
        and row["tenant"] in ("acme", "bolt")
        and row["application"] == "assistant"
        and T0_US <= microseconds(row) < T0_US + 30 * DAY_US
    ]
    values = {
        "cost_pico": sum(row["cost_pico"] for row in rows),  # type: ignore[misc]
        "tokens": sum(value for row in rows for name, value in row.items() if name.endswith("_tokens")),  # type: ignore[misc]
    }
    return BudgetTotal(
        budget_id=budget.id,
        window_start_us=T0_US,
        window_end_us=T0_US + 30 * DAY_US,
        partition=0,
        control_version=3,
        offset=offset,
        definition=definition_of(budget, SNAPSHOT),
        **{**values, **more},
    )


@pytest.fixture
def charges() -> list[dict[str, object]]:
    return charges_of(ROWS)


def test_budget_totals_equal_the_lake_at_their_own_offsets(lake: Planted, charges: list[dict[str, object]]) -> None:
    totals = [total_of(charges, 50), total_of(charges, 2002)]
    assert totals[0].cost_pico < totals[1].cost_pico
    verification = verify(lake, SNAPSHOT, totals)
    assert verification.balanced
    compared = {law.name: law.left for law in verification.laws if law.name.startswith("budget totals")}
    assert compared["budget totals = charges before their offsets: tokens"] == totals[0].tokens + totals[1].tokens


@pytest.mark.parametrize(
    ("what", "more"), [("cost", {"cost_pico": 1}), ("tokens", {"tokens": 1})], ids=["cost", "tokens"]
)
def test_a_budget_total_that_differs_is_named(
    lake: Planted, charges: list[dict[str, object]], what: str, more: dict[str, int]
) -> None:
    found = broken(verify(lake, SNAPSHOT, [total_of(charges, 2002), total_of(charges, 50, **more)]))
    [rows] = found.values()
    assert set(found) == {f"budget totals = charges before their offsets: {what}"}
    assert rows[0].startswith(f"budget group-tokens, window {T0_US}, partition 0, offset 50: ")


def test_totals_that_cannot_be_compared_are_left_out(lake: Planted, charges: list[dict[str, object]]) -> None:
    ahead = total_of(charges, 2003, tokens=1)  # the lake is not there yet
    other = replace(total_of(charges, 50, tokens=1), definition="of an older scope")
    assert verify(lake, SNAPSHOT, [ahead, other]).balanced
