"""The framed lane: many events of a few shapes, JSON text → columns, without looking at their JSON one by one. Pure.

Events are cut at commas. Where a shape (`shapes.py`) says that there is an atom, one is read; the bytes between are
looked up among the shape's frames. Only an event that is all of known frames and plain atoms, from its first byte to
its last, is taken; any other is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from meterhouse.ingest.arrow_text import Column, pc, text_buffers
from meterhouse.ingest.arrow_wire import WIRE_SCHEMA
from meterhouse.ingest.batch import NAME
from meterhouse.ingest.event_text import Text
from meterhouse.ingest.shapes import Shape, Values

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
LEARN_EVENTS: Final = 256
"""A shape is learnt where so many events have none that is known: it costs as much as reading some hundred."""
MAX_SHAPES: Final = 32
"""Known at a time, over all lengths; each is tried on all events of its length that are left."""
NEW_SHAPES: Final = 4
"""Learnt in one call: senders of other JSON each time must not cost more than reading it another way."""
NEW_FRAMES: Final = 512
"""Of one place, parsed in one call, at some 10 us each: a place with more of them holds values, not frames."""

USELESS_AFTER: Final = 10_000
"""Events tried, of which a shape must have read a quarter; otherwise it costs more than it saves."""
MAX_USELESS: Final = 1_000
"""Remembered; whoever sends more kinds of unfit events gets each learnt again."""

_MAX_DIGITS: Final = 16


class FramedReader:
    """Knows shapes and learns new ones. Not shared between threads."""

    def __init__(self, *, learn_events: int = LEARN_EVENTS) -> None:
        self._learn_events = learn_events
        self._shapes: list[Shape] = []
        self._useless: set[object] = set()

    def read(self, text: Text, words: Words) -> Sheet:
        """What is sure of the text's events; their names become numbers by `words`, which grows."""
        sheet = Sheet(text, words)
        lengths = np.diff(text.first)
        left = text.whole.copy()
        for shape in tuple(self._shapes):
            self._try(shape, sheet, left, lengths)
        for attempt in range(NEW_SHAPES):
            rest = np.flatnonzero(left)
            if len(rest) < self._learn_events:
                break
            learnt = self._learn(text.events[int(rest[attempt * len(rest) // NEW_SHAPES])])
            if learnt is not None:
                self._try(learnt, sheet, left, lengths)
        sheet.done = text.whole & ~left
        sheet.check_texts()
        return sheet

    def _try(self, shape: Shape, sheet: Sheet, left: Mask, lengths: Ints) -> None:
        """Reads what is of this shape; a shape that little is of is given up."""
        rows = np.flatnonzero(left & (lengths == shape.commas))
        if not len(rows):
            return
        found = sheet.fill(shape, rows)
        left[found] = False
        shape.tried += len(rows)
        shape.found += len(found)
        if shape.tried > USELESS_AFTER and shape.found < shape.tried // 4:
            self._shapes.remove(shape)
            if len(self._useless) < MAX_USELESS:
                self._useless.add(shape.signature)

    def _learn(self, sample: bytes) -> Shape | None:
        known = {shape.signature for shape in self._shapes} | self._useless
        for fine in (False, True):
            shape = Shape.of(sample, fine=fine)
            if shape is not None and shape.signature not in known:
                self._shapes = [shape, *self._shapes[: MAX_SHAPES - 1]]
                return shape
        return None


class Words:
    """Numbers for the values of columns that have few."""

    def __init__(self) -> None:
        self._numbers: dict[str, dict[object, int]] = {}
        self._rows: dict[tuple[str, ...], dict[Values | None, tuple[int, ...]]] = {}

    def of(self, name: str) -> list[object]:
        """A column's values, in the order of their numbers."""
        return list(self._numbers[name])

    def rows(self, columns: tuple[str, ...], values: Sequence[Values | None]) -> list[tuple[int, ...]]:
        """The numbers of each of `values`, which has one for each column; -1 where there is none."""
        known = self._rows.setdefault(columns, {})
        return [known.get(value) or self._row(known, columns, value) for value in values]

    def _row(
        self, known: dict[Values | None, tuple[int, ...]], columns: tuple[str, ...], values: Values | None
    ) -> tuple[int, ...]:
        row = []
        for name, value in zip(columns, values or (None,) * len(columns), strict=True):
            numbers = self._numbers.setdefault(name, {})
            row.append(-1 if value is None else numbers.setdefault(value, len(numbers)))
        known[values] = tuple(row)
        return known[values]


class Sheet:
    """What was read of a text's events, by event: codes of names, counts, and where texts stand.

    `done`: which events were read, each being JSON to the letter.
    """

    def __init__(self, text: Text, words: Words) -> None:
        self._text = text
        self.done = np.zeros(len(text), dtype=np.bool_)
        self._words = words
        self._codes: dict[str, NDArray[np.int32]] = {}
        self._counts: dict[str, tuple[Ints, Mask]] = {}
        self._spans: dict[str, tuple[Ints, Ints]] = {}
        self._texts: dict[str, Column] = {}

    def fill(self, shape: Shape, rows: Ints) -> Ints:
        """Of `rows`, those that are of the shape; what they say is on the sheet then."""
        text = self._text
        first = text.first[rows]
        starts, ends = _spans(text, shape, first)
        good = np.ones(len(rows), dtype=np.bool_)
        for start, end in zip(starts, ends, strict=True):
            good &= start <= end
        counts, plain = _numbers(text, shape, starts, ends)
        good &= plain
        if not good.all():
            kept = np.flatnonzero(good)
            rows, first, counts = rows[kept], first[kept], counts[:, kept]
            starts, ends = [start[kept] for start in starts], [end[kept] for end in ends]
            good = good[kept]
        said = [
            _frame(text, shape, place, from_, to, good)
            for place, (from_, to) in enumerate(
                zip([text.commas[first] + 1, *ends], [*starts, text.commas[first + shape.commas]], strict=True)
            )
        ]
        kept = slice(None) if good.all() else np.flatnonzero(good)  # type: ignore[assignment]
        rows = rows[kept]
        if not len(rows):
            return rows
        for place, columns in enumerate(shape.columns):
            frame = said[place]
            if frame is None:
                continue
            codes, values = frame
            self._set_codes(columns, rows, codes[kept], values)
        numbers = iter(counts)
        for atom, start, end in zip(shape.atoms, starts, ends, strict=True):
            if atom.kind == "count":
                self._set_counts(atom.name, rows, next(numbers)[kept])
            elif atom.kind == "text":
                self._set_spans(atom.name, rows, start[kept], end[kept])
        return rows

    def _set_codes(
        self, columns: tuple[str, ...], rows: Ints, codes: NDArray[np.int32], values: list[Values | None]
    ) -> None:
        if not columns:
            return
        of_code = np.array(self._words.rows(columns, values), dtype=np.int32)
        for at, name in enumerate(columns):
            if name not in self._codes:
                self._codes[name] = np.full(len(self._text), -1, dtype=np.int32)
            self._codes[name][rows] = of_code[:, at][codes]

    def _set_counts(self, name: str, rows: Ints, values: Ints) -> None:
        if name not in self._counts:
            size = len(self._text)
            self._counts[name] = (np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.bool_))
        numbers, present = self._counts[name]
        numbers[rows] = values
        present[rows] = True

    def _set_spans(self, name: str, rows: Ints, starts: Ints, ends: Ints) -> None:
        if name not in self._spans:
            # Where there is none, an empty place at the event's start: they ascend.
            places = self._text.commas[self._text.first[:-1]] + 1
            self._spans[name] = (places, places.copy())
        spans = self._spans[name]
        spans[0][rows] = starts
        spans[1][rows] = ends

    def check_texts(self) -> None:
        """Takes events out of `done` that have a text with an escape, a quote or any but plain characters in it."""
        for name, (starts, ends) in self._spans.items():
            column = self._text.slices(starts, ends, pa.string())
            offsets, text = text_buffers(column)
            odd = (text < 0x20) | (text == ord('"')) | (text == ord("\\")) | (text >= 0x7F)
            if odd.any():
                self.done[np.searchsorted(offsets, np.flatnonzero(odd), side="right") - 1] = False
            self._texts[name] = column

    def taken(self, rows: Ints) -> Taken:
        """What the sheet says of these events."""
        if len(rows) == len(self.done):
            return Taken(len(rows), self._codes, self._counts, self._texts)
        return Taken(
            len(rows),
            {name: codes[rows] for name, codes in self._codes.items()},
            {name: (numbers[rows], present[rows]) for name, (numbers, present) in self._counts.items()},
            {name: column.take(pa.array(rows)) for name, column in self._texts.items()},
        )


@dataclass(frozen=True, slots=True)
class Taken:
    """Columns of some events: numbers of words (-1: absent), counts and where they are present, texts (empty: absent).
    A column that none of the events has is missing."""

    size: int
    codes: dict[str, NDArray[np.int32]]
    counts: dict[str, tuple[Ints, Mask]]
    texts: dict[str, Column]


def columns_of(parts: Sequence[Taken], words: Words) -> dict[str, Column]:
    """All parts one after the other as columns, by the names of WIRE_SCHEMA; `time` as text."""
    return {field.name: _column(field.name, field.type, parts, words) for field in WIRE_SCHEMA}


def _column(name: str, type_: Any, parts: Sequence[Taken], words: Words) -> Column:
    if any(name in part.texts for part in parts):
        empty = pa.scalar("", pa.string())
        texts = pa.concat_arrays([part.texts.get(name, pa.repeat(empty, part.size)) for part in parts])
        absent = np.diff(text_buffers(texts)[0]) == 0
        return pc.if_else(pa.array(absent), pa.scalar(None, pa.string()), texts) if absent.any() else texts
    if any(name in part.counts for part in parts):
        none = [(np.zeros(part.size, dtype=np.int64), np.zeros(part.size, dtype=np.bool_)) for part in parts]
        pairs = [part.counts.get(name, nothing) for part, nothing in zip(parts, none, strict=True)]
        numbers, present = (np.concatenate(column) for column in zip(*pairs, strict=True))
        return pa.array(numbers) if present.all() else pa.array(numbers, mask=~present)
    if any(name in part.codes for part in parts):
        codes = np.concatenate([part.codes.get(name, np.full(part.size, -1, dtype=np.int32)) for part in parts])
        absent = codes < 0
        indices = pa.array(codes, mask=absent) if absent.any() else pa.array(codes)
        if type_ == NAME:
            return pa.DictionaryArray.from_arrays(indices, pa.array(words.of(name), pa.string()))
        return pa.array(words.of(name), type_).take(indices)
    return pa.nulls(sum(part.size for part in parts), pa.string() if name == "time" else type_)


def _spans(text: Text, shape: Shape, first: Ints) -> tuple[list[Ints], list[Ints]]:
    """Where each atom would stand in each event."""
    commas: dict[int, Ints] = {}

    def comma(number: int) -> Ints:
        if number not in commas:
            commas[number] = text.commas[first + number]
        return commas[number]

    ends = [comma(atom.comma + 1) - atom.before for atom in shape.atoms]
    starts = [
        end if atom.kind == "cut" else comma(atom.comma) + atom.after
        for atom, end in zip(shape.atoms, ends, strict=True)
    ]
    return starts, ends


_ZEROS: Final = np.uint64(0x3030303030303030)
_LOW: Final = np.uint64(0x0F0F0F0F0F0F0F0F)
_HIGH: Final = np.uint64(0xF0F0F0F0F0F0F0F0)
_SIXES: Final = np.uint64(0x0606060606060606)
_LAST: Final = np.array([0] + [2**64 - 2 ** (64 - 8 * n) for n in range(1, 9)], dtype=np.uint64)
"""The last n of eight bytes."""
_POWERS: Final = np.array([0, 0, *(10**n for n in range(1, _MAX_DIGITS))], dtype=np.int64)
"""Of so many digits, the least number that does not begin with 0 (one digit may)."""


def _numbers(text: Text, shape: Shape, starts: list[Ints], ends: list[Ints]) -> tuple[Ints, Mask]:
    """(the counts of each event, a row per count of the shape; where all of them are digits as JSON has them)."""
    which = [at for at, atom in enumerate(shape.atoms) if atom.kind == "count"]
    size = len(starts[0])
    if not which:
        return np.zeros((0, size), dtype=np.int64), np.ones(size, dtype=np.bool_)
    end = np.stack([ends[at] for at in which])
    length = end - np.stack([starts[at] for at in which])
    plain = (length >= 1) & (length <= _MAX_DIGITS)
    length = np.where(plain, length, 1)
    values, digits = _eight_digits(text.words[end - 8], np.minimum(length, 8))
    plain &= digits
    long = np.nonzero(length > 8)
    if len(long[0]):
        above, digits = _eight_digits(text.words[end[long] - 16], length[long] - 8)
        values[long] += above * 10**8
        plain[long] &= digits
    plain &= values >= _POWERS[length]
    return values, np.logical_and.reduce(plain, axis=0)


def _eight_digits(words: NDArray[np.uint64], length: Ints) -> tuple[Ints, Mask]:
    """The number in the last `length` of each eight characters, and whether they are digits (after D. Lemire)."""
    last = _LAST[length]
    words = (words & last) | (_ZEROS & ~last)
    digits = ((words & _HIGH) == _ZEROS) & (((words + _SIXES) & _HIGH) == _ZEROS)
    words = words & _LOW
    words = (words * np.uint64(2561)) >> np.uint64(8)
    words = ((words & np.uint64(0x00FF00FF00FF00FF)) * np.uint64(6553601)) >> np.uint64(16)
    words = ((words & np.uint64(0x0000FFFF0000FFFF)) * np.uint64(42949672960001)) >> np.uint64(32)
    return words.view(np.int64), digits


def _frame(
    text: Text, shape: Shape, place: int, starts: Ints, ends: Ints, good: Mask
) -> tuple[NDArray[np.int32], list[Values | None]] | None:
    """(the number of each event's frame in this place, what each says); None where all say nothing. Events whose frame
    is not one of the shape are not `good` after it."""
    if shape.is_literal(place) and not shape.columns[place]:
        _compare(text, starts, shape.frames[place], good)
        return None
    encoded = text.slices(starts, ends, pa.binary()).dictionary_encode()
    frames = encoded.dictionary.to_pylist()
    values = shape.all_values(place, frames, NEW_FRAMES)
    codes: NDArray[np.int32] = encoded.indices.to_numpy()
    if None in values:
        good &= np.array([value is not None for value in values])[codes]
    return codes, values


def _compare(text: Text, starts: Ints, frame: bytes, good: Mask) -> None:
    """Takes events out of `good` that have not these bytes at their start."""
    for at in range(0, len(frame), 8):
        part = frame[at : at + 8]
        if len(part) < 8 <= len(frame):
            at, part = len(frame) - 8, frame[-8:]  # noqa: PLW2901
        words = text.words[starts + at]
        if len(part) < 8:
            words = words & np.uint64(2 ** (8 * len(part)) - 1)
        good &= words == np.uint64(int.from_bytes(part, "little"))
