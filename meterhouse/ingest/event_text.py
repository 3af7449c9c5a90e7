"""Records as one text of events, cut at its commas. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from meterhouse.ingest.arrow_text import Column, Mask, pc
from meterhouse.ingest.shapes import MAX_FRAME_BYTES

Ints = NDArray[np.int64]

_PAD: Final = b" " * (MAX_FRAME_BYTES + 16)
"""Around the text: an atom or a frame may be looked for beside it."""
_COMMA, _OPEN, _CLOSE = ord(","), ord("{"), ord("}")


class Events(Sequence[bytes]):
    """Events of a text, cut out when they are asked for: few are."""

    def __init__(self, text: bytes, starts: Ints, ends: Ints) -> None:
        self._text, self._starts, self._ends = text, starts, ends

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[bytes]: ...
    def __getitem__(self, at: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(at, slice):
            return Events(self._text, self._starts[at], self._ends[at])
        return self._text[self._starts[at] : self._ends[at]]

    def sizes(self) -> Ints:
        sizes: Ints = self._ends - self._starts
        return sizes

    def of(self, rows: Ints) -> Events:
        return Events(self._text, self._starts[rows], self._ends[rows])


class Text:
    """Records, each one event or an array of events, as one text: `{...},{...},{...}`, cut at its commas.

    `commas`: their places, and one on either side of the text. `first`: of each event, which of them is the one before
    it; one more for the end. `record`, `index`: where each event stands; of a record that is cut at a place where no
    event begins or ends, none is `whole`.
    """

    def __init__(self, values: Sequence[bytes], *, arrays: Mask) -> None:
        """`values`: of an array, without its brackets."""
        self.arrays = arrays
        size = np.fromiter(map(len, values), np.int64, len(values))
        self._bytes = _PAD + b",".join(values) + _PAD
        self.bytes_ = np.frombuffer(self._bytes, np.uint8)
        self.words = np.ndarray((len(self._bytes) - 7,), dtype="<u8", buffer=self._bytes, strides=(1,))
        ends = np.cumsum(size + 1) + (len(_PAD) - 1)  # of each record, the comma behind it
        inside = self.bytes_[len(_PAD) : -len(_PAD)]
        self.commas = np.concatenate(
            ([len(_PAD) - 1], np.flatnonzero(inside == _COMMA) + len(_PAD), [len(self._bytes) - len(_PAD)])
        )
        opening = np.flatnonzero(self.bytes_[self.commas[1:-1] + 1] == _OPEN) + 1
        between = opening[self.bytes_[self.commas[opening] - 1] == _CLOSE]
        self.first = np.concatenate(([0], between, [len(self.commas) - 1]))
        begins = self.commas[self.first]  # the comma before each event
        starts = np.concatenate(([len(_PAD) - 1], ends[:-1]))
        event = np.searchsorted(begins[:-1], starts)
        opens = np.append(begins[np.minimum(event, len(begins) - 1)] == starts, True)
        events = np.diff(np.append(event, len(begins) - 1))
        sound = opens[:-1] & opens[1:] & (arrays | (events == 1)) & (events > 0)
        self.record = np.repeat(np.arange(len(values)), np.maximum(events, 0))
        # Events before the first record that begins with one belong to none; there are none of these.
        self.index = (np.arange(len(self.record)) - event[self.record]).astype(np.int32)
        self.events = Events(self._bytes, begins[:-1] + 1, begins[1:])
        self.whole = (
            sound[self.record] & (self.bytes_[begins[:-1] + 1] == _OPEN) & (self.bytes_[begins[1:] - 1] == _CLOSE)
        )
        self.sound = sound

    def __len__(self) -> int:
        return len(self.first) - 1

    def slices(self, starts: Ints, ends: Ints, type_: Any) -> Column:
        """The bytes from each start to each end, which ascend, as an Arrow array."""
        offsets = np.empty(2 * len(starts), dtype=np.int32)
        offsets[0::2] = starts
        offsets[1::2] = ends
        alternate = pa.Array.from_buffers(
            type_, max(len(offsets) - 1, 0), [None, pa.py_buffer(offsets.data), pa.py_buffer(self._bytes)]
        )
        return pc.take(alternate, pa.array(np.arange(0, len(offsets), 2)))
