"""Bytes of the log → an EventBatch, with a reject or a forward for every event that is not in it.

Three lanes, each for what the one before leaves: `framed.py` reads events that are alike but for their values,
`columns.py` any others many at a time, and both accept only what is certainly sound; `validate.py` decides about the
rest one by one. `split.py` cuts records into events for the last two.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Final, Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from meterhouse.ingest.arrow_columns import read_rows
from meterhouse.ingest.arrow_read import Unreadable, read_stream
from meterhouse.ingest.arrow_text import Column
from meterhouse.ingest.batch import EVENT_SCHEMA, TIME, Decoded, Forward, Reason, Reject
from meterhouse.ingest.columns import ColumnReader, Columns
from meterhouse.ingest.event import MAX_EVENT_BYTES, Lateness
from meterhouse.ingest.framed import LEARN_EVENTS
from meterhouse.ingest.framed_lane import FramedLane
from meterhouse.ingest.log import Records, partition_of
from meterhouse.ingest.pieces import CHUNK_EVENTS, NO_PIECES, Pieces, Run, chunks_of, joined, rows_of, text_of
from meterhouse.ingest.split import SURELY_SHALLOW_BYTES, Piece, Splitter, Unparsable, is_deep, split_exactly
from meterhouse.ingest.validate import Refusal, Rules, event_key, judge, text_fault

__all__ = ["Decoder", "event_key"]

FEW_EVENTS: Final = 128
"""So few events are decided one by one: a pass of the fast lane costs some 8 ms however few there are."""

FEW_BYTES: Final = 32_768
"""So little text is not cut into frames: that lane pays where many events are alike."""

SINGLES: Final = 256
"""Records that are tried together as one event each; one that is not makes its neighbours cost as much as it does."""

DEFAULT_LATENESS: Final = Lateness()
_PLACE: Final = ("partition", "offset", "index", "arrived")


@dataclass(frozen=True, slots=True)
class _Judging:
    """What events are held against. `partitions`: how many the topic has, None: placement is not checked."""

    tenants: Collection[str] | None
    lateness: Lateness
    partitions: int | None

    def is_home(self, tenant: str, key: bytes | None, partition: int) -> bool:
        """Whether a record of this key in this partition is where the tenant's events belong."""
        home = tenant.encode()
        return key == home and (self.partitions is None or partition_of(home, self.partitions) == partition)


@dataclass(slots=True)
class _Outcome:
    """What became of the records; rejects and forwards with (record, index) in front, to put them in log order.

    `places`: (record, index) of each row of `events`, as one number. `arrow`: records that are Arrow streams.
    """

    events: list[pa.Table]
    places: list[NDArray[np.int64]]
    rejects: list[tuple[int, int, Reject]]
    forwards: list[tuple[int, int, Forward]]
    arrow: list[int]

    def table(self) -> pa.Table:
        """The events in log order."""
        if len(self.events) < 2:
            return self.events[0] if self.events else EVENT_SCHEMA.empty_table()
        table = pa.concat_tables(self.events).unify_dictionaries().combine_chunks()
        places = np.concatenate(self.places)
        if (places[1:] >= places[:-1]).all():
            return table
        return table.take(np.argsort(places, kind="stable"))


