"""The Ledger port's contract, held by the lake and by its twin in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from decimal import Decimal, localcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.ingest.log import partition_of
from meterhouse.streams.ledger import CHARGE_SCHEMA, Counts, Fenced, LayoutChanged, Ledger, Position, Processed
from meterhouse.streams.memory_ledger import MemoryLedger, MemoryStore
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.lake_ledger import LakeLedger
from meterhouse.warehouse.lake_schema import rejects_table
from tests.ledger_units import DAY_US, HOUR_US, MINUTE_US, START_US, Shape, empty, joined, unit
from tests.services.lakes import KINDS, MakeLake

TABLES = {
    "charges": "charges",
    "node_events": "node_events",
    "minutes": "rollup_minute",
    "hours": "rollup_hour",
    "latency": "latency_hour",
}


@dataclass(frozen=True)
class Place:
    """Where ledgers commit: `open` gives another ledger on it, `rows` all rows of one of a unit's tables."""

    open: Callable[[], Ledger]
    rows: Callable[[str], pa.Table]


@pytest.fixture(params=["memory", *KINDS])
def place(request: pytest.FixtureRequest, new_lake: MakeLake) -> Iterator[Place]:
    if request.param == "memory":
        store = MemoryStore()

        def memory_rows(name: str) -> pa.Table:
            return rejects_table(store.rejects) if name == "rejects" else store.table(name)

        yield Place(lambda: MemoryLedger(store, chunk_rows=7), memory_rows)
        return
    with ExitStack() as stack:
        lake = stack.enter_context(Lake.open(new_lake(request.param)))

        def lake_rows(name: str) -> pa.Table:
            with lake.read() as cursor:
                return cursor.execute(f"FROM {TABLES.get(name, name)}").to_arrow_table()

        yield Place(lambda: LakeLedger(lake, chunk_rows=7), lake_rows)


@pytest.fixture
def ledger(place: Place) -> Ledger:
    made = place.open()
    made.seed(4)
    return made


def test_a_new_partition_stands_at_zero(place: Place) -> None:
    ledger = place.open()
    assert ledger.positions() == {}
    ledger.seed(2)
    assert ledger.positions() == {0: Position(), 1: Position()}


def test_partitions_may_grow_and_the_old_ones_keep_their_place(ledger: Ledger) -> None:
    first = unit(Shape())
    ledger.commit(first)
    ledger.seed(6)
    arrived_us = first.after[0].arrived_us
    assert ledger.positions() == {0: first.after[0], **{p: Position(arrived_us=arrived_us) for p in range(1, 6)}}
    ledger.seed(3)  # fewer: nothing shrinks
    assert len(ledger.positions()) == 6
    ledger.commit(unit(Shape(partition=5)))
    assert ledger.positions()[5].next_offset == 25


def test_seeding_tells_the_layout_in_force_whoever_made_it(place: Place, ledger: Ledger) -> None:
    assert place.open().seed(2) == 4
    assert ledger.seed(6) == 6
    assert place.open().seed(1) == 6


def test_what_was_read_under_an_older_layout_is_fenced(place: Place, ledger: Ledger) -> None:
    assert place.open().seed(5) == 5
    with pytest.raises(LayoutChanged):
        ledger.commit(unit(Shape()))
    assert ledger.positions()[0] == Position()
    assert place.rows("charges").num_rows == 0
    assert ledger.seed(4) == 5
    ledger.commit(unit(Shape()))
    assert place.rows("charges").num_rows == 20


def test_keys_of_tenants_that_belong_elsewhere_now_are_found_there(place: Place) -> None:
    ledger = place.open()
    ledger.seed(1)
    (made,) = committed(ledger, [Shape(charges=200, node_events=50, tenants=9)])
    later = place.open()
    assert later.seed(3) == 3
    for partition in (1, 2):
        expected = sorted(
            key
            for table in (made.charges, made.node_events)
            for key, tenant in zip(table["key"].to_pylist(), table["tenant"].to_pylist(), strict=True)
            if partition_of(tenant.encode(), 3) == partition
        )
        found = sorted(halves.tobytes() for chunk in later.accepted_keys(partition, 0) for halves in chunk.halves)
        assert found == expected
        assert len(found) > 10


