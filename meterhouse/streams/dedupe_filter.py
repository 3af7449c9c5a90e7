"""The filter of the dedupe tiers: a blocked Bloom filter of keys, vectorised; it says "never seen", or "perhaps".

Its lines are eight words of 64 bits, a cache line. A key's hash scales to a line, and in it the key sets four bits in
each of two words. So a probe costs one miss, and the first word alone turns away 97 of 100 keys that were never
inserted. At 16 bits a key one in a thousand is taken for seen; whoever asks then looks at the keys themselves.

Lines stand in the order of hashes: keys inserted by ascending hash walk through memory, and a filter of a billion keys
is written as fast as its keys are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final, Self

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]

BITS_A_KEY: Final = 16
LINE_WORDS: Final = 8
LINE_BITS: Final = 64 * LINE_WORDS
MAX_LINES: Final = 2**32
"""The part of the hash that finds a line has 32 bits."""
INSERT_KEYS: Final = 2**18
"""Inserted at a time: the rows' temporaries stay within some ten megabytes."""
_PATTERNS: Final = 4096  # of four bits in a word: the table stays in the first cache, and equal ones are rare
_PATTERN_BITS: Final = 4

_SPREAD: Final = np.uint64(0x94D049BB133111EB)
_32, _46, _34, _58, _61 = (np.uint64(n) for n in (32, 46, 34, 58, 61))
_1, _3, _7 = (np.uint64(n) for n in (1, 3, 7))


@dataclass(frozen=True, slots=True)
class Marks:
    """What keys (n,) would set in a filter of any size: computed once, asked of several filters."""

    high: U64  # the upper 32 bits of the hash
    first: U64  # number of the first word in its line, and the bits set in it
    first_bits: U64
    second: U64
    second_bits: U64

    @classmethod
    def of(cls, hashes: U64, rests: U64) -> Self:
        """`hashes` find the line; bits come from both, so that keys of one hash do not share them."""
        spread = (hashes ^ rests) * _SPREAD
        first = spread >> _61
        patterns, last = _patterns(), np.uint64(_PATTERNS - 1)
        return cls(
            high=hashes >> _32,
            first=first,
            first_bits=patterns.take(((spread >> _46) & last).view(np.int64)),
            second=(first + _1 + ((((spread >> _58) & _7) * _7) >> _3)) & _7,  # never the first
            second_bits=patterns.take(((spread >> _34) & last).view(np.int64)),
        )


class KeyFilter:
    """Never says that an inserted key was not."""

    def __init__(self, words: U64) -> None:
        """`words`: LINE_WORDS a line, 0 where nothing was inserted."""
        if not 0 < len(words) <= MAX_LINES * LINE_WORDS or len(words) % LINE_WORDS:
            raise ValueError(f"a filter has 1 to {MAX_LINES} lines of {LINE_WORDS} words, not {len(words)} words")
        self.words = words
        self._lines = np.uint64(len(words) // LINE_WORDS)

    @classmethod
    def for_keys(cls, keys: int, bits_a_key: int = BITS_A_KEY) -> Self:
        return cls(np.zeros(max(1, -(-keys * bits_a_key // LINE_BITS)) * LINE_WORDS, dtype=np.uint64))

    @property
    def nbytes(self) -> int:
        return self.words.nbytes

    def insert(self, hashes: U64, rests: U64) -> None:
        for start in range(0, len(hashes), INSERT_KEYS):
            part = slice(start, start + INSERT_KEYS)
            marks = Marks.of(hashes[part], rests[part])
            lines = self._lines_of(marks.high)
            np.bitwise_or.at(self.words, (lines | marks.first).view(np.int64), marks.first_bits)
            np.bitwise_or.at(self.words, (lines | marks.second).view(np.int64), marks.second_bits)

    def perhaps(self, marks: Marks) -> Ints:
        """The rows, ascending, whose keys may have been inserted."""
        lines = self._lines_of(marks.high)
        of_line = self.words.take((lines | marks.first).view(np.int64))
        of_line &= marks.first_bits
        rows = np.flatnonzero(of_line == marks.first_bits)
        wanted = marks.second_bits[rows]
        of_line = self.words.take((lines[rows] | marks.second[rows]).view(np.int64))
        found: Ints = rows[(of_line & wanted) == wanted]
        return found

    def _lines_of(self, high: U64) -> U64:
        """The number of the first word of each line."""
        lines: U64 = (high * self._lines) >> _32
        lines *= np.uint64(LINE_WORDS)
        return lines


@cache
def _patterns() -> U64:
    """Words with four bits set; the same for ever, since filters are kept in files."""
    state, patterns = 0, []
    for _ in range(_PATTERNS):
        word = 0
        while word.bit_count() < _PATTERN_BITS:
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            word |= 1 << (state >> 58)
        patterns.append(word)
    return np.array(patterns, dtype=np.uint64)
