"""Runs: keys by ascending hash in checked blocks of 4,096 bytes, in memory or in a file; searched and merged.

A run holds each key as its hash and its rest: `mixed` turns the first half of a key into a hash of both, which can be
undone where the second half, the rest, is known, so a key is found again exactly. Beside its blocks stands the first
hash of each block (8 bytes for 224 keys), so that one block is read to say whether a key is there, and when it arrived.

A block carries a sum of its words, salted with the run's number and the block's: torn, damaged or misplaced blocks are
noticed by whoever reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from meterhouse.streams.dedupe import Halves, mixed

U64 = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Blocks = npt.NDArray[Any]

BLOCK_KEYS: Final = 224
BLOCK: Final = np.dtype(
    [
        ("hash", "<u8", (BLOCK_KEYS,)),
        ("rest", "<u8", (BLOCK_KEYS,)),
        ("hour", "<u2", (BLOCK_KEYS,)),  # from the run's base hour
        ("unused", "<u8", (7,)),
        ("check", "<u8"),
    ]
)
assert BLOCK.itemsize == 4096  # a page
NEVER: Final = -(2**62)
"""The hour of a key that is not there."""
SEARCH_BLOCKS: Final = 1024
"""Read at a time by a search: 4 MB."""
MERGE_KEYS: Final = 2**20
"""Merged at a time: some 80 MB with temporaries."""
_WORDS: Final = BLOCK.itemsize // 8
_WEIGHTS: Final = (np.arange(1, _WORDS, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) | np.uint64(1)


class Damaged(Exception):
    """A local file of the dedupe tiers is not what was written: what it holds must be read from the lake again."""


@dataclass(frozen=True, slots=True)
class Entries:
    """Keys by ascending hash, and the hour of arrival of each. Columns of equal length."""

    hashes: U64
    rests: U64
    hours: Ints

    def __len__(self) -> int:
        return len(self.hashes)

    def __getitem__(self, part: slice | Ints | npt.NDArray[np.bool_]) -> Entries:
        return Entries(self.hashes[part], self.rests[part], self.hours[part])


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What is known of a run beside its keys. `keys` counts them, repeats included."""

    name: str  # of its file; empty while it is in memory
    salt: int
    keys: int
    base_hour: int
    oldest_hour: int
    newest_hour: int


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """`read`: ascending numbers of blocks → these blocks, not checked. `firsts`: the first hash of each block."""

    facts: RunFacts
    firsts: U64
    read: Callable[[Ints], Blocks]

    def blocks(self, numbers: Ints) -> Blocks:
        """Raises Damaged."""
        blocks = self.read(numbers)
        if not np.array_equal(blocks["check"], _sums(blocks, numbers, self.facts.salt)):
            raise Damaged(f"a block of run {self.facts.name or 'in memory'} is not as it was written")
        return blocks


def sorted_entries(halves: Halves, hours: Ints) -> Entries:
    """Keys (n, 2) in any order as entries."""
    hashes = mixed(halves)
    order = np.argsort(hashes, kind="stable")  # fast where they nearly are
    return Entries(hashes.take(order), halves[:, 1].take(order), hours.take(order))


def in_memory(entries: Entries, salt: int) -> Run:
    """A run of at least one entry, whose hours lie within 2^16 of each other."""
    facts = facts_of(entries, salt)
    blocks = np.concatenate(list(blocks_of([entries], facts)))
    return Run(facts, blocks["hash"][:, 0].copy(), blocks.take)


def facts_of(entries: Entries, salt: int) -> RunFacts:
    oldest, newest = int(entries.hours.min()), int(entries.hours.max())
    return RunFacts("", salt, len(entries), oldest, oldest, newest)


def blocks_of(chunks: Iterable[Entries], facts: RunFacts) -> Iterator[Blocks]:
    """The blocks of a run, given all its entries by ascending hash, in pieces of any size."""
    number, left = 0, Entries(np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.int64))
    for chunk in chunks:
        both = _stacked([left, chunk]) if len(left) else chunk
        whole = len(both) // BLOCK_KEYS * BLOCK_KEYS
        left = both[whole:]
        if whole:
            yield _block(both[:whole], number, facts)
            number += whole // BLOCK_KEYS
    if len(left):
        # What the last block lacks is filled with its last entry: a repeat changes no answer.
        yield _block(left[np.minimum(np.arange(BLOCK_KEYS), len(left) - 1)], number, facts)