def test_all_rows_of_a_unit_come_back_whole(place: Place, ledger: Ledger) -> None:
    units = committed(ledger, [Shape(seed=1), Shape(seed=2), Shape(seed=3, partition=2)])
    for name in TABLES:
        expected = pa.concat_tables([getattr(each, name) for each in units])
        assert plain(place.rows(name)) == plain(expected)
        assert expected.num_rows > 0
    rejects = [reject for each in units for reject in each.rejects]
    assert plain(place.rows("rejects")) == plain(rejects_table(rejects))


def test_positions_counts_and_arrival_are_those_of_the_last_unit(place: Place, ledger: Ledger) -> None:
    units = committed(ledger, [Shape(seed=1), Shape(seed=2)])
    assert units[1].after[0].counts == Counts(read=50, billed=34, unpriced=2, unbilled=4, informational=6, rejected=4)
    expected = {0: units[1].after[0], 1: Position(), 2: Position(), 3: Position()}
    assert ledger.positions() == expected
    assert place.open().positions() == expected  # another ledger, as after a restart


def test_each_commit_has_a_later_snapshot(ledger: Ledger) -> None:
    first = ledger.commit(unit(Shape()))
    second = ledger.commit(unit(Shape(), ledger.positions()[0]))
    assert second > first


def test_a_unit_of_several_partitions_moves_them_together(place: Place, ledger: Ledger) -> None:
    whole = joined([unit(Shape(partition=1)), unit(Shape(partition=3, seed=2))])
    ledger.commit(whole)
    assert ledger.positions() == {0: Position(), 2: Position(), **whole.after}
    assert place.rows("charges").num_rows == 40


def test_a_unit_without_rows_moves_its_position(place: Place, ledger: Ledger) -> None:
    skipped = empty(Position(), 17)
    ledger.commit(skipped)
    assert ledger.positions()[0] == Position(17, Counts(read=17, duplicates=17))
    assert place.rows("charges").num_rows == 0


def test_of_two_ledgers_on_a_partition_one_commits_and_the_other_is_fenced(place: Place, ledger: Ledger) -> None:
    other = place.open()
    winner, loser = unit(Shape(seed=1)), unit(Shape(seed=2, charges=30))
    ledger.commit(winner)
    with pytest.raises(Fenced) as fenced:
        other.commit(loser)
    assert (fenced.value.partition, fenced.value.expected, fenced.value.stored) == (0, 0, 25)
    assert other.positions()[0] == winner.after[0]
    assert plain(place.rows("charges")) == plain(winner.charges)
    assert place.rows("rejects").num_rows == 2


def test_the_same_unit_twice_is_fenced(place: Place, ledger: Ledger) -> None:
    once = unit(Shape())
    ledger.commit(once)
    with pytest.raises(Fenced):
        ledger.commit(once)
    assert place.rows("charges").num_rows == 20


def test_one_moved_partition_fences_the_whole_unit(place: Place, ledger: Ledger) -> None:
    ledger.commit(unit(Shape(partition=2)))
    with pytest.raises(Fenced) as fenced:
        ledger.commit(joined([unit(Shape(partition=1)), unit(Shape(partition=2, seed=9)), unit(Shape(partition=3))]))
    assert fenced.value.partition == 2
    positions = ledger.positions()
    assert [positions[p].next_offset for p in range(4)] == [0, 0, 25, 0]
    assert place.rows("charges").num_rows == 20


def test_ledgers_on_different_partitions_both_commit(place: Place, ledger: Ledger) -> None:
    other = place.open()
    ledger.commit(unit(Shape(partition=0)))
    other.commit(unit(Shape(partition=1)))
    assert [position.next_offset for position in ledger.positions().values()] == [25, 25, 0, 0]