class Decoder:
    """Decodes records. Holds compiled readers and a DuckDB connection of one thread; not shared between threads.

    `lanes`: "framed", "fast" and "slow" begin with that lane however few the events are, for tests. The result is the
    same; the slow lane defines it.
    """

    def __init__(self, *, lanes: Literal["all", "framed", "fast", "slow"] = "all") -> None:
        self._splitter = Splitter()
        self._reader = ColumnReader()
        self._framed = FramedLane(self._reader, self._splitter, learn_events=1 if lanes == "framed" else LEARN_EVENTS)
        self._lanes = lanes

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def decode(
        self,
        records: Sequence[Records],
        *,
        tenants: Collection[str] | None,
        lateness: Lateness = DEFAULT_LATENESS,
        partitions: int | None = None,
    ) -> Decoded:
        """Every event of the records, in exactly one of events, rejects and forwards.

        `tenants`: the known ones; None accepts any. `partitions`: the topic's count; an event is forwarded where its
        record's key is not its tenant or, unless that is None, its partition not the tenant's among so many. Lateness
        is judged against each record's append time, which is also the event's `arrived`. An empty array holds no
        event; a tombstone and a record whose bytes do not parse are one reject of index -1. Whatever the bytes are,
        nothing is raised.
        """
        run = Run.of(records)
        outcome = _Outcome([], [], [], [], [])
        judging = _Judging(tenants, lateness, partitions)
        pieces = joined(*self._decode_framed(run, judging, outcome))
        for chunk in chunks_of(pieces):
            is_fast = self._lanes in ("framed", "fast") or (self._lanes == "all" and len(chunk.bytes_) > FEW_EVENTS)
            self._decode_chunk(run, chunk, self._reader.read(text_of(chunk)) if is_fast else None, judging, outcome)
        for chunk, tables in _arrow_chunks(run, outcome):
            columns = read_rows(self._reader, tables) if self._lanes != "slow" else None
            self._decode_chunk(run, chunk, columns, judging, outcome)
        return Decoded(
            outcome.table(),
            [reject for *_, reject in sorted(outcome.rejects, key=lambda placed: placed[:2])],
            [forward for *_, forward in sorted(outcome.forwards, key=lambda placed: placed[:2])],
        )

    def _decode_framed(self, run: Run, judging: _Judging, outcome: _Outcome) -> tuple[Pieces, Pieces]:
        """The framed lane: what it leaves, of arrays and of other records, goes on to the others."""
        everything = np.arange(len(run.values))
        is_much = self._lanes == "all" and sum(map(len, filter(None, run.values[:FEW_EVENTS]))) >= FEW_BYTES
        if not is_much and self._lanes != "framed":
            return NO_PIECES, self._split(run, everything, outcome)
        rest: list[Pieces] = []
        left: list[NDArray[np.int64]] = []
        for framed in self._framed.read(run):
            if framed.columns is not None:
                self._decode_chunk(run, framed.read, framed.columns, judging, outcome)
            rest.append(framed.rest)
            left.append(framed.left)
        return joined(*rest), self._split(run, np.concatenate([np.zeros(0, np.int64), *left]), outcome)

    def _split(self, run: Run, left: NDArray[np.int64], outcome: _Outcome) -> Pieces:
        rejects, arrow = len(outcome.rejects), len(outcome.arrow)
        pieces, counts, loose = self._split_records(run, left, outcome, frozenset())
        size = np.fromiter(map(len, pieces), np.int64, len(pieces))
        large = np.flatnonzero(size > SURELY_SHALLOW_BYTES)
        if len(large):
            record = np.repeat(left, counts)
            deep = frozenset(int(record[at]) for at in large if is_deep(pieces[at]))
            if deep:
                del outcome.rejects[rejects:], outcome.arrow[arrow:]
                pieces, counts, loose = self._split_records(run, left, outcome, deep)
                size = np.fromiter(map(len, pieces), np.int64, len(pieces))
        starts = np.cumsum(counts) - counts
        strict = size <= MAX_EVENT_BYTES
        strict[loose] = False
        index = (np.arange(len(pieces)) - np.repeat(starts, counts)).astype(np.int32)
        return Pieces(pieces, size, np.repeat(left, counts), index, strict)

    def _split_records(
        self, run: Run, left: NDArray[np.int64], outcome: _Outcome, exactly: frozenset[int]
    ) -> tuple[list[Piece], NDArray[np.int64], list[int]]:
        """(pieces, how many each has of the records `left`, which are not strict JSON). Records of `exactly` go the
        exact way."""
        pieces: list[Piece] = []
        counts = np.ones(len(left), dtype=np.int64)
        loose: list[int] = []
        for start in range(0, len(left), SINGLES):
            records = left[start : start + SINGLES].tolist()
            group = [run.values[record] for record in records]
            if self._lanes != "slow" and exactly.isdisjoint(records) and self._splitter.are_single(group):
                pieces += group
                continue
            for at, (record, value) in enumerate(zip(records, group, strict=True), start):
                if run.is_arrow(record):
                    outcome.arrow.append(record)
                    counts[at] = 0
                    continue
                found, is_strict = self._split_record(run, record, value, outcome, record in exactly)
                if not is_strict:
                    loose += [n for n, piece in enumerate(found, len(pieces)) if not self._splitter.is_strict(piece)]
                pieces += found
                counts[at] = len(found)
        return pieces, counts, loose

    def _split_record(
        self, run: Run, record: int, value: bytes | None, outcome: _Outcome, exactly: bool
    ) -> tuple[Sequence[Piece], bool]:
        """(pieces, whether all of them are surely strict JSON). What does not parse is rejected."""
        if value is None:
            detail = "The record has no value (a tombstone), and usage events are never deleted: send no such record."
            refusal = Refusal(Reason.NOT_JSON, detail, None)
        else:
            found = self._splitter.split(value) if self._lanes != "slow" and not exactly else None
            if found is not None:
                return found, True
            try:
                return split_exactly(value), False
            except Unparsable as error:
                refusal = Refusal(Reason.NOT_JSON, str(error), None)
        outcome.rejects.append((record, -1, _reject(run, record, -1, refusal, value or b"")))
        return (), True

    def _decode_chunk(
        self, run: Run, chunk: Pieces, columns: Columns | None, judging: _Judging, outcome: _Outcome
    ) -> None:
        """`columns`: the chunk as the fast lane reads it; None: all go the slow lane."""
        fast = np.zeros(len(chunk.bytes_), dtype=np.bool_)
        tables: list[pa.Table] = []
        positions: list[NDArray[np.int64]] = []
        if columns is not None:
            fast = columns.good & chunk.strict & _in_time(columns, run.arrived_us[chunk.record], judging.lateness)
            fast &= _among(columns.values["tenant"], judging.tenants)
            at_home = _at_home(columns.values["tenant"], run, chunk, judging)
            rows = np.flatnonzero(fast & at_home)
            tables.append(_fast_table(columns, run, chunk, rows))
            positions.append(rows)
            words = columns.values["tenant"]
            for row in np.flatnonzero(fast & ~at_home):
                _forward(run, chunk, row, words[int(row)].as_py(), outcome)
        slow_rows, slow = _judge_rows(run, chunk, np.flatnonzero(~fast), judging, outcome)
        if slow:
            tables.append(pa.Table.from_pylist(slow, schema=EVENT_SCHEMA))
            positions.append(np.array(slow_rows, dtype=np.int64))
        if not tables:
            return
        rows = np.concatenate(positions)
        if len(tables) == 1:
            outcome.events.append(tables[0])
        else:
            merged = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
            outcome.events.append(merged.take(np.argsort(rows)))
            rows.sort()
        outcome.places.append((chunk.record[rows] << 32) | chunk.index[rows])


