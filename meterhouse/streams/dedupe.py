"""Dedupe index: which keys were accepted within the window, for one partition; exact, in memory, vectorised.

A hash table of 128-bit keys with open addressing over *blocks* of eight slots. A key's *home* is the block that its
hash scales to; it stands in the first slot that was free from there on. Beside the keys stands an array of *words*, one
of 32 bits a slot: 16 bits of the hash (the tag) and the hour of arrival; 0 is a free slot. So a new key usually costs
one look at 32 bytes of words, and keys are compared only where a tag agrees. Keys stand almost in the order of their
hash, which lets the table grow in place: no second table beside it, and its size need not double.

Rows are probed a batch at a time, in rounds: all undecided rows look at their block, the decided leave, the rest go on.

The window is one of arrival, never of the event's time, and hours of arrival never go back within a partition: what is
a duplicate then depends on the log alone, not on how it is cut into batches.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from meterhouse.ingest.batch import KEY

Halves = npt.NDArray[np.uint64]
Hours = npt.NDArray[np.int32]
Keys = npt.NDArray[np.complex128]
Words = npt.NDArray[np.uint32]
Ints = npt.NDArray[np.int64]
Bytes8 = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

WINDOW_HOURS: Final = 35 * 24
BLOCK: Final = 8
"""Slots of a block: their words are half a cache line, and eight truth values are one integer of 64 bits."""
MAX_LOAD: Final = 0.75
"""Of slots in use: at 0.75 one key in five stands behind its home block; beyond, rounds become many."""
MIN_BLOCKS: Final = 128
SMALL_BLOCKS: Final = 2**18
"""Up to here (42 MB) the table doubles; beyond, it grows by a quarter: memory matters more than the copying."""
MAX_BLOCKS: Final = 2**32
"""The part of the hash that makes a home has 32 bits."""
_ROW_BITS: Final = 18
MAX_ROWS: Final = 2**_ROW_BITS
"""Of one probing: the rows' temporaries stay within 40 MB."""
MOVE_BLOCKS: Final = 2**15
"""Blocks moved at a time while the table grows: some ten megabytes."""
MAX_HOUR: Final = 2**16 - 1
"""Of a word, counted from a base hour: seven years, more than twice any window."""
MAX_WINDOW_HOURS: Final = MAX_HOUR // 2

_WORDS_OF_BLOCK: Final = np.dtype((np.void, 4 * BLOCK))
_MIX: Final = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9))  # odd constants of splitmix64
_1, _8, _16, _32 = (np.uint64(n) for n in (1, 8, 16, 32))
_BYTE: Final = np.uint64(0xFF)
_HOUR_BITS: Final = np.uint32(0xFFFF)


def key_halves(keys: pa.Array[Any] | pa.ChunkedArray[Any]) -> Halves:
    """A KEY column without nulls → (n, 2) uint64: bytes 0-7 and 8-15, little-endian."""
    if keys.type != KEY or keys.null_count:
        raise ValueError(f"a column of {KEY} without nulls is needed, not {keys.type} with {keys.null_count} nulls")
    chunks = keys.chunks if isinstance(keys, pa.ChunkedArray) else [keys]
    parts = [_chunk_halves(chunk) for chunk in chunks if len(chunk)]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty((0, 2), dtype=np.uint64)


def _chunk_halves(chunk: pa.Array[Any]) -> Halves:
    words: Halves = np.frombuffer(chunk.buffers()[1], dtype=np.uint64)  # type: ignore[call-overload]  # any buffer
    return words[2 * chunk.offset : 2 * (chunk.offset + len(chunk))].reshape(-1, 2)


def never_back(arrived_hour: Hours, newest: int | None) -> Ints:
    """Hours of arrival, all at or after `newest`, as int64. Raises ValueError when they go back."""
    hours = arrived_hour.astype(np.int64)
    before = hours[:1] if newest is None else np.array([newest])
    if bool((np.diff(hours, prepend=before) < 0).any()):
        raise ValueError(
            "hours of arrival go back: pass the running maximum of the partition's append times, "
            "or what is a duplicate would depend on how the log is cut"
        )
    return hours


class KeyIndex(Protocol):
    """What the pipeline asks which keys of a partition are new: `DedupeIndex`, or one with tiers beyond memory."""

    def __len__(self) -> int: ...

    @property
    def nbytes(self) -> int:
        """Of memory."""
        ...

    def filter(self, halves: Halves, arrived_hour: Hours) -> Mask:
        """As `DedupeIndex.filter`."""
        ...


