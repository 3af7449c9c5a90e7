"""Bytes of the log → an EventBatch, with a reject or a forward for every event that is not in it.

Two lanes: `columns.py` reads many events at a time and accepts what is certainly sound, `validate.py` decides about
the rest one by one. `split.py` cuts records into events.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Final, Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from meterhouse.ingest.arrow_text import Column
from meterhouse.ingest.batch import EVENT_SCHEMA, TIME, Decoded, Forward, Reason, Reject
from meterhouse.ingest.binary_mode import BINARY_HEADERS, is_binary, structured
from meterhouse.ingest.columns import ColumnReader, Columns
from meterhouse.ingest.event import MAX_EVENT_BYTES, Lateness
from meterhouse.ingest.log import Records, partition_of
from meterhouse.ingest.split import SURELY_SHALLOW_BYTES, Piece, Splitter, Unparsable, is_deep, split_exactly
from meterhouse.ingest.validate import Refusal, Rules, event_key, judge, text_fault

__all__ = ["Decoder", "event_key"]

FEW_EVENTS: Final = 128
"""So few events are decided one by one: a pass of the fast lane costs some 8 ms however few there are."""
CHUNK_EVENTS: Final = 65_536
CHUNK_BYTES: Final = 256 * 1024 * 1024
"""Of one chunk's text: an Arrow string array addresses 2 GiB, and the text is in memory twice."""

SINGLES: Final = 256
"""Records that are tried together as one event each; one that is not makes its neighbours cost as much as it does."""

DEFAULT_LATENESS: Final = Lateness()
_PLACE: Final = ("partition", "offset", "index", "arrived")


@dataclass(frozen=True, slots=True)
class _Run:
    """The records of one call, flattened: columns of equal length, a row per record."""

    topics: list[str]
    partition: NDArray[np.int32]
    offset: NDArray[np.int64]
    arrived_us: NDArray[np.int64]
    keys: list[bytes | None]
    values: list[bytes | None]

    @classmethod
    def of(cls, records: Sequence[Records]) -> Self:
        sizes = [len(run) for run in records]
        values: list[bytes | None] = []
        for run in records:
            values += run.values
            if max(map(len, run.headers), default=0) < BINARY_HEADERS:
                continue
            for at, headers in enumerate(run.headers, start=len(values) - len(run)):
                if is_binary(headers):
                    values[at] = structured(headers, values[at])
        return cls(
            topics=[topic for run, size in zip(records, sizes, strict=True) for topic in [run.topic] * size],
            partition=np.repeat(np.array([run.partition for run in records], dtype=np.int32), sizes),
            offset=_joined(run.offsets for run in records),
            arrived_us=_joined(run.appended_us for run in records),
            keys=list(chain.from_iterable(run.keys for run in records)),
            values=values,
        )


def _joined(columns: Iterable[Sequence[int]]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(0, np.int64), *(np.asarray(column, np.int64) for column in columns)])


@dataclass(frozen=True, slots=True)
class _Pieces:
    """The events of a run: bytes, the record each stands in and its place there; `strict`: fit for the fast lane."""

    bytes_: list[Piece]
    size: NDArray[np.int64]
    record: NDArray[np.int64]
    index: NDArray[np.int32]
    strict: NDArray[np.bool_]


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
    """What became of a chunk; rejects and forwards with (record, index) in front, to put them in log order."""

    events: list[pa.Table]
    rejects: list[tuple[int, int, Reject]]
    forwards: list[tuple[int, int, Forward]]