def test_a_fenced_ledger_goes_on_from_the_stored_position(place: Place, ledger: Ledger) -> None:
    other = place.open()
    ledger.commit(unit(Shape(seed=1)))
    with pytest.raises(Fenced):
        other.commit(unit(Shape(seed=2)))
    other.commit(unit(Shape(seed=2), other.positions()[0]))
    assert ledger.positions()[0].next_offset == 50


def test_accepted_keys_are_those_of_charges_and_node_events_of_one_partition(ledger: Ledger) -> None:
    units = committed(ledger, [Shape(seed=1), Shape(seed=2), Shape(seed=3, partition=1)])
    expected = [pair for each in units[:2] for pair in keys_of(each)]
    chunks = list(ledger.accepted_keys(0, 0))
    assert len(chunks) > 2
    assert all(chunk.halves.dtype == np.uint64 and chunk.arrived_hour.dtype == np.int32 for chunk in chunks)
    assert all(len(chunk.halves) == len(chunk.arrived_hour) <= 2048 for chunk in chunks)
    stored = [
        (halves.tobytes(), hour)
        for chunk in chunks
        for halves, hour in zip(chunk.halves, chunk.arrived_hour.tolist(), strict=True)
    ]
    assert sorted(stored) == sorted(expected)


def test_accepted_keys_begin_with_the_offset_asked_for(ledger: Ledger) -> None:
    units = committed(ledger, [Shape(seed=1), Shape(seed=2), Shape(seed=3, partition=1)])
    behind = units[0].after[0].next_offset
    stored = [keys.tobytes() for chunk in ledger.accepted_keys(0, 0, behind) for keys in chunk.halves]
    assert sorted(stored) == sorted(key for key, _ in keys_of(units[1]))
    assert list(ledger.accepted_keys(0, 0, units[1].after[0].next_offset)) == []


def test_keys_of_tenants_that_moved_here_stand_at_no_offset_of_this_partition(place: Place) -> None:
    old = place.open()
    old.seed(1)
    committed(old, [Shape(seed=1, tenants=8)])
    ledger = place.open()
    ledger.seed(2)
    moved = [sum(len(keys.halves) for keys in ledger.accepted_keys(1, 0, since)) for since in (None, 0)]
    assert moved[0] > 0
    assert moved[1] == 0


def test_a_lake_keeps_its_name_and_no_other_lake_has_it(place: Place, ledger: Ledger, tmp_path: Path) -> None:
    name = ledger.identity()
    committed(ledger, [Shape()])
    assert place.open().identity() == name
    with Lake.open(LakeConfig(tmp_path / "other.sqlite", tmp_path / "other", threads=1)) as other:
        assert LakeLedger(other).identity() != name
    assert MemoryLedger().identity() not in (name, MemoryLedger().identity())


def test_accepted_keys_begin_with_the_hour_asked_for(ledger: Ledger) -> None:
    (made,) = committed(ledger, [Shape(charges=200, node_events=50)])
    since_hour = START_US // HOUR_US + 1
    expected = sorted(hour for _, hour in keys_of(made) if hour >= since_hour)
    stored = sorted(hour for chunk in ledger.accepted_keys(0, since_hour) for hour in chunk.arrived_hour.tolist())
    assert stored == expected
    assert 0 < len(stored) < 250
    assert list(ledger.accepted_keys(0, since_hour + 1000)) == []


@pytest.mark.parametrize("step_us", [HOUR_US, MINUTE_US * 30, DAY_US])
def test_spend_is_the_sum_of_billed_costs_per_interval(ledger: Ledger, step_us: int) -> None:
    units = committed(ledger, [Shape(seed=1, charges=300), Shape(seed=2), Shape(seed=3, charges=90, partition=1)])
    edges = [START_US + i * step_us for i in range(3)]
    spend = ledger.spend(edges)
    assert spend.schema.types == [
        pa.int32(), pa.int32(), pa.string(), pa.string(), pa.string(), pa.decimal128(38, 12), pa.int64(),
    ]  # fmt: skip
    expected: dict[tuple[object, ...], tuple[int, int]] = {}
    for row in (row for each in units for row in each.charges.to_pylist()):
        interval = int(np.searchsorted(edges, timestamp_us(row["time"]), side="right")) - 1
        if row["disposition"] == "billed" and 0 <= interval < 2:
            key = (row["partition"], interval, row["tenant"], row["application"], row["model"])
            pico, tokens = expected.get(key, (0, 0))
            tokens += sum(row[kind.tokens] for kind in TOKEN_KINDS)
            expected[key] = (pico + row["cost_pico"], tokens)
    stored = {tuple(list(row.values())[:5]): (row["cost"], row["tokens"]) for row in spend.to_pylist()}
    assert stored == {key: (Decimal(pico).scaleb(-12), tokens) for key, (pico, tokens) in expected.items()}
    assert len(stored) > 20


