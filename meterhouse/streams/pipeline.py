"""The pipeline: decoded events and control data → everything that one commit writes. Values in, values out.

A run of records goes through dedupe, rating and roll-up. What comes out depends on the log and the control version
alone: however a log is cut into runs, the merged results are equal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from meterhouse.ingest.batch import EVENT_SCHEMA, TIME, Decoded
from meterhouse.ingest.event import REQUEST_TYPE, TOKEN_KINDS
from meterhouse.ingest.log import Records
from meterhouse.streams.columns import codes_of, int32s, int64s, names_of, one_chunk
from meterhouse.streams.dedupe import KeyIndex, key_halves
from meterhouse.streams.ledger import (
    CHARGE_SCHEMA,
    LATENCY_SCHEMA,
    NODE_EVENT_SCHEMA,
    ROLLUP_SCHEMA,
    Counts,
    Position,
    Processed,
)
from meterhouse.streams.money import pico_sum
from meterhouse.streams.rate_card import Rates
from meterhouse.streams.rating import DISPOSITIONS, Rated, rate
from meterhouse.streams.rollup import LATENCY_COLUMNS, hours, latency, merge_rollups, minutes

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

HOUR_US: Final = 3_600_000_000


class LawBroken(Exception):
    """The books of a run do not balance: a defect of this program. Nothing of the run may be committed."""


def process(
    records: Sequence[Records],
    decoded: Decoded,
    before: Mapping[int, Position],
    indexes: Mapping[int, KeyIndex],
    rates: Rates,
) -> Processed:
    """What a run of records came to, all of it: `process_run` and `completed`."""
    return completed(process_run(records, decoded, before, indexes, rates))


def process_run(
    records: Sequence[Records],
    decoded: Decoded,
    before: Mapping[int, Position],
    indexes: Mapping[int, KeyIndex],
    rates: Rates,
) -> Processed:
    """What a run of records came to, without what follows from the rest, `hours` and `latency`: budget totals do not
    wait for these, and they are worked out once for all runs of a commit (`merge_all`).

    `records`: at most one run per partition. `decoded`: what became of exactly these. `before`: where each of their
    partitions stood. `indexes`: the partitions' dedupe indexes, which take the accepted keys in; whoever drops the
    result must drop them too. Raises ValueError when the arguments do not belong together, before anything is taken in,
    and LawBroken.
    """
    events = one_chunk(decoded.events)
    runs = _runs(records, events, before)
    missing = runs.keys() - indexes.keys()
    if missing:
        raise ValueError(f"no dedupe index for partitions {sorted(missing)}: rebuild it from the lake on assignment")
    _check_kinds(events)
    events = _with_arrival(events, runs.values())
    accepted = np.zeros(len(events), dtype=np.bool_)
    keys = key_halves(events["key"])
    for partition, run in runs.items():
        accepted[run.rows] = indexes[partition].filter(keys[run.rows], (run.arrived_us // HOUR_US).astype(np.int32))
    is_request = _is_request(events)
    requests = _rows(events, accepted & is_request)
    node_events = _rows(events, accepted & ~is_request)
    rated = rate(requests, rates)
    by_minute = minutes(requests, rated)
    processed = Processed(
        charges=_charges(requests, rated, rates.version),
        node_events=node_events.select(NODE_EVENT_SCHEMA.names).cast(NODE_EVENT_SCHEMA),
        minutes=by_minute,
        hours=ROLLUP_SCHEMA.empty_table(),
        latency=LATENCY_SCHEMA.empty_table(),
        rejects=decoded.rejects,
        before={partition: before[partition] for partition in runs},
        after=_after(decoded, runs, accepted, requests, rated),
    )
    _check_sums(processed, rated)
    return processed


def completed(unit: Processed) -> Processed:
    """The unit with its `hours` and `latency`, from its minutes and charges. Raises LawBroken."""
    by_hour = hours(unit.minutes)
    _check_rolled_up(by_hour, unit.minutes, "roll-ups by hour and by minute")
    # From the charges: adding up histograms, which are hardly smaller than these, takes three times as long.
    return replace(unit, hours=by_hour, latency=latency(one_chunk(unit.charges.select(LATENCY_COLUMNS))))


def merge(a: Processed, b: Processed) -> Processed:
    """Two results, `b` read after `a`, as one commit."""
    return merge_all([a, b])


def merge_all(units: Sequence[Processed]) -> Processed:
    """Results in the order in which they were read, as one complete commit. At least one.

    ValueError when one does not start where an earlier one left a partition.
    """
    if not units:
        raise ValueError("nothing to merge: a commit needs at least one result")
    if len(units) == 1:
        return completed(units[0])
    before: dict[int, Position] = {}
    after: dict[int, Position] = {}
    for unit in units:
        for partition, position in unit.before.items():
            if after.get(partition, position) != position:
                raise ValueError(
                    f"partition {partition} was left at {after[partition]} and goes on at {position}: "
                    "merge results in the order in which they were read, without gaps"
                )
            before.setdefault(partition, position)
        after.update(unit.after)
    merged = Processed(
        charges=_stacked(unit.charges for unit in units),
        node_events=_stacked(unit.node_events for unit in units),
        minutes=merge_rollups([unit.minutes for unit in units]),
        hours=ROLLUP_SCHEMA.empty_table(),
        latency=LATENCY_SCHEMA.empty_table(),
        rejects=[reject for unit in units for reject in unit.rejects],
        before=before,
        after=after,
    )
    return completed(merged)


def without(unit: Processed, partitions: Collection[int]) -> Processed | None:
    """The part of a unit that is of other partitions; None: there is none."""
    before = {p: position for p, position in unit.before.items() if p not in partitions}
    if len(before) == len(unit.before):
        return unit
    if not before:
        return None
    ours = pa.array(sorted(before), pa.int32())

    def kept(table: pa.Table) -> pa.Table:
        return table.filter(pc.is_in(table["partition"], value_set=ours))

    return Processed(
        charges=kept(unit.charges),
        node_events=kept(unit.node_events),
        minutes=kept(unit.minutes),
        hours=kept(unit.hours),
        latency=kept(unit.latency),
        rejects=[reject for reject in unit.rejects if reject.partition in before],
        before=before,
        after={p: unit.after[p] for p in before},
    )


def _stacked(tables: Iterable[pa.Table]) -> pa.Table:
    """One under the other, with one dictionary per name column; rows are not copied."""
    return pa.concat_tables(tables).unify_dictionaries()


@dataclass(frozen=True, slots=True)
class _Run:
    """A partition's part of the events."""

    rows: slice
    arrived_us: Ints  # of each row: the running maximum of append times
    before: Position
    next_offset: int
    newest_us: int