class DedupeIndex:
    """The accepted keys of one partition.

    A key is a duplicate at hour h if it was accepted before at an hour > h - `window_hours`; if it was accepted earlier
    than that, it is accepted anew. `expected_ids` sizes the table for what is about to be inserted.
    """

    def __init__(self, window_hours: int = WINDOW_HOURS, expected_ids: int = 0) -> None:
        if not 1 <= window_hours <= MAX_WINDOW_HOURS:
            raise ValueError(f"a dedupe window is 1 to {MAX_WINDOW_HOURS} hours, not {window_hours}")
        self.window_hours = window_hours
        self._blocks = _blocks_for(expected_ids)
        self._keys: Keys = np.zeros(self._blocks * BLOCK, dtype=np.complex128)
        self._words: Words = np.zeros(self._blocks * BLOCK, dtype=np.uint32)
        self._used = 0
        self._end = self._blocks  # no key stands in this block or behind it
        self._base: int | None = None  # the hour of a word counts from here; at it or before: out of the window
        self._newest: int | None = None

    def __len__(self) -> int:
        """Keys held, those out of the window but not yet dropped included."""
        return self._used

    @property
    def nbytes(self) -> int:
        return self._keys.nbytes + self._words.nbytes

    @property
    def load(self) -> float:
        """Share of slots in use."""
        return self._used / (self._blocks * BLOCK)

    def filter(self, halves: Halves, arrived_hour: Hours) -> Mask:
        """Accepts what is new: (n, 2) uint64 keys in log order and their hours of arrival (n,) → mask (n,) of accepted.

        A mask's False is a duplicate of an earlier batch or of an earlier row. Raises ValueError when hours go back:
        the caller makes arrival monotonic.
        """
        hours = never_back(arrived_hour, self._newest)
        accepted = np.zeros(len(hours), dtype=np.bool_)
        start = 0
        while start < len(hours):
            # Hours of one part fit a word together with the window before them.
            fitting = int(np.searchsorted(hours, hours[start] + MAX_HOUR - MAX_WINDOW_HOURS - 1))
            part = slice(start, min(start + MAX_ROWS, fitting))
            oldest, self._newest = int(hours[part.start]), int(hours[part.stop - 1])
            self._make_room(part.stop - start, oldest, self._newest)
            accepted[part] = self._accept(halves[part], hours[part])
            start = part.stop
        return accepted

    def insert(self, halves: Halves, arrived_hour: Hours) -> None:
        """Takes keys in as accepted, in any order: for rebuilding. Of a key's hours the newest stays."""
        for start in range(0, len(halves), MAX_ROWS):
            part = slice(start, start + MAX_ROWS)
            hours = arrived_hour[part].astype(np.int64)
            newest = int(hours.max())
            self._newest = newest if self._newest is None else max(newest, self._newest)
            self._make_room(len(hours), self._newest, self._newest)
            self._used += self._take_in(halves[part], self._counted(hours))

    def kept(self, after_hour: int) -> tuple[Halves, Ints]:
        """Keys (n, 2) that were accepted after an hour not before the window, with their hours; nearly by hash."""
        live = np.flatnonzero(_live(self._words, after_hour - (self._base or 0) + 1))
        hours = (self._words[live] & _HOUR_BITS).astype(np.int64) - 1 + (self._base or 0)
        return _halves(self._keys.take(live)), hours

    def _accept(self, halves: Halves, hours: Ints) -> Mask:
        accepted = np.zeros(len(halves), dtype=np.bool_)
        counted = self._counted(hours)
        probe = _Probe(halves, self._blocks)
        while probe.pending:
            probe.look(self._words, self._keys)
            won = probe.first_at_its_slot(probe.free)
            self._used += len(won)
            if len(probe.same):
                # A key out of the window is accepted anew where it stands. Rows of one key go together and the first
                # takes the slot, so what a later row compares with is what the rows before it left.
                seen = (self._words[probe.slots[probe.same]] & _HOUR_BITS).astype(np.int64)
                is_stale = seen <= counted[probe.rows[probe.same]] - self.window_hours
                probe.leave(probe.same[~is_stale])
                won = np.concatenate((won, probe.first_at_its_slot(probe.same[is_stale])))
            accepted[probe.rows[won]] = True
            self._put(probe, won, counted)
            probe.go_on()
        return accepted

    def _take_in(self, halves: Halves, counted: Ints) -> int:
        """Returns how many keys were new."""
        new = 0
        probe = _Probe(halves, self._blocks)
        while probe.pending:
            probe.look(self._words, self._keys)
            if len(probe.same):
                np.maximum.at(self._words, probe.slots[probe.same], probe.words(probe.same, counted))
                probe.leave(probe.same)
            won = probe.first_at_its_slot(probe.free)
            self._put(probe, won, counted)
            new += len(won)
            probe.go_on()
        return new

    def _put(self, probe: _Probe, won: Ints, counted: Ints) -> None:
        slots = probe.slots[won]
        if len(slots):
            self._keys[slots] = probe.keys.take(probe.rows[won])
            self._words[slots] = probe.words(won, counted)
            self._end = max(self._end, int(slots.max()) // BLOCK + 1)
        probe.leave(won)

    def _counted(self, hours: Ints) -> Ints:
        """Hours as words hold them: from 1, which stands for the base hour and all before."""
        return np.maximum(hours - (self._base or 0), 0) + 1

    def _make_room(self, rows: int, oldest_hour: int, newest_hour: int) -> None:
        """Before `rows` keys of these hours are added: hours fit a word, keys the table, and the last block is free."""
        expired_hour = oldest_hour - self.window_hours
        if self._base is None:
            self._base = expired_hour
        elif newest_hour - self._base >= MAX_HOUR:
            self._count_from(expired_hour)
        if self._used + rows > self._blocks * BLOCK * MAX_LOAD:
            self._rehash(rows, expired_hour - self._base + 1)
        # The keys behind a home block that is full take up to so many blocks more, and one with a free slot ends it.
        self._resize(max(self._end, self._blocks) + rows // BLOCK + 2)

    def _count_from(self, base: int) -> None:
        gone = base - (self._base or 0)
        for start in range(0, len(self._words), MOVE_BLOCKS * BLOCK):
            words = self._words[start : start + MOVE_BLOCKS * BLOCK]
            hours = (words & _HOUR_BITS).astype(np.int64)
            new_hours = np.maximum(hours - gone, 1).astype(np.uint32)
            words[:] = np.where(words == 0, 0, (words & ~_HOUR_BITS) | new_hours)
        self._base = base

    def _resize(self, blocks: int) -> None:
        """Lengthens the arrays in place; what is added is 0, so free."""
        if blocks * BLOCK > len(self._words):
            # refcheck off: these arrays are never handed out, and a debugger's reference must not fail the meter.
            self._keys.resize(blocks * BLOCK, refcheck=False)
            self._words.resize(blocks * BLOCK, refcheck=False)

    def _rehash(self, rows: int, expired: int) -> None:
        """Drops keys whose counted hour is up to `expired`; grows in place if the rest with `rows` more is tight."""
        live = sum(int(np.count_nonzero(_live(words, expired))) for words in np.array_split(self._words, 64))
        step = 2.0 if self._blocks < SMALL_BLOCKS else 1.25
        top, self._used = self._end, live
        if live + rows > self._blocks * BLOCK * MAX_LOAD / step:
            self._blocks = max(int(self._blocks * step), _blocks_for(live + rows))
        if self._blocks > MAX_BLOCKS:
            raise MemoryError(f"a dedupe index of over {MAX_BLOCKS} blocks: use more partitions or a shorter window")
        self._end = self._blocks
        self._resize(self._blocks)
        # From the top down, cut above blocks with a free slot: a key of such a piece has its home in the piece, and its
        # new home is there or above, where everything has moved already.
        above = MAX_BLOCKS * BLOCK
        while top:
            bottom = self._cut_below(top - MOVE_BLOCKS)
            above = self._move(slice(bottom * BLOCK, top * BLOCK), above, expired)
            top = bottom

    def _cut_below(self, block: int) -> int:
        """The nearest block at or below `block` into which no key runs from the block before it."""
        while block > 0:
            low = max(block - 512, 0)
            has_free = (self._words[low * BLOCK : block * BLOCK].reshape(-1, BLOCK) == 0).any(axis=1)
            if has_free.any():
                return low + int(np.flatnonzero(has_free)[-1]) + 1
            block = low
        return 0

    def _move(self, piece: slice, above: int, expired: int) -> int:
        """Places the keys of these slots again. `above`: the lowest slot placed so far; returns it as it is then."""
        live = piece.start + np.flatnonzero(_live(self._words[piece], expired))
        keys, words = self._keys.take(live), self._words.take(live)
        self._words[piece] = 0
        if not len(live):
            return above
        homes = _homes(mixed(_halves(keys)), self._blocks) * BLOCK
        order = np.argsort(homes, kind="stable")  # nearly sorted already
        homes, keys, words = homes[order], keys[order], words[order]
        # Each stands at its home or just behind its predecessor: slot = max(home, slot before + 1).
        steps = np.arange(len(homes))
        slots = np.maximum.accumulate(homes - steps) + steps
        fitting = int(np.searchsorted(slots, above))
        self._end = max(self._end, int(slots[-1]) // BLOCK + 1)
        self._resize(self._end + (len(slots) - fitting) // BLOCK + 2)
        self._keys[slots[:fitting]] = keys[:fitting]
        self._words[slots[:fitting]] = words[:fitting]
        # The few others ran into what is placed already: they look for a free slot as new keys do.
        self._take_in(_halves(keys[fitting:]), (words[fitting:] & _HOUR_BITS).astype(np.int64))
        return int(slots[0]) if fitting else above


class _Probe:
    """Rows that look for their key's slot. A round: `look`, then `leave` for those that found it, then `go_on`.

    `rows`, `slots` have an entry per pending row, in log order. `same` and `free` number the pending rows whose slot
    holds their key, and is free.
    """

    def __init__(self, halves: Halves, blocks: int) -> None:
        halves = np.ascontiguousarray(halves)
        hashes = mixed(halves)
        self.keys = _whole(halves)
        self.rows: Ints = np.arange(len(halves))
        self._tags = ((hashes >> _16) & np.uint64(_HOUR_BITS)).astype(np.uint32)
        self._at = _homes(hashes, blocks)
        self._ruled_out = np.zeros(len(halves), dtype=np.uint64)

    @property
    def pending(self) -> int:
        return len(self.rows)

    def look(self, words: Words, keys: Keys) -> None:
        """Sets `slots`, `same` and `free`. In a block's eight truth values the lowest byte is the first slot."""
        block = words.view(_WORDS_OF_BLOCK).take(self._at).view(np.uint32).reshape(-1, BLOCK)
        before_free = _below_lowest((block == 0).view(np.uint64).ravel())
        tagged = ((block >> np.uint32(16)) == self._tags[:, np.newaxis]).view(np.uint64).ravel()
        tagged &= before_free & ~self._ruled_out
        self._before = np.where(tagged, _below_lowest(tagged), before_free)
        place = np.bitwise_count(self._before) >> np.uint8(3)
        self.slots = self._at * BLOCK + place
        is_tagged = tagged != 0
        found = np.flatnonzero(is_tagged)
        is_same = _equal(keys.take(self.slots[found]), self.keys.take(self.rows[found]))
        self.same, self._other = found[is_same], found[~is_same]
        full = place == BLOCK
        self.free = np.flatnonzero(~(is_tagged | full))
        self._full = np.flatnonzero(full)
        self._stay = np.ones(len(self.rows), dtype=np.bool_)

    def first_at_its_slot(self, numbers: Ints) -> Ints:
        """Of pending rows, by ascending number, that want their slot: for each slot the first in the log."""
        wanted = (self.slots[numbers] << _ROW_BITS) | numbers
        wanted.sort()
        slots = wanted >> _ROW_BITS
        first = np.ones(len(slots), dtype=np.bool_)
        np.not_equal(slots[1:], slots[:-1], out=first[1:])
        return wanted[first] & (MAX_ROWS - 1)

    def words(self, numbers: Ints, counted: Ints) -> Words:
        return (self._tags[numbers] << np.uint32(16)) | counted[self.rows[numbers]].astype(np.uint32)

    def leave(self, numbers: Ints) -> None:
        self._stay[numbers] = False

    def go_on(self) -> None:
        """The next round: past tags that another key has, past full blocks; who lost its slot looks again."""
        self._ruled_out[self._other] = (self._before[self._other] << _8) | _BYTE
        self._at[self._full] += 1
        self._ruled_out[self._full] = 0
        stay = np.flatnonzero(self._stay)
        self.rows, self._at, self._tags = self.rows[stay], self._at[stay], self._tags[stay]
        self._ruled_out = self._ruled_out[stay]


def _below_lowest(bits: Bytes8) -> Bytes8:
    """Ones below the lowest one; all ones if there is none."""
    return (bits - _1) & ~bits


def _live(words: Words, expired: int) -> Mask:
    return (words & _HOUR_BITS) > np.uint32(max(expired, 0))


def _blocks_for(ids: int) -> int:
    return max(MIN_BLOCKS, int(ids / MAX_LOAD / BLOCK) + 1)


def mixed(halves: Halves) -> Bytes8:
    """64 bits of hash in which any bit of either half moves the upper ones. With the second half they are the key."""
    hashes = (halves[:, 0] * _MIX[0]) ^ halves[:, 1]
    hashes ^= hashes >> _32
    hashes *= _MIX[1]
    return hashes


def _homes(hashes: Bytes8, blocks: int) -> Ints:
    """The upper 32 bits of the hash scaled to 0 .. blocks - 1: a larger hash has no lower home."""
    return (((hashes >> _32) * np.uint64(blocks)) >> _32).view(np.int64)


def _whole(halves: Halves) -> Keys:
    """(n, 2) halves as n values of 16 bytes, which numpy moves at once: moved, never read, as complex numbers."""
    return halves.view(np.complex128).reshape(-1)


def _halves(keys: Keys) -> Halves:
    return keys.view(np.uint64).reshape(-1, 2)


def _equal(a: Keys, b: Keys) -> Mask:
    ours, theirs = _halves(a), _halves(b)
    equal: Mask = (ours[:, 0] == theirs[:, 0]) & (ours[:, 1] == theirs[:, 1])
    return equal
