"""The dedupe index beyond memory: a hot table of the newest keys, and below it generations of runs behind filters.

The hot table is a `DedupeIndex` of bounded size. When it is full it is *sealed*: its keys become a run in memory, at
once covered by the filter of the open generation. Once the lake has committed every key of it, upkeep (on a thread of
its own, `dedupe_upkeep`) writes the run to a file; runs of a closed generation are merged into one, with a filter of
their own. A key that no filter knows was never accepted; for the others the runs say when.

Tiers hold the same keys wherever they stand, so sealing, writing, merging and expiry change no answer.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from threading import Event, Lock
from typing import Final

import numpy as np

from meterhouse.streams.dedupe import MAX_ROWS, DedupeIndex, Halves, Hours, Ints, Mask, mixed, never_back
from meterhouse.streams.dedupe_files import FilterFacts
from meterhouse.streams.dedupe_filter import BITS_A_KEY, KeyFilter, Marks
from meterhouse.streams.dedupe_runs import MERGE_KEYS, Damaged, Run, in_memory, newest_hours, sorted_entries
from meterhouse.streams.ledger import AcceptedKeys, Position

_HOUR_US: Final = 3_600 * 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TierLimits:
    """Sizes of the tiers, each with its reason."""

    hot_keys: int = 2**22  # of all partitions of a process: 150 MB; retries come within minutes
    least_hot_keys: int = 2**16  # of a partition, however many there are: runs of less are mostly file names
    runs_a_generation: int = 8  # merged at a time: each key is written once more for eight seals
    generations: int = 5  # merged ones: each costs every new key a cache miss
    load_keys: int = 2**22  # sorted at a time when all comes from the lake: 300 MB for a moment
    merge_keys: int = MERGE_KEYS


@dataclass(frozen=True, slots=True)
class Anchor:
    """A committed position, as far as dedupe is concerned."""

    accepted: int = 0  # keys since offset 0
    next_offset: int = 0
    arrived_hour: int | None = None

    @classmethod
    def of(cls, position: Position) -> Anchor:
        hour = None if position.arrived_us is None else position.arrived_us // _HOUR_US
        return cls(position.counts.accepted, position.next_offset, hour)


@dataclass(frozen=True, slots=True, eq=False)
class Generation:
    """Runs and the filter of all their keys. `facts`: of the filter's file, if it has one; an open one takes more."""

    filter: KeyFilter
    runs: tuple[Run, ...]
    facts: FilterFacts | None = None
    is_open: bool = False

    @property
    def keys(self) -> int:
        return sum(run.facts.keys for run in self.runs)

    @property
    def oldest_hour(self) -> int:
        return min(run.facts.oldest_hour for run in self.runs)

    @property
    def newest_hour(self) -> int:
        return max(run.facts.newest_hour for run in self.runs)

    @property
    def is_in_files(self) -> bool:
        return all(run.facts.name for run in self.runs)


@dataclass(frozen=True, slots=True, eq=False)
class Sealed:
    """A run in memory that waits for its keys to be committed. With it the first `accepted` keys are in runs; `anchor`
    is the newest position whose keys are all among them. It lacks what was out of the window at `newest_hour`."""

    run: Run | None  # None: nothing of it was within the window
    accepted: int
    newest_hour: int
    anchor: Anchor

    def is_committed_by(self, committed: Anchor) -> bool:
        """Never again will the meter read what needs a key that the run lacks, or lacks a key that it has."""
        hour = committed.arrived_hour
        return self.accepted <= committed.accepted and hour is not None and self.newest_hour <= hour