def _runs(records: Sequence[Records], events: pa.Table, before: Mapping[int, Position]) -> dict[int, _Run]:
    """Where each partition's rows stand and when they arrived. ValueError when they don't belong to the records."""
    if not events.schema.equals(EVENT_SCHEMA):
        raise ValueError(f"events must have EVENT_SCHEMA, not {events.schema}")
    places = _places(int32s(events["partition"]))
    offsets = int64s(events["offset"])
    runs: dict[int, _Run] = {}
    for run in records:
        if not len(run):
            continue
        if run.partition in runs or run.partition not in before:
            raise ValueError(f"partition {run.partition} needs one run of records and the position it was read from")
        start = before[run.partition]
        read = np.asarray(run.offsets, dtype=np.int64)
        if read[0] < start.next_offset or (read[1:] <= read[:-1]).any():
            raise ValueError(f"offsets of partition {run.partition} must ascend from {start.next_offset} on")
        appended_us = np.asarray(run.appended_us, dtype=np.int64)
        # An append time can go back (clocks do); an arrival cannot, or dedupe would depend on how the log is cut.
        arrived_us = np.maximum.accumulate(appended_us)
        if start.arrived_us is not None:
            arrived_us = np.maximum(arrived_us, start.arrived_us)
        rows = places.pop(run.partition, slice(0, 0))
        of_record = np.searchsorted(read, offsets[rows])
        if not np.array_equal(read[np.minimum(of_record, len(read) - 1)], offsets[rows]):
            raise ValueError(f"events of partition {run.partition} are not all from its records")
        if (of_record[1:] < of_record[:-1]).any():
            raise ValueError(f"events of partition {run.partition} are not in log order")
        runs[run.partition] = _Run(rows, arrived_us[of_record], start, run.next_offset, int(arrived_us[-1]))
    if places:
        raise ValueError(f"events of partitions {sorted(places)} have no records")
    return runs


def _places(partitions: npt.NDArray[np.int32]) -> dict[int, slice]:
    """The rows of each partition, which stand together."""
    starts = np.flatnonzero(np.diff(partitions, prepend=-1)).tolist()
    numbers = partitions[starts].tolist()
    places = {number: slice(*ends) for number, ends in zip(numbers, _pairs(starts, len(partitions)), strict=True)}
    if len(places) != len(numbers):
        raise ValueError("events of one partition must stand together")
    return places


def _pairs(starts: list[int], end: int) -> list[tuple[int, int]]:
    return list(zip(starts, [*starts[1:], end], strict=True)) if starts else []


def _with_arrival(events: pa.Table, runs: Iterable[_Run]) -> pa.Table:
    arrived_us = np.zeros(len(events), dtype=np.int64)
    for run in runs:
        arrived_us[run.rows] = run.arrived_us
    place = EVENT_SCHEMA.get_field_index("arrived")
    return events.set_column(place, EVENT_SCHEMA.field(place), pa.array(arrived_us).view(TIME))