def test_spend_is_the_same_after_keys_were_read(ledger: Ledger) -> None:
    """A meter that takes a partition over reads its keys first, then its spend."""
    ledger.commit(unit(Shape(charges=20)))
    edges = [START_US - DAY_US, START_US + DAY_US]
    before = ledger.spend(edges)
    assert before.num_rows
    assert sum(len(keys.arrived_hour) for keys in ledger.accepted_keys(0, 0))
    assert ledger.spend(edges).equals(before)


def test_reading_keys_does_not_change_how_spend_is_read(ledger: Ledger) -> None:
    committed(ledger, [Shape()])
    edges = [START_US, START_US + DAY_US]
    spend = ledger.spend(edges)
    assert sum(len(chunk.halves) for chunk in ledger.accepted_keys(0, 0)) == 23
    assert ledger.spend(edges) == spend


def test_spend_over_no_interval_is_empty(ledger: Ledger) -> None:
    committed(ledger, [Shape()])
    assert ledger.spend([]).num_rows == 0
    assert ledger.spend([START_US]).num_rows == 0


def test_sums_of_money_keep_every_digit(ledger: Ledger) -> None:
    made = unit(Shape(charges=1))
    large = Decimal("12345678901234567890.123456789012")
    place_of_cost = made.hours.schema.get_field_index("input_cost")
    hours = made.hours.set_column(place_of_cost, made.hours.schema.field(place_of_cost), money(large))
    minutes = made.minutes.set_column(place_of_cost, made.minutes.schema.field(place_of_cost), money(large))
    ledger.commit(replace(made, hours=hours, minutes=minutes))
    with localcontext(prec=38):
        expected = sum((made.hours[kind.cost][0].as_py() for kind in TOKEN_KINDS[1:]), large)
    (spent,) = ledger.spend([START_US, START_US + DAY_US])["cost"].to_pylist()
    assert spent == expected


# -- how to compare --------------------------------------------------------------------------------------------------


def committed(ledger: Ledger, shapes: Sequence[Shape]) -> list[Processed]:
    """Commits a unit of each shape, each from where its partition stands."""
    units = []
    for shape in shapes:
        units.append(unit(shape, ledger.positions()[shape.partition]))
        ledger.commit(units[-1])
    return units


def plain(table: pa.Table) -> list[tuple[object, ...]]:
    """Rows as Python values in an order of their own."""
    columns = []
    for name in table.schema.names:
        column = table[name]
        if name == "key" and column.type != CHARGE_SCHEMA.field("key").type:
            column = pa.chunked_array([chunk.storage for chunk in column.chunks], pa.binary(16))
        columns.append(column.to_pylist())
    return sorted(zip(*columns, strict=True), key=repr)


def keys_of(made: Processed) -> list[tuple[bytes, int]]:
    return [
        (key, hour)
        for table in (made.charges, made.node_events)
        for key, hour in zip(
            table["key"].to_pylist(),
            (pc.cast(table["arrived"], pa.int64()).to_numpy() // HOUR_US).tolist(),
            strict=True,
        )
    ]


def timestamp_us(value: object) -> int:
    return pa.scalar(value, pa.timestamp("us", tz="UTC")).cast(pa.int64()).as_py()  # type: ignore[no-any-return]


def money(value: Decimal) -> pa.Array:
    return pa.array([value], pa.decimal128(38, 12))
