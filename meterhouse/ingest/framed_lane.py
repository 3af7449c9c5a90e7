"""The framed lane from records to rows: which records it takes, and what of them it leaves to the others. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from meterhouse.ingest.arrow_columns import TypedChunk
from meterhouse.ingest.arrow_text import Column, Mask, times
from meterhouse.ingest.columns import ColumnReader, Columns
from meterhouse.ingest.event import MAX_EVENT_BYTES
from meterhouse.ingest.event_text import Text
from meterhouse.ingest.framed import LEARN_EVENTS, FramedReader, Taken, Words, columns_of
from meterhouse.ingest.pieces import CHUNK_EVENTS, Pieces, Run, chained, joined
from meterhouse.ingest.split import SURELY_SHALLOW_BYTES, Splitter, is_deep

PART_BYTES: Final = 4 * 1024 * 1024
"""Read at a time: so much stays in a core's cache while it is gone over some hundred times."""
MAX_LOOSE: Final = 0.25
"""Share of events that may be left of arrays; with more, splitting the arrays one by one is cheaper."""

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Framed:
    """What the lane made of some records: events that it read and those between them that it did not.

    `rest` is strict JSON, each an event. `left`: records of which it took nothing.
    """

    read: Pieces
    columns: Columns | None
    rest: Pieces
    left: Ints


@dataclass(frozen=True, slots=True)
class _Part:
    read: Pieces
    taken: Taken
    rest: Pieces
    left: Ints


class FramedLane:
    """Holds the shapes learnt so far. Not shared between threads."""

    def __init__(self, reader: ColumnReader, splitter: Splitter, *, learn_events: int = LEARN_EVENTS) -> None:
        self._columns, self._splitter = reader, splitter
        self._frames = FramedReader(learn_events=learn_events)

    def read(self, run: Run) -> Iterator[Framed]:
        """All records of the run in order, some CHUNK_EVENTS events at a time."""
        words = Words()
        parts: list[_Part] = []
        for start, stop in _parts(run.values):
            values, arrays, numbers, left = _fit(run.values, start, stop)
            parts.append(self._read(Text(values, arrays=arrays), numbers, left, words))
            if sum(part.taken.size for part in parts) >= CHUNK_EVENTS:
                yield self._framed(parts, words)
                parts, words = [], Words()
        if parts:
            yield self._framed(parts, words)

    def _framed(self, parts: list[_Part], words: Words) -> Framed:
        read = chained([part.read for part in parts])
        columns = None
        if len(read.bytes_):
            columns = _FramedChunk(self._columns, read.bytes_, columns_of([part.taken for part in parts], words)).read()
        left = np.concatenate([part.left for part in parts])
        return Framed(read, columns, joined(*(part.rest for part in parts)), left)

    def _read(self, text: Text, numbers: Ints, left: Ints, words: Words) -> _Part:
        """A text of the records `numbers`; `left` are those between them that are not in it."""
        sheet = self._frames.read(text, words)
        taken = text.sound.copy()
        loose: list[int] = []
        pieces: list[bytes] = []
        undone = np.flatnonzero(~sheet.done)
        if len(undone):
            record = text.record[undone]
            taken[record[~text.arrays[record]]] = False
            if len(undone) > MAX_LOOSE * len(text):
                taken[record] = False
            for at in undone[taken[record]].tolist():
                piece = text.events[at]
                if self._is_event(piece):
                    loose.append(at)
                    pieces.append(piece)
                else:
                    taken[text.record[at]] = False
        rows = np.flatnonzero(sheet.done & taken[text.record])
        kept = [at for at, event in enumerate(loose) if taken[text.record[event]]]
        return _Part(
            _pieces(text, rows, numbers, text.events.of(rows)),
            sheet.taken(rows),
            _pieces(text, np.array(loose, dtype=np.int64)[kept], numbers, [pieces[at] for at in kept]),
            np.sort(np.concatenate((left, numbers[~taken]))),
        )

    def _is_event(self, piece: bytes) -> bool:
        """Whether an element of an array is JSON to the letter by itself, and so the array around it is an array."""
        if len(piece) > SURELY_SHALLOW_BYTES and is_deep(piece):
            return False
        return self._splitter.split(piece) is not None


class _FramedChunk(TypedChunk):
    """Columns that are what they say, but for the time."""

    def _times(self, column: Column) -> tuple[Ints, Mask]:
        return times(column)


def _pieces(text: Text, rows: Ints, numbers: Ints, bytes_: Sequence[bytes]) -> Pieces:
    size = text.events.of(rows).sizes()
    return Pieces(bytes_, size, numbers[text.record[rows]], text.index[rows], size <= MAX_EVENT_BYTES)


def _parts(values: Sequence[bytes | None]) -> Iterator[tuple[int, int]]:
    """Runs of records of about PART_BYTES."""
    ends = np.cumsum(np.fromiter((len(value or b"") for value in values), np.int64, len(values)))
    start = 0
    while start < len(values):
        before = int(ends[start - 1]) if start else 0
        stop = max(int(np.searchsorted(ends, before + PART_BYTES, side="right")), start + 1)
        yield start, stop
        start = stop


def _fit(values: Sequence[bytes | None], start: int, stop: int) -> tuple[list[bytes], Mask, Ints, Ints]:
    """Of records start .. stop: (those that may be events, arrays without their brackets; which are arrays; their
    numbers; the numbers of the others)."""
    part = values[start:stop]
    if b"[" not in {(value or b"")[:1] for value in part[:: max(1, len(part) // 8)]} and None not in part:
        # Single events, but for some few that `Text` finds not to be.
        return list(part), np.zeros(len(part), dtype=np.bool_), np.arange(start, stop), np.zeros(0, dtype=np.int64)  # type: ignore[arg-type]
    found: list[bytes] = []
    arrays: list[bool] = []
    numbers: list[int] = []
    left: list[int] = []
    for number, value in enumerate(part, start):
        opening = (value or b"")[:1]
        is_array = opening == b"["
        if value is None or not (opening == b"{" or (is_array and value[-1:] == b"]")):
            left.append(number)
            continue
        found.append(value[1:-1] if is_array else value)
        arrays.append(is_array)
        numbers.append(number)
    return found, np.array(arrays, np.bool_), np.array(numbers, np.int64), np.array(left, np.int64)