def _is_request(events: pa.Table) -> Mask:
    of_code = np.array([*(name == REQUEST_TYPE for name in names_of(events["type"])), False])
    is_request: Mask = of_code[codes_of(events["type"])]
    return is_request


def _rows(events: pa.Table, wanted: Mask) -> pa.Table:
    return events if wanted.all() else one_chunk(events.filter(pa.array(wanted)))


def _charges(requests: pa.Table, rated: Rated, control_version: int) -> pa.Table:
    columns: dict[str, Any] = {**dict(zip(requests.column_names, requests.columns, strict=True)), **rated.columns()}
    columns["control_version"] = pa.array(np.full(len(requests), control_version, dtype=np.int32))
    return pa.Table.from_arrays([columns[name] for name in CHARGE_SCHEMA.names], schema=CHARGE_SCHEMA)


def _after(
    decoded: Decoded, runs: Mapping[int, _Run], accepted: Mask, requests: pa.Table, rated: Rated
) -> dict[int, Position]:
    """Where each partition stands then. LawBroken unless every event read became exactly one thing (law 1)."""
    rejected = Counter(reject.partition for reject in decoded.rejects)
    forwarded = Counter(forward.partition for forward in decoded.forwards)
    strangers = (rejected.keys() | forwarded.keys()) - runs.keys()
    if strangers:
        raise LawBroken(f"rejects or forwards of partitions {sorted(strangers)}, which have no records")
    partitions = int32s(requests["partition"])
    after = {}
    for partition, run in runs.items():
        by_disposition = np.bincount(rated.disposition[partitions == partition], minlength=len(DISPOSITIONS)).tolist()
        of_run = accepted[run.rows]
        kept = int(np.count_nonzero(of_run))
        counts = Counts(
            read=len(of_run) + rejected[partition] + forwarded[partition],
            **dict(zip(DISPOSITIONS, by_disposition, strict=True)),
            informational=kept - sum(by_disposition),
            duplicates=len(of_run) - kept,
            rejected=rejected[partition],
            forwarded=forwarded[partition],
        )
        after[partition] = Position(run.next_offset, run.before.counts + counts, run.newest_us)
    return after


def _check_kinds(events: pa.Table) -> None:
    """LawBroken unless every count of a disjoint kind can be a part of an inclusive count (law 3)."""
    for kind in TOKEN_KINDS:
        _law(3, min(int(int64s(events[kind.tokens]).min(initial=0)), 0), 0, f"{kind.tokens} below 0")


def _check_sums(processed: Processed, rated: Rated) -> None:
    """LawBroken unless events, counts, charges and roll-ups say the same (laws 1 and 2), to the last digit."""
    counted = sum(
        (_since(processed.before[p], position) for p, position in processed.after.items()),
        start=Counts(),
    )
    charges = processed.charges
    # What was counted, against the rows themselves.
    _law(1, counted.billed + counted.unpriced + counted.unbilled, len(charges), "requests counted and charges")
    _law(1, counted.informational, len(processed.node_events), "node events counted and their rows")
    rolled_up = processed.minutes
    _law(2, _pico(rolled_up), _exact_sum(rated.cost_pico), "roll-up and charges in pico")
    _law(2, _exact_sum(int64s(rolled_up["requests"])), len(charges), "requests in roll-up and charges")
    for kind in TOKEN_KINDS:
        _law(2, _exact_sum(int64s(rolled_up[kind.tokens])), _exact_sum(int64s(charges[kind.tokens])), kind.tokens)


def _check_rolled_up(a: pa.Table, b: pa.Table, what: str) -> None:
    """LawBroken unless two roll-ups of the same say the same (law 2)."""
    _law(2, _pico(a), _pico(b), f"{what}, in pico")
    for name in ("requests", *(kind.tokens for kind in TOKEN_KINDS)):
        _law(2, _exact_sum(int64s(a[name])), _exact_sum(int64s(b[name])), f"{what}, {name}")


def _pico(rolled_up: pa.Table) -> int:
    return sum(pico_sum(rolled_up[kind.cost]) for kind in TOKEN_KINDS)


def _since(before: Position, after: Position) -> Counts:
    return Counts(*(getattr(after.counts, name) - getattr(before.counts, name) for name in Counts.__slots__))


def _law(number: int, left: int, right: int, what: str) -> None:
    if left != right:
        raise LawBroken(f"law {number}: {what}: {left} is not {right}; nothing of this run may be committed")


def _exact_sum(values: Ints) -> int:
    """Of int64 values that might not fit int64 together."""
    return (int((values >> 32).sum()) << 32) + int((values & 0xFFFFFFFF).sum())
