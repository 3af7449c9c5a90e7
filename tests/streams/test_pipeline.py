from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from meterhouse.ingest.batch import Forward, Reason, Reject
from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.streams import pipeline
from meterhouse.streams.control import RateCard, Snapshot
from meterhouse.streams.dedupe import DedupeIndex
from meterhouse.streams.ledger import (
    CHARGE_SCHEMA,
    LATENCY_SCHEMA,
    NODE_EVENT_SCHEMA,
    ROLLUP_SCHEMA,
    Counts,
    Position,
    Processed,
)
from meterhouse.streams.pipeline import LawBroken, merge, merge_all, process
from meterhouse.streams.rate_card import compile_rates
from tests.builders import HOUR_US, SECOND_US, T0_US, decoded, events, records

PRICES = {kind.name: 10**6 for kind in TOKEN_KINDS}
RATES = compile_rates(
    Snapshot(version=7, currency="USD", rate_cards=(RateCard(3, "atlas", "atlas-large", None, 0, None, PRICES),))
)
NODE = {"node": "n1", "request_id": "r1", "accelerator_us": 5}


def reject(offset: int, partition: int = 0) -> Reject:
    return Reject("usage.events", partition, offset, -1, T0_US, Reason.NOT_JSON, "", None, b"{")


class House:
    """Partitions that are read one run after another, one event a record."""

    def __init__(self, *partitions: int) -> None:
        self.positions = {partition: Position() for partition in partitions or (0,)}
        self.indexes = {partition: DedupeIndex() for partition in self.positions}

    def read(self, *rows: dict[str, Any], appended_us: list[int] | int = T0_US, rejects: int = 0) -> Processed:
        """A run of partition 0: the rows, then records that were rejected."""
        first = self.positions[0].next_offset
        table = events({"offset": first + n, **row} for n, row in enumerate(rows))
        size = len(rows) + rejects
        run = records([b""] * size, first_offset=first, appended_us=appended_us)
        refused = [reject(first + len(rows) + n) for n in range(rejects)]
        unit = process([run], decoded(table, refused), self.positions, self.indexes, RATES)
        self.positions.update(unit.after)
        return unit


def test_every_event_read_becomes_exactly_one_thing() -> None:
    unit = House().read(
        {"id": "a", "input_tokens": 1},
        {"id": "b", "status": "error"},
        {"id": "c", "model": "unheard-of"},
        {"id": "d", **NODE},
        {"id": "a", "input_tokens": 1},
        {"id": "d", **NODE},
        rejects=2,
    )
    assert unit.after == {
        0: Position(8, Counts(8, billed=1, unpriced=1, unbilled=1, informational=1, duplicates=2, rejected=2), T0_US)
    }
    assert unit.charges["offset"].to_pylist() == [0, 1, 2]
    assert unit.charges["card"].to_pylist() == [3, None, None]
    assert unit.charges["cost_pico"].to_pylist() == [10**6, 0, None]
    assert unit.charges["control_version"].to_pylist() == [7, 7, 7]
    assert unit.node_events["offset"].to_pylist() == [3]
    assert [len(table) for table in (unit.minutes, unit.hours, unit.latency)] == [3, 3, 0]
    assert len(unit.rejects) == 2


def test_the_tables_have_the_lakes_schemas_even_when_empty() -> None:
    for unit in (House().read({"id": "a"}, {"id": "b", **NODE}), House().read(rejects=1)):
        assert unit.charges.schema == CHARGE_SCHEMA
        assert unit.node_events.schema == NODE_EVENT_SCHEMA
        assert unit.minutes.schema == unit.hours.schema == ROLLUP_SCHEMA
        assert unit.latency.schema == LATENCY_SCHEMA


def test_a_retry_with_another_timestamp_and_body_is_not_billed_twice() -> None:
    house = House()
    house.read({"id": "a", "input_tokens": 1})
    unit = house.read({"id": "a", "input_tokens": 1_000, "time": T0_US + HOUR_US})
    assert (len(unit.charges), unit.after[0].counts.duplicates) == (0, 1)


def test_the_same_id_of_another_tenant_or_source_is_another_event() -> None:
    unit = House().read({"id": "a"}, {"id": "a", "tenant": "globex"}, {"id": "a", "source": "/gateway/2"})
    assert len(unit.charges) == 3


def test_an_arrival_never_goes_back_within_a_partition() -> None:
    house = House()
    times = [T0_US + 5, T0_US, T0_US + 7]
    unit = house.read({"id": "a"}, {"id": "b"}, {"id": "c"}, appended_us=times)
    assert unit.charges["arrived"].cast(pa.int64()).to_pylist() == [T0_US + 5, T0_US + 5, T0_US + 7]
    assert unit.after[0].arrived_us == T0_US + 7
    later = house.read({"id": "d"}, appended_us=T0_US)
    assert later.charges["arrived"].cast(pa.int64()).to_pylist() == [T0_US + 7]
    assert later.after[0].arrived_us == T0_US + 7


def test_a_record_without_events_moves_the_position_and_the_arrival() -> None:
    unit = House().read(rejects=0, appended_us=[])
    assert unit.after == {}
    run = records([None, b"[]"], first_offset=4, appended_us=[T0_US, T0_US + SECOND_US])
    unit = process([run], decoded(events([])), {0: Position()}, {0: DedupeIndex()}, RATES)
    assert unit.after == {0: Position(6, Counts(), T0_US + SECOND_US)}