def _block(entries: Entries, first_number: int, facts: RunFacts) -> Blocks:
    blocks = np.zeros(len(entries) // BLOCK_KEYS, dtype=BLOCK)
    blocks["hash"] = entries.hashes.reshape(-1, BLOCK_KEYS)
    blocks["rest"] = entries.rests.reshape(-1, BLOCK_KEYS)
    blocks["hour"] = (entries.hours - facts.base_hour).reshape(-1, BLOCK_KEYS)
    blocks["check"] = _sums(blocks, first_number + np.arange(len(blocks)), facts.salt)
    return blocks


def _sums(blocks: Blocks, numbers: Ints, salt: int) -> U64:
    words = blocks.view(np.uint64).reshape(-1, _WORDS)[:, :-1]
    sums: U64 = np.einsum("ij,j->i", words, _WEIGHTS)
    return sums + np.uint64(salt) * (numbers.astype(np.uint64) * np.uint64(2) + np.uint64(1))


def newest_hours(run: Run, hashes: U64, rests: U64) -> Ints:
    """When each key (n,) arrived last, as far as this run knows; NEVER where it is not there. Raises Damaged."""
    hours = np.full(len(hashes), NEVER, dtype=np.int64)
    # Keys of one hash may run over blocks: from the last that starts below it to the last that starts with it.
    low = np.maximum(np.searchsorted(run.firsts, hashes, "left") - 1, 0)
    counts = np.maximum(np.searchsorted(run.firsts, hashes, "right") - low, 0)
    rows = np.repeat(np.arange(len(hashes)), counts)
    at = low[rows] + np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    order = np.argsort(at, kind="stable")
    for start in range(0, len(order), SEARCH_BLOCKS):
        part = order[start : start + SEARCH_BLOCKS]
        numbers, which = np.unique(at[part], return_inverse=True)
        blocks, of_part = run.blocks(numbers), rows[part]
        same = blocks["hash"].take(which, axis=0) == hashes[of_part][:, np.newaxis]
        found, column = np.nonzero(same)
        is_key = blocks["rest"][which[found], column] == rests[of_part[found]]
        found, column = found[is_key], column[is_key]
        seen = blocks["hour"][which[found], column].astype(np.int64) + run.facts.base_hour
        np.maximum.at(hours, of_part[found], seen)
    return hours


def entries_of(run: Run, first_block: int, end_block: int) -> Entries:
    """All entries of blocks [first, end). Raises Damaged."""
    blocks = run.blocks(np.arange(first_block, end_block))
    count = min(run.facts.keys - first_block * BLOCK_KEYS, len(blocks) * BLOCK_KEYS)
    hours = blocks["hour"].reshape(-1)[:count].astype(np.int64) + run.facts.base_hour
    return Entries(blocks["hash"].reshape(-1)[:count], blocks["rest"].reshape(-1)[:count], hours)


def merged(runs: Sequence[Run], after_hour: int, chunk_keys: int = MERGE_KEYS) -> Iterator[Entries]:
    """Entries of all runs by ascending hash, but for those that arrived at `after_hour` or earlier. Raises Damaged.

    Of a key's entries the newest stays.
    """
    pieces = -(-sum(run.facts.keys for run in runs) // chunk_keys)
    step = 2**64 // pieces + 1  # hashes are uniform: pieces are of about one size
    for piece in range(pieces):
        parts = [_between(run, piece * step, (piece + 1) * step) for run in runs]
        entries = _stacked([part[part.hours > after_hour] for part in parts])
        if len(entries):
            entries = entries[np.argsort(entries.hashes, kind="stable")]  # merges what is sorted in parts
            yield _newest_of_each(entries) if (entries.hashes[1:] == entries.hashes[:-1]).any() else entries


def _newest_of_each(entries: Entries) -> Entries:
    entries = entries[np.lexsort((entries.hours, entries.rests, entries.hashes))]
    is_last = (entries.hashes[1:] != entries.hashes[:-1]) | (entries.rests[1:] != entries.rests[:-1])
    return entries[np.append(is_last, True)]


def _between(run: Run, low: int, end: int) -> Entries:
    """Entries with low <= hash < end."""
    first, last = np.uint64(min(low, 2**64 - 1)), np.uint64(min(end - 1, 2**64 - 1))
    first_block = max(int(np.searchsorted(run.firsts, first, "left")) - 1, 0)
    end_block = int(np.searchsorted(run.firsts, last, "right"))
    entries = entries_of(run, first_block, max(end_block, first_block))
    return entries[slice(np.searchsorted(entries.hashes, first), np.searchsorted(entries.hashes, last, "right"))]


def _stacked(parts: Sequence[Entries]) -> Entries:
    return Entries(
        np.concatenate([part.hashes for part in parts]),
        np.concatenate([part.rests for part in parts]),
        np.concatenate([part.hours for part in parts]),
    )