@dataclass(slots=True)
class Tiers:
    """What the meter's thread and upkeep share. Tuples are replaced, under the lock, never changed."""

    generations: tuple[Generation, ...] = ()
    sealed: deque[Sealed] = field(default_factory=deque)
    committed: Anchor = field(default_factory=Anchor)
    after_hour: int | None = None  # what arrived then or earlier is out of the window of all that is not committed
    lock: Lock = field(default_factory=Lock)
    closing: Event = field(default_factory=Event)
    damage: Damaged | None = None  # noticed by either

    def add(self, run: Run, capacity_keys: int, most_runs: int) -> None:
        """A run to the open generation, or to a new one for `capacity_keys`; a full one is closed."""
        entries = run.blocks(np.arange(len(run.firsts)))
        with self.lock:
            before = self.generations
            if before and before[-1].is_open:
                last, before = before[-1], before[:-1]
            else:
                last = Generation(KeyFilter.for_keys(capacity_keys), (), is_open=True)
            last.filter.insert(entries["hash"].reshape(-1), entries["rest"].reshape(-1))
            runs = (*last.runs, run)
            keys = sum(one.facts.keys for one in runs)
            is_full = len(runs) >= most_runs or keys * BITS_A_KEY >= last.filter.nbytes * 8
            self.generations = (*before, Generation(last.filter, runs, is_open=not is_full))

    def swap(self, old: Sequence[Generation], new: Sequence[Generation]) -> None:
        """Puts `new` where `old`, which stand side by side, are. They are there: only upkeep removes generations."""
        with self.lock:
            place = self.generations.index(old[0])
            self.generations = (*self.generations[:place], *new, *self.generations[place + len(old) :])

    def swap_run(self, old: Run, new: Run) -> None:
        with self.lock:
            self.generations = tuple(
                replace(g, runs=tuple(new if run is old else run for run in g.runs)) if old in g.runs else g
                for g in self.generations
            )


