"""Upkeep of one partition's dedupe tiers, beside the meter: writes runs to files, merges them, drops what has expired.

Each call does one bounded piece, so that upkeep of several partitions can take turns on one thread. After each piece a
manifest says what the files hold; only keys of committed events are ever written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from meterhouse.streams.dedupe_files import Folder, GenerationFacts, Manifest
from meterhouse.streams.dedupe_filter import KeyFilter
from meterhouse.streams.dedupe_runs import BLOCK_KEYS, NEVER, Entries, Run, RunFacts, entries_of, merged
from meterhouse.streams.dedupe_tiers import Anchor, Generation, TierLimits, Tiers, fresh_salt

SPAN_SHARE = 4
"""Of the window: a generation that spans more than a quarter of it would hold expired keys for too long."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose keys a folder holds."""

    lake: str
    layout: int  # partitions of the topic: where it grew, keys moved
    partition: int
    window_hours: int


class Stopped(Exception):
    """The partition is being given up: a merge ends where it stands, and its files are removed."""


class Upkeep:
    """`bits_for(keys)`: bits a key that a new filter may take. `meanwhile` is called often during a long merge."""

    def __init__(
        self, origin: Origin, folder: Folder, tiers: Tiers, limits: TierLimits, bits_for: Callable[[int], int]
    ) -> None:
        self.origin = origin
        self.folder = folder
        self._tiers = tiers
        self._limits = limits
        self._bits_for = bits_for
        self._covered: tuple[int, Anchor] | None = None  # what the files hold; None: nothing yet

    def piece(self, meanwhile: Callable[[], object]) -> bool:
        """Does one piece of work; False: there was none. Raises OSError, Damaged, Stopped."""
        return self.write_sealed() or self._expire() or self._merge_next(meanwhile)

    # -- at the start ------------------------------------------------------------------------------------------------

    def restore(self, manifest: Manifest) -> None:
        """Takes over what the files hold. Raises Damaged."""
        generations = []
        for facts in manifest.generations:
            runs = tuple(self.folder.open_run(run) for run in facts.runs)
            filter_ = self._filter_of(runs) if facts.filter is None else self.folder.read_filter(facts.filter)
            generations.append(Generation(filter_, runs, facts.filter))
        self._tiers.generations = tuple(generations)
        anchor = Anchor(manifest.accepted_before, manifest.next_offset, manifest.arrived_hour)
        self._covered = (manifest.accepted, anchor)

    def _filter_of(self, runs: Sequence[Run]) -> KeyFilter:
        made = KeyFilter.for_keys(sum(run.facts.keys for run in runs))
        for run in runs:
            for part in _parts(run, self._limits.merge_keys):
                made.insert(part.hashes, part.rests)
        return made

    def keep(self, run: Run) -> Run:
        """A run that came from the lake, in a file. It counts once `covers` says so."""
        return self.folder.write_run(_parts(run, self._limits.merge_keys), run.facts)

    def covers(self, anchor: Anchor) -> None:
        """All keys accepted before the anchor are in files now."""
        self._covered = (anchor.accepted, anchor)
        self._list()

    # -- pieces of work ----------------------------------------------------------------------------------------------

    def write_sealed(self) -> bool:
        """Writes the oldest sealed run whose keys are all committed."""
        with self._tiers.lock:
            sealed = self._tiers.sealed[0] if self._tiers.sealed else None
            is_there = sealed is not None and any(sealed.run in g.runs for g in self._tiers.generations)
            if sealed is None or not sealed.is_committed_by(self._tiers.committed):
                return False
        if sealed.run is not None and is_there:  # else it has expired
            self._tiers.swap_run(sealed.run, self.keep(sealed.run))
        with self._tiers.lock:
            self._tiers.sealed.popleft()
        self._covered = (sealed.accepted, sealed.anchor)
        self._list()
        return True

    def _expire(self) -> bool:
        after_hour = self._after_hour
        with self._tiers.lock:
            expired = [g for g in self._tiers.generations if g.newest_hour <= after_hour]
            self._tiers.generations = tuple(g for g in self._tiers.generations if g not in expired)
        if expired:
            self._list()
        return bool(expired)

    @property
    def _after_hour(self) -> int:
        return NEVER if self._tiers.after_hour is None else self._tiers.after_hour

    def _merge_next(self, meanwhile: Callable[[], object]) -> bool:
        group = self._next_group()
        if group is None:
            return False
        generation = self._merge(group, meanwhile)
        self._tiers.swap(group, [generation] if generation is not None else [])
        self._list()
        return True

    def _next_group(self) -> Sequence[Generation] | None:
        """A closed generation whose runs are to become one, or the smallest neighbours where there are too many."""
        closed = [g for g in self._tiers.generations if not g.is_open and g.is_in_files]
        for generation in closed:
            if generation.facts is None:
                return [generation]
        if len(closed) <= self._limits.generations:
            return None
        most_hours = self.origin.window_hours // SPAN_SHARE
        pairs = [
            pair
            for pair in pairwise(self._tiers.generations)
            if all(g in closed for g in pair) and pair[1].newest_hour - pair[0].oldest_hour <= most_hours
        ]
        return min(pairs, key=lambda pair: pair[0].keys + pair[1].keys, default=None)

    def _merge(self, group: Sequence[Generation], meanwhile: Callable[[], object]) -> Generation | None:
        """One run of all that is within the window, in files. None: nothing is."""
        runs = [run for generation in group for run in generation.runs]
        keys = sum(run.facts.keys for run in runs)
        after_hour = self._after_hour
        made = KeyFilter.for_keys(keys, self._bits_for(keys))

        def noted() -> Iterator[Entries]:
            for entries in merged(runs, after_hour, self._limits.merge_keys):
                if self._tiers.closing.is_set():
                    raise Stopped
                meanwhile()
                made.insert(entries.hashes, entries.rests)
                yield entries

        oldest = max(min(run.facts.oldest_hour for run in runs), after_hour + 1)
        newest = max(run.facts.newest_hour for run in runs)
        run = self.folder.write_run(noted(), RunFacts("", fresh_salt(), 0, oldest, oldest, newest))
        if not run.facts.keys:
            self.folder.remove(run.facts.name)
            return None
        try:
            return Generation(made, (run,), self.folder.write_filter(made))
        except OSError:
            self.folder.remove(run.facts.name)
            raise

    def _list(self) -> None:
        """A manifest of all that is in files."""
        if self._covered is None:
            return
        accepted, anchor = self._covered
        in_files = [([run.facts for run in g.runs if run.facts.name], g.facts) for g in self._tiers.generations]
        listed = [GenerationFacts(runs, facts) for runs, facts in in_files if runs]
        origin = self.origin
        self.folder.replace_manifest(
            Manifest(
                lake=origin.lake, layout=origin.layout, partition=origin.partition, window_hours=origin.window_hours,
                accepted=accepted, next_offset=anchor.next_offset, accepted_before=anchor.accepted,
                arrived_hour=anchor.arrived_hour, after_hour=self._after_hour, generations=listed,
            )
        )  # fmt: skip


def _parts(run: Run, keys: int) -> Iterator[Entries]:
    """All entries of a run, about `keys` at a time."""
    step = max(keys // BLOCK_KEYS, 1)
    for first in range(0, len(run.firsts), step):
        yield entries_of(run, first, min(first + step, len(run.firsts)))
