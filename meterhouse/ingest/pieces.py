"""Records on their way through decode: flattened to columns, cut into events, taken in chunks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, Self, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from meterhouse.ingest.arrow_columns import ArrowRows
from meterhouse.ingest.arrow_text import Column
from meterhouse.ingest.binary_mode import BINARY_HEADERS, is_binary, structured
from meterhouse.ingest.log import ARROW_STREAM, CONTENT_TYPE, Headers, Records
from meterhouse.ingest.split import Piece

CHUNK_EVENTS: Final = 65_536
CHUNK_BYTES: Final = 256 * 1024 * 1024
"""Of one chunk's text: an Arrow string array addresses 2 GiB, and the text is in memory twice."""
IS_ARROW: Final = (CONTENT_TYPE, ARROW_STREAM.encode())


@dataclass(frozen=True, slots=True)
class Run:
    """The records of one call, flattened: columns of equal length, a row per record."""

    topics: list[str]
    partition: NDArray[np.int32]
    offset: NDArray[np.int64]
    arrived_us: NDArray[np.int64]
    keys: list[bytes | None]
    values: list[bytes | None]
    headers: list[Headers]

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
            headers=list(chain.from_iterable(run.headers for run in records)),
        )

    def is_arrow(self, record: int) -> bool:
        """Whether a record is an Arrow stream: it says so, and is not plainly JSON."""
        return (self.values[record] or b"")[:1] not in (b"{", b"[", b"") and IS_ARROW in self.headers[record]


def _joined(columns: Iterable[Sequence[int]]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(0, np.int64), *(np.asarray(column, np.int64) for column in columns)])


@dataclass(frozen=True, slots=True)
class Pieces:
    """The events of a run: bytes, the record each stands in and its place there; `strict`: fit for the fast lane."""

    bytes_: Sequence[Piece]
    size: NDArray[np.int64]
    record: NDArray[np.int64]
    index: NDArray[np.int32]
    strict: NDArray[np.bool_]


NO_PIECES: Final = Pieces(
    (), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, dtype=np.bool_)
)


def joined(*parts: Pieces) -> Pieces:
    """Pieces behind one another."""
    some = [part for part in parts if len(part.bytes_)]
    if len(some) < 2:
        return some[0] if some else NO_PIECES
    return Pieces(
        [piece for part in some for piece in part.bytes_],
        np.concatenate([part.size for part in some]),
        np.concatenate([part.record for part in some]),
        np.concatenate([part.index for part in some]),
        np.concatenate([part.strict for part in some]),
    )


class Chained(Sequence[Piece]):
    """Sequences of events behind one another, none of them looked at before it is asked for."""

    def __init__(self, parts: Sequence[Sequence[Piece]]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @overload
    def __getitem__(self, at: int) -> Piece: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Piece]: ...
    def __getitem__(self, at: int | slice) -> Piece | Sequence[Piece]:
        if isinstance(at, slice):
            return [self[row] for row in range(*at.indices(len(self)))]
        which = int(np.searchsorted(self._ends, at, side="right"))
        part = self._parts[which]
        return part[at - (int(self._ends[which]) - len(part))]


def chained(parts: Sequence[Pieces]) -> Pieces:
    """As `joined`, without a look at the events."""
    return Pieces(
        Chained([part.bytes_ for part in parts]),
        np.concatenate([part.size for part in parts]),
        np.concatenate([part.record for part in parts]),
        np.concatenate([part.index for part in parts]),
        np.concatenate([part.strict for part in parts]),
    )


def rows_of(tables: Sequence[pa.Table], records: Sequence[int]) -> Pieces:
    counts = [len(table) for table in tables]
    size = np.zeros(sum(counts), dtype=np.int64)
    index = np.concatenate([np.arange(count, dtype=np.int32) for count in counts])
    record = np.repeat(np.array(records, dtype=np.int64), counts)
    return Pieces(ArrowRows(tables), size, record, index, np.ones(len(size), dtype=np.bool_))


def chunks_of(pieces: Pieces) -> Iterator[Pieces]:
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
        yield Pieces(
            pieces.bytes_[part], pieces.size[part], pieces.record[part], pieces.index[part], pieces.strict[part]
        )
        start = stop


def text_of(chunk: Pieces) -> Column:
    """The chunk's events as one Arrow string array; what the fast lane may not read stands as an empty object."""
    pieces: Sequence[Piece] = chunk.bytes_
    size = chunk.size
    if not chunk.strict.all():
        pieces = [piece if strict else b"{}" for piece, strict in zip(pieces, chunk.strict, strict=True)]
        size = np.where(chunk.strict, size, 2)
    offsets = np.zeros(len(pieces) + 1, dtype=np.int32)
    np.cumsum(size, out=offsets[1:])
    return pa.StringArray.from_buffers(len(pieces), pa.py_buffer(offsets.data), pa.py_buffer(b"".join(pieces)))