class TieredIndex:
    """The accepted keys of one partition, most of them not in memory. Decides exactly as `DedupeIndex`.

    `hot_keys` tells how many keys its hot table may hold; `nudge` is called when upkeep has something to do.
    """

    def __init__(
        self,
        window_hours: int,
        tiers: Tiers,
        limits: TierLimits,
        hot_keys: Callable[[], int],
        nudge: Callable[[], None],
    ) -> None:
        self.window_hours = window_hours
        self._tiers = tiers
        self._limits = limits
        self._hot_keys = hot_keys
        self._nudge = nudge
        self._hot = DedupeIndex(window_hours)
        self._newest: int | None = None
        self._accepted = 0

    def __len__(self) -> int:
        """Keys held, repeats and what is out of the window but not yet dropped included."""
        return len(self._hot) + sum(generation.keys for generation in self._tiers.generations)

    @property
    def nbytes(self) -> int:
        of_tiers = 0
        for generation in self._tiers.generations:
            in_memory_keys = sum(run.facts.keys for run in generation.runs if not run.facts.name)
            of_tiers += generation.filter.nbytes + 19 * in_memory_keys + sum(r.firsts.nbytes for r in generation.runs)
        return self._hot.nbytes + of_tiers

    @property
    def hot_keys(self) -> int:
        return len(self._hot)

    @property
    def all_is_committed(self) -> bool:
        return self._accepted == self._tiers.committed.accepted

    def filter(self, halves: Halves, arrived_hour: Hours) -> Mask:
        """As `DedupeIndex.filter`. Raises Damaged: then the index is of no more use, and the next one is filled from
        the lake."""
        hours = never_back(arrived_hour, self._newest)
        accepted = np.zeros(len(hours), dtype=np.bool_)
        start = 0
        while start < len(hours):
            part = slice(start, start + min(MAX_ROWS, self._hot_keys()))
            accepted[part] = self._accept(halves[part], hours[part])
            start = part.stop
            self._accepted += int(np.count_nonzero(accepted[part]))
            if len(self._hot) >= self._hot_keys():
                self.seal()
        return accepted

    def _accept(self, halves: Halves, hours: Ints) -> Mask:
        if self._tiers.damage is not None:
            raise self._tiers.damage
        self._newest = int(hours[-1])
        try:
            new = ~self._seen_below(halves, hours)
        except Damaged as damage:
            self._tiers.damage = damage
            raise
        if new.all():
            return self._hot.filter(halves, hours.astype(np.int32))
        new[new] = self._hot.filter(halves[new], hours[new].astype(np.int32))
        return new

    def _seen_below(self, halves: Halves, hours: Ints) -> Mask:
        """Rows (n,) whose key a run says was accepted within the window."""
        seen = np.zeros(len(halves), dtype=np.bool_)
        generations = self._tiers.generations
        if not generations:
            return seen
        hashes, rests, expired = mixed(halves), halves[:, 1], hours - self.window_hours
        marks = Marks.of(hashes, rests)
        for generation in generations:
            rows = generation.filter.perhaps(marks)
            for run in generation.runs:
                rows = rows[~seen[rows]]
                if not len(rows):
                    break
                seen[rows] = newest_hours(run, hashes[rows], rests[rows]) > expired[rows]
        return seen

    def seal(self) -> None:
        """Turns the hot table into a run in memory."""
        assert self._newest is not None
        entries = sorted_entries(*self._hot.kept(self._newest - self.window_hours))
        run = in_memory(entries, fresh_salt()) if len(entries) else None
        capacity = max(self._hot_keys(), len(entries)) * self._limits.runs_a_generation
        if run is not None:
            self._tiers.add(run, capacity, self._limits.runs_a_generation)
        with self._tiers.lock:
            self._tiers.sealed.append(Sealed(run, self._accepted, self._newest, self._tiers.committed))
        self._hot = DedupeIndex(self.window_hours, expected_ids=min(len(self._hot), self._hot_keys()))
        self._nudge()

    def committed(self, position: Position) -> None:
        """The lake has all that was accepted before `position`."""
        if position.next_offset < self._tiers.committed.next_offset:
            return  # news of a commit that was in flight when this index was opened
        if self._commit(position) or self._tiers.sealed:
            self._nudge()

    def _commit(self, position: Position) -> bool:
        """True: keys have left the window, which ends where reading would begin after a crash."""
        tiers, before = self._tiers, self._tiers.after_hour
        tiers.committed = anchor = Anchor.of(position)
        if anchor.arrived_hour is not None:
            tiers.after_hour = anchor.arrived_hour - self.window_hours
        return tiers.after_hour != before

    # -- at the start ------------------------------------------------------------------------------------------------

    def begin(self, position: Position) -> None:
        """Says where the partition stands: all that is held is committed, and what comes next is counted from here."""
        self._commit(position)
        self._accepted, self._newest = self._tiers.committed.accepted, self._tiers.committed.arrived_hour

    def take_in(self, chunks: Iterable[AcceptedKeys], keep: Callable[[Run], Run]) -> tuple[int, bool]:
        """Takes the lake's keys in. Returns how many, and whether they became runs: then the hot table is empty, as it
        must have been. `keep` puts a run where it may stay."""
        waiting: list[AcceptedKeys] = []
        count, waiting_count, sealed = 0, 0, False
        for keys in chunks:
            waiting.append(keys)
            count += len(keys.halves)
            waiting_count += len(keys.halves)
            if waiting_count >= self._limits.load_keys:
                self._to_run(waiting, keep)
                waiting, waiting_count, sealed = [], 0, True
        if sealed or count > self._hot_keys():
            self._to_run(waiting, keep)
            return count, True
        for keys in waiting:
            self._hot.insert(keys.halves, keys.arrived_hour)
        return count, False

    def _to_run(self, waiting: Sequence[AcceptedKeys], keep: Callable[[Run], Run]) -> None:
        if waiting:
            halves = np.concatenate([keys.halves for keys in waiting])
            hours = np.concatenate([keys.arrived_hour for keys in waiting]).astype(np.int64)
            run = keep(in_memory(sorted_entries(halves, hours), fresh_salt()))
            most_runs = self._limits.runs_a_generation
            self._tiers.add(run, most_runs * max(self._limits.load_keys, len(halves)), most_runs)


def fresh_salt() -> int:
    """Of a run: no other has it."""
    return int.from_bytes(os.urandom(8), "little")