def _arrow_chunks(run: Run, outcome: _Outcome) -> Iterator[tuple[Pieces, list[pa.Table]]]:
    """The Arrow streams among the records, so many at a time that a chunk has about CHUNK_EVENTS events."""
    tables: list[pa.Table] = []
    records: list[int] = []
    rows = 0
    for record in outcome.arrow:
        try:
            table = read_stream(run.values[record] or b"")
        except Unreadable as error:
            refusal = Refusal(error.reason, str(error), None)
            outcome.rejects.append((record, -1, _reject(run, record, -1, refusal, run.values[record] or b"")))
            continue
        if rows and rows + len(table) > CHUNK_EVENTS:
            yield rows_of(tables, records), tables
            tables, records, rows = [], [], 0
        tables.append(table)
        records.append(record)
        rows += len(table)
    if rows:
        yield rows_of(tables, records), tables


def _in_time(columns: Columns, arrived_us: NDArray[np.int64], lateness: Lateness) -> NDArray[np.bool_]:
    ahead_us = columns.time_us - arrived_us
    in_time: NDArray[np.bool_] = (ahead_us <= lateness.ahead_us) & (ahead_us >= -lateness.behind_us)
    return in_time


def _among(tenants: Column, known: Collection[str] | None) -> NDArray[np.bool_] | np.bool_:
    if known is None:
        return np.True_
    unknown = [code for code, word in enumerate(tenants.dictionary.to_pylist()) if word not in known]
    if not unknown:
        return np.True_
    among: NDArray[np.bool_] = ~np.isin(tenants.indices.fill_null(-1).to_numpy(), unknown)
    return among