def test_partitions_keep_their_own_books_and_their_own_ids() -> None:
    table = events([{"id": "a", "offset": 0}, {"id": "a", "offset": 0, "partition": 2}, {"offset": 1, "partition": 2}])
    forward = Forward("globex", 2, 2, 0, b"{}")
    runs = [records([b""]), records([b""] * 3, partition=2)]
    unit = process(
        runs,
        decoded(table, forwards=[forward]),
        {0: Position(), 2: Position(), 5: Position()},
        {0: DedupeIndex(), 2: DedupeIndex()},
        RATES,
    )
    assert unit.before == {0: Position(), 2: Position()}
    assert unit.after == {
        0: Position(1, Counts(1, billed=1), T0_US),
        2: Position(3, Counts(3, billed=2, forwarded=1), T0_US),
    }
    assert sorted(unit.minutes["partition"].to_pylist()) == [0, 2]


def test_events_in_several_chunks_with_other_dictionaries_come_out_the_same() -> None:
    table = events([{"id": n, "tenant": t, "input_tokens": n} for n, t in enumerate("abcab")])
    parts = pa.concat_tables([events([]), *(events(table.slice(n, 1).drop("key").to_pylist()) for n in range(5))])
    chunked = parts.set_column(0, table.schema.field("key"), table["key"])
    assert chunked["tenant"].num_chunks > 1
    units = [
        process([records([b""] * 5)], decoded(t), {0: Position()}, {0: DedupeIndex()}, RATES) for t in (table, chunked)
    ]
    assert units[0].charges.to_pylist() == units[1].charges.to_pylist()
    assert units[0].minutes.to_pylist() == units[1].minutes.to_pylist()


def test_merged_results_are_one_commit() -> None:
    house = House()
    units = [house.read({"id": name, "input_tokens": 1}, rejects=1) for name in "aab"]
    merged = merge_all(units)
    assert merged.before == {0: Position()}
    assert merged.after == house.positions == {0: Position(6, Counts(6, billed=2, duplicates=1, rejected=3), T0_US)}
    assert merged.charges["offset"].to_pylist() == [0, 4]
    assert merged.minutes["requests"].to_pylist() == merged.hours["requests"].to_pylist() == [2]
    assert [r.offset for r in merged.rejects] == [1, 3, 5]
    assert merge(merge(*units[:2]), units[2]).minutes.to_pylist() == merged.minutes.to_pylist()


def test_results_of_different_partitions_merge_side_by_side() -> None:
    one = House().read({"id": "a"})
    run = records([b""], partition=1)
    other = process([run], decoded(events([{"partition": 1}])), {1: Position()}, {1: DedupeIndex()}, RATES)
    assert merge(one, other).after == {**one.after, **other.after}


def test_results_with_a_gap_between_them_do_not_merge() -> None:
    house = House()
    first, _, third = (house.read({"id": name}) for name in "abc")
    with pytest.raises(ValueError, match="merge results in the order in which they were read, without gaps"):
        merge(first, third)
    with pytest.raises(ValueError, match="nothing to merge"):
        merge_all([])


@pytest.mark.parametrize(
    ("rows", "change", "says"),
    [
        ([{"offset": 3}], {}, "not all from its records"),
        ([{"offset": 1}, {"offset": 0}], {}, "not in log order"),
        ([{"partition": 1}], {}, r"events of partitions \[1\] have no records"),
        ([{"offset": 0}, {"partition": 1}, {"offset": 1}], {}, "must stand together"),
        ([], {"before": {}}, "needs one run of records and the position"),
        ([], {"before": {0: Position(next_offset=1)}}, "must ascend from 1 on"),
        ([], {"indexes": {}}, r"no dedupe index for partitions \[0\]: rebuild it"),
        ([], {"records": [records([b""]), records([b""])]}, "needs one run"),
    ],
)
def test_arguments_that_do_not_belong_together_are_refused_before_anything_is_taken_in(
    rows: list[dict[str, Any]], change: dict[str, Any], says: str
) -> None:
    index = DedupeIndex()
    arguments: dict[str, Any] = {
        "records": [records([b""] * 2)],
        "decoded": decoded(events(rows)),
        "before": {0: Position()},
        "indexes": {0: index},
        "rates": RATES,
    }
    with pytest.raises(ValueError, match=says):
        process(**{**arguments, **change})
    assert len(index) == 0


def test_a_table_of_another_schema_is_refused() -> None:
    table = events([]).drop("labels")
    with pytest.raises(ValueError, match="EVENT_SCHEMA"):
        process([], decoded(table), {}, {}, RATES)


def test_a_reject_from_nowhere_breaks_law_1() -> None:
    with pytest.raises(LawBroken, match="no records"):
        process([records([b""])], decoded(events([]), [reject(0, 9)]), {0: Position()}, {0: DedupeIndex()}, RATES)


def test_a_negative_count_breaks_law_3() -> None:
    with pytest.raises(LawBroken, match="law 3: output_tokens below 0"):
        House().read({"output_tokens": -1, "status": "error"})


def test_a_roll_up_that_loses_a_digit_breaks_law_2(monkeypatch: pytest.MonkeyPatch) -> None:
    def lossy(requests: pa.Table, rated: Any) -> pa.Table:
        kind_costs = rated.kind_costs.copy()
        kind_costs[0, 0] -= 1
        return pipeline_minutes(requests, replace(rated, kind_costs=kind_costs))

    pipeline_minutes = pipeline.minutes
    monkeypatch.setattr(pipeline, "minutes", lossy)
    with pytest.raises(LawBroken, match="law 2: roll-up and charges in pico: 999999 is not 1000000"):
        House().read({"input_tokens": 1})