class Decoder:
    """Decodes records. Holds compiled readers and a DuckDB connection of one thread; not shared between threads.

    `lanes`: "fast" and "slow" take that lane (fast: first) however few the events are, for tests. The result is the
    same; the slow lane defines it.
    """

    def __init__(self, *, lanes: Literal["both", "fast", "slow"] = "both") -> None:
        self._splitter = Splitter()
        self._reader = ColumnReader()
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
        run = _Run.of(records)
        outcome = _Outcome([EVENT_SCHEMA.empty_table()], [], [])
        pieces = self._split(run, outcome)
        judging = _Judging(tenants, lateness, partitions)
        for chunk in _chunks(pieces):
            self._decode_chunk(run, chunk, judging, outcome)
        tables = outcome.events[1:] or outcome.events
        events = tables[0] if len(tables) == 1 else pa.concat_tables(tables).unify_dictionaries().combine_chunks()
        return Decoded(
            events,
            [reject for *_, reject in sorted(outcome.rejects, key=lambda placed: placed[:2])],
            [forward for *_, forward in sorted(outcome.forwards, key=lambda placed: placed[:2])],
        )

    def _split(self, run: _Run, outcome: _Outcome) -> _Pieces:
        pieces, counts, loose = self._split_records(run, outcome, frozenset())
        size = np.fromiter(map(len, pieces), np.int64, len(pieces))
        large = np.flatnonzero(size > SURELY_SHALLOW_BYTES)
        if len(large):
            record = np.repeat(np.arange(len(counts)), counts)
            deep = frozenset(int(record[at]) for at in large if is_deep(pieces[at]))
            if deep:
                outcome.rejects.clear()
                pieces, counts, loose = self._split_records(run, outcome, deep)
                size = np.fromiter(map(len, pieces), np.int64, len(pieces))
        record = np.repeat(np.arange(len(counts)), counts)
        starts = np.cumsum(counts) - counts
        strict = size <= MAX_EVENT_BYTES
        strict[loose] = False
        index = (np.arange(len(pieces)) - starts[record]).astype(np.int32)
        return _Pieces(pieces, size, record, index, strict)

    def _split_records(
        self, run: _Run, outcome: _Outcome, exactly: frozenset[int]
    ) -> tuple[list[Piece], NDArray[np.int64], list[int]]:
        """(pieces, how many each record has, which are not strict JSON). Records of `exactly` go the exact way."""
        pieces: list[Piece] = []
        counts = np.ones(len(run.values), dtype=np.int64)
        loose: list[int] = []
        for start in range(0, len(run.values), SINGLES):
            group = run.values[start : start + SINGLES]
            fast = self._lanes != "slow" and exactly.isdisjoint(range(start, start + SINGLES))
            if fast and self._splitter.are_single(group):
                pieces += group  # type: ignore[arg-type]  # none is None
                continue
            for record, value in enumerate(group, start):
                found, is_strict = self._split_record(run, record, value, outcome, record in exactly)
                if not is_strict:
                    loose += [at for at, piece in enumerate(found, len(pieces)) if not self._splitter.is_strict(piece)]
                pieces += found
                counts[record] = len(found)
        return pieces, counts, loose

    def _split_record(
        self, run: _Run, record: int, value: bytes | None, outcome: _Outcome, exactly: bool
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

    def _decode_chunk(self, run: _Run, chunk: _Pieces, judging: _Judging, outcome: _Outcome) -> None:
        fast = np.zeros(len(chunk.bytes_), dtype=np.bool_)
        tables: list[pa.Table] = []
        positions: list[NDArray[np.int64]] = []
        if self._lanes == "fast" or (self._lanes == "both" and len(fast) > FEW_EVENTS):
            columns = self._reader.read(_text(chunk))
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
        if len(tables) == 1:
            outcome.events.append(tables[0])
        elif tables:
            merged = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
            outcome.events.append(merged.take(np.argsort(np.concatenate(positions))))


def _chunks(pieces: _Pieces) -> Iterator[_Pieces]:
    """Cuts so that each chunk has at most CHUNK_EVENTS events and about CHUNK_BYTES bytes."""
    ends = np.cumsum(np.where(pieces.strict, pieces.size, 0))
    start, total = 0, len(pieces.bytes_)
    while start < total:
        before = int(ends[start - 1]) if start else 0
        full = int(np.searchsorted(ends, before + CHUNK_BYTES, side="right"))
        stop = min(max(full, start + 1), start + CHUNK_EVENTS, total)
        if start == 0 and stop == total:
            yield pieces
            return
        part = slice(start, stop)
        yield _Pieces(
            pieces.bytes_[part], pieces.size[part], pieces.record[part], pieces.index[part], pieces.strict[part]
        )
        start = stop


def _text(chunk: _Pieces) -> Column:
    """The chunk's events as one Arrow string array; what the fast lane may not read stands as an empty object."""
    pieces, size = chunk.bytes_, chunk.size
    if not chunk.strict.all():
        pieces = [piece if strict else b"{}" for piece, strict in zip(pieces, chunk.strict, strict=True)]
        size = np.where(chunk.strict, size, 2)
    offsets = np.zeros(len(pieces) + 1, dtype=np.int32)
    np.cumsum(size, out=offsets[1:])
    return pa.StringArray.from_buffers(len(pieces), pa.py_buffer(offsets.data), pa.py_buffer(b"".join(pieces)))


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


def _at_home(tenants: Column, run: _Run, chunk: _Pieces, judging: _Judging) -> NDArray[np.bool_]:
    """`_Judging.is_home` of many events: tenants become numbers, and each number's home is looked up once."""
    words = [word.encode() for word in tenants.dictionary.to_pylist()]
    code_of: dict[bytes | None, int] = {word: code for code, word in enumerate(words)}
    key_codes = np.fromiter(map(code_of.get, run.keys, repeat(-1)), np.int32, len(run.keys))
    if judging.partitions is not None:
        homes = np.array([partition_of(word, judging.partitions) for word in words] or [-1])
        key_codes[homes[key_codes] != run.partition] = -1
    at_home: NDArray[np.bool_] = tenants.indices.fill_null(-2).to_numpy() == key_codes[chunk.record]
    return at_home


def _fast_table(columns: Columns, run: _Run, chunk: _Pieces, rows: NDArray[np.int64]) -> pa.Table:
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
    run: _Run, chunk: _Pieces, rows: NDArray[np.int64], judging: _Judging, outcome: _Outcome
) -> tuple[list[int], list[dict[str, object]]]:
    """The slow lane. Returns (positions, rows) of sound events; the others go to the outcome."""
    positions: list[int] = []
    sound: list[dict[str, object]] = []
    for row in rows:
        record, index = int(chunk.record[row]), int(chunk.index[row])
        arrived_us = int(run.arrived_us[record])
        payload = bytes(chunk.bytes_[row])
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


def _forward(run: _Run, chunk: _Pieces, row: np.int64, tenant: str, outcome: _Outcome) -> None:
    record, index = int(chunk.record[row]), int(chunk.index[row])
    forward = Forward(tenant, int(run.partition[record]), int(run.offset[record]), index, bytes(chunk.bytes_[row]))
    outcome.forwards.append((record, index, forward))


def _reject(run: _Run, record: int, index: int, refusal: Refusal, payload: bytes) -> Reject:
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