def _at_home(tenants: Column, run: Run, chunk: Pieces, judging: _Judging) -> NDArray[np.bool_]:
    """`_Judging.is_home` of many events: tenants become numbers, and each number's home is looked up once."""
    words = [word.encode() for word in tenants.dictionary.to_pylist()]
    code_of: dict[bytes | None, int] = {word: code for code, word in enumerate(words)}
    key_codes = np.fromiter(map(code_of.get, run.keys, repeat(-1)), np.int32, len(run.keys))
    if judging.partitions is not None:
        homes = np.array([partition_of(word, judging.partitions) for word in words] or [-1])
        key_codes[homes[key_codes] != run.partition] = -1
    at_home: NDArray[np.bool_] = tenants.indices.fill_null(-2).to_numpy() == key_codes[chunk.record]
    return at_home


def _fast_table(columns: Columns, run: Run, chunk: Pieces, rows: NDArray[np.int64]) -> pa.Table:
    record = chunk.record
    values = {
        **columns.values,
        "partition": pa.array(run.partition[record]),
        "offset": pa.array(run.offset[record]),
        "index": pa.array(chunk.index),
        "arrived": pa.array(run.arrived_us[record]).cast(TIME),
    }
    if len(rows) == len(record):
        return pa.Table.from_arrays([values[name] for name in EVENT_SCHEMA.names], schema=EVENT_SCHEMA)
    # Columns of rows that are not good may hold nulls where the schema has none: the schema is put on what is left.
    taken = pa.array(rows)
    return pa.Table.from_arrays([values[name].take(taken) for name in EVENT_SCHEMA.names], schema=EVENT_SCHEMA)


def _judge_rows(
    run: Run, chunk: Pieces, rows: NDArray[np.int64], judging: _Judging, outcome: _Outcome
) -> tuple[list[int], list[dict[str, object]]]:
    """The slow lane. Returns (positions, rows) of sound events; the others go to the outcome."""
    positions: list[int] = []
    sound: list[dict[str, object]] = []
    for row in rows:
        record, index = int(chunk.record[row]), int(chunk.index[row])
        arrived_us = int(run.arrived_us[record])
        payload = bytes(chunk.bytes_[int(row)])
        verdict = judge(payload, Rules(arrived_us, judging.tenants, judging.lateness))
        if isinstance(verdict, Refusal):
            outcome.rejects.append((record, index, _reject(run, record, index, verdict, payload)))
        elif not judging.is_home(verdict.tenant, run.keys[record], int(run.partition[record])):
            _forward(run, chunk, row, verdict.tenant, outcome)
        else:
            place = (int(run.partition[record]), int(run.offset[record]), index, arrived_us)
            positions.append(int(row))
            sound.append({**verdict.row, **dict(zip(_PLACE, place, strict=True))})
    return positions, sound


def _forward(run: Run, chunk: Pieces, row: np.int64, tenant: str, outcome: _Outcome) -> None:
    record, index = int(chunk.record[row]), int(chunk.index[row])
    forward = Forward(tenant, int(run.partition[record]), int(run.offset[record]), index, bytes(chunk.bytes_[int(row)]))
    outcome.forwards.append((record, index, forward))


def _reject(run: Run, record: int, index: int, refusal: Refusal, payload: bytes) -> Reject:
    return Reject(
        topic=run.topics[record],
        partition=int(run.partition[record]),
        offset=int(run.offset[record]),
        index=index,
        arrived_us=int(run.arrived_us[record]),
        reason=refusal.reason,
        detail=refusal.detail,
        tenant=refusal.tenant or _tenant_of_key(run.keys[record]),
        payload=payload,
    )


def _tenant_of_key(key: bytes | None) -> str | None:
    try:
        text = (key or b"").decode()
    except UnicodeDecodeError:
        return None
    return text if text_fault(text) is None else None
