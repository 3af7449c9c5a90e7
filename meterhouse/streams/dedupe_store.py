"""Where a meter's dedupe indexes come from: in memory alone, or in tiers with local files in a folder.

Local files are a cache of the lake. They carry the lake's identity and the position that they cover; what does not fit
the lake as it stands, or is not as it was written, is discarded, and the index is filled from the lake.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Final, Protocol

import structlog

from meterhouse.streams.dedupe import DedupeIndex, KeyIndex
from meterhouse.streams.dedupe_files import Folder, Manifest
from meterhouse.streams.dedupe_filter import BITS_A_KEY
from meterhouse.streams.dedupe_runs import Damaged
from meterhouse.streams.dedupe_tiers import Anchor, TieredIndex, TierLimits, Tiers
from meterhouse.streams.dedupe_upkeep import Origin, Stopped, Upkeep
from meterhouse.streams.ledger import Ledger, Position

_HOUR_US: Final = 3_600 * 1_000_000
FOLDERS_A_PARTITION: Final = 4
"""Meters on one machine that may hold files of the same partition: with more, the files would fill the disk."""
LEAST_BITS: Final = 4
"""Of a filter: 9 in 10 new keys still pass it unread; below, it would hardly spare a look at the runs."""
_log = structlog.get_logger("meterhouse.dedupe")


class Dedupe(Protocol):
    """The dedupe indexes of the partitions that a meter has."""

    def open(self, partition: int, position: Position, ledger: Ledger) -> KeyIndex:
        """The index of all that the ledger accepted in this partition, whose stored position is `position`.

        Belongs to the meter's thread; called on the ledger's while that waits. A second call gives a fresh one.
        """
        ...

    def committed(self, partition: int, position: Position) -> None:
        """The lake has committed up to here. After the commit, never before."""
        ...

    def drop(self, partition: int) -> None:
        """The partition is another meter's now, or is about to be opened again."""
        ...

    def close(self) -> None: ...


class MemoryDedupe:
    """Indexes in memory alone: exact, 36 bytes a key, filled from the lake."""

    def __init__(self, window_hours: int) -> None:
        self._window_hours = window_hours

    def open(self, partition: int, position: Position, ledger: Ledger) -> DedupeIndex:
        index = DedupeIndex(self._window_hours)
        if position.arrived_us is not None:
            since_hour = position.arrived_us // _HOUR_US - self._window_hours
            for keys in ledger.accepted_keys(partition, since_hour):
                index.insert(keys.halves, keys.arrived_hour)
        return index

    def committed(self, partition: int, position: Position) -> None:
        pass

    def drop(self, partition: int) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass(slots=True, eq=False)
class _Held:
    """A partition's index and what belongs to it."""

    index: TieredIndex
    tiers: Tiers
    upkeep: Upkeep
    working: Lock = field(default_factory=Lock)  # held during a piece of upkeep
    is_queued: bool = False
    work: Future[None] | None = None


class TieredDedupe:
    """Indexes in tiers; `memory_bytes` bounds hot tables and filters of all partitions together, a merge's aside.

    `background` False: upkeep runs when `keep_up` is called, for tests.
    """

    def __init__(
        self,
        path: Path,
        window_hours: int,
        memory_bytes: int,
        *,
        limits: TierLimits | None = None,
        background: bool = True,
    ) -> None:
        self._path = path
        self._window_hours = window_hours
        self._memory_bytes = memory_bytes
        self._limits = limits or TierLimits()
        self._held: dict[int, _Held] = {}
        self._in_memory = MemoryDedupe(window_hours)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dedupe") if background else None

    # -- what the meter asks -----------------------------------------------------------------------------------------

    def open(self, partition: int, position: Position, ledger: Ledger) -> KeyIndex:
        self.drop(partition)
        folder = self._claim(partition)
        if folder is None:
            _log.warning(
                "dedupe index without local files: other meters on this machine hold them",
                partition=partition, folders=FOLDERS_A_PARTITION, path=str(self._path),
            )  # fmt: skip
            return self._in_memory.open(partition, position, ledger)
        origin = Origin(ledger.identity(), len(ledger.positions()), partition, self._window_hours)
        try:
            held = self._from_files(folder, origin, position, ledger)
            if held is None:
                folder.discard()
                held = self._from_lake(folder, origin, position, ledger)
        except OSError as trouble:
            folder.close()
            _log.warning("dedupe index without local files", partition=partition, reason=str(trouble))
            return self._in_memory.open(partition, position, ledger)
        except BaseException:
            folder.close()
            raise
        self._held[partition] = held
        self._nudge(held)
        return held.index

    def committed(self, partition: int, position: Position) -> None:
        if held := self._held.get(partition):
            held.index.committed(position)

    def drop(self, partition: int) -> None:
        """Ends upkeep of the partition. What of the hot table is committed is written, so that whoever opens it next on
        this machine begins there."""
        held = self._held.pop(partition, None)
        if held is None:
            return
        held.tiers.closing.set()
        with held.working:
            try:
                if held.tiers.damage is None:
                    self._put_down(held)
                else:
                    held.upkeep.folder.discard()
            except OSError as trouble:
                _log.warning("dedupe files are behind the lake", partition=partition, reason=str(trouble))
            held.upkeep.folder.close()

    def close(self) -> None:
        for partition in list(self._held):
            self.drop(partition)
        if self._thread is not None:
            self._thread.shutdown(wait=True)

    @property
    def nbytes(self) -> int:
        return sum(held.index.nbytes for held in list(self._held.values()))

    def __len__(self) -> int:
        return sum(len(held.index) for held in list(self._held.values()))

    # -- filling -----------------------------------------------------------------------------------------------------

    def _claim(self, partition: int) -> Folder | None:
        places = (self._path / f"{partition}.{number}" for number in range(FOLDERS_A_PARTITION))
        return next((folder for folder in map(Folder.claim, places) if folder is not None), None)

    def _new(self, folder: Folder, origin: Origin) -> _Held:
        tiers = Tiers()
        upkeep = Upkeep(origin, folder, tiers, self._limits, self._bits_for)
        index = TieredIndex(origin.window_hours, tiers, self._limits, self._hot_keys, lambda: self._nudge(held))
        held = _Held(index, tiers, upkeep)
        return held

    def _from_files(self, folder: Folder, origin: Origin, position: Position, ledger: Ledger) -> _Held | None:
        """An index of what the files hold and the lake has since. None: they are of no use."""
        try:
            manifest = folder.manifest()
            if manifest is None:
                return None
            if problem := _misfit(manifest, origin, position):
                _log.warning("dedupe files discarded", partition=origin.partition, reason=problem)
                return None
            held = self._new(folder, origin)
            held.upkeep.restore(manifest)
            assert manifest.arrived_hour is not None
            chunks = ledger.accepted_keys(origin.partition, manifest.arrived_hour, manifest.next_offset)
            count, became_runs = held.index.take_in(chunks, held.upkeep.keep)
        except Damaged as damage:
            _log.warning("dedupe files discarded", partition=origin.partition, reason=str(damage))
            return None
        # Every key that was accepted is one row of the lake: so many there must be since. Another meter may commit
        # while they are read; then this one is fenced, and opens again.
        stored = ledger.positions()[origin.partition]
        if not position.counts.accepted <= manifest.accepted_before + count <= stored.counts.accepted:
            _log.warning(
                "dedupe files discarded", partition=origin.partition,
                reason=f"the lake holds {count} keys since offset {manifest.next_offset}, which they do not lead up to",
            )  # fmt: skip
            return None
        return self._begun(held, position, became_runs=became_runs)

    def _from_lake(self, folder: Folder, origin: Origin, position: Position, ledger: Ledger) -> _Held:
        held = self._new(folder, origin)
        if position.arrived_us is None:
            return self._begun(held, position, became_runs=False)
        chunks = ledger.accepted_keys(origin.partition, position.arrived_us // _HOUR_US - origin.window_hours)
        _, became_runs = held.index.take_in(chunks, held.upkeep.keep)
        return self._begun(held, position, became_runs=became_runs)

    def _begun(self, held: _Held, position: Position, *, became_runs: bool) -> _Held:
        held.index.begin(position)
        if became_runs:
            held.upkeep.covers(Anchor.of(position))
        return held

    # -- upkeep ------------------------------------------------------------------------------------------------------

    def keep_up(self) -> None:
        """Does all upkeep that there is now."""
        for held in list(self._held.values()):
            self._keep_up(held)

    def _nudge(self, held: _Held) -> None:
        if self._thread is None or held.is_queued or held.tiers.closing.is_set():
            return
        if held.work is not None and held.work.done():
            held.work.result()  # a defect of upkeep is not lost: it is raised here
        held.is_queued = True
        held.work = self._thread.submit(self._keep_up, held)

    def _keep_up(self, held: _Held) -> None:
        held.is_queued = False
        try:
            while self._piece(held):
                pass
        except Stopped:
            pass
        except Damaged as damage:
            held.tiers.damage = damage  # the meter's thread raises it
        except OSError as trouble:
            # A cache that cannot be written is no reason to stop: runs stay in memory until it can.
            _log.warning("dedupe files are behind", partition=held.upkeep.origin.partition, reason=str(trouble))

    def _piece(self, held: _Held) -> bool:
        with held.working:
            return not held.tiers.closing.is_set() and held.upkeep.piece(lambda: self._write_others(held))

    def _write_others(self, merging: _Held) -> None:
        """While one partition merges, the sealed runs of all go to their files: they are the memory that grows."""
        for held in list(self._held.values()):
            if held is merging:
                held.upkeep.write_sealed()
            elif held.working.acquire(blocking=False):
                try:
                    if not held.tiers.closing.is_set():
                        held.upkeep.write_sealed()
                finally:
                    held.working.release()

    def _put_down(self, held: _Held) -> None:
        if held.index.all_is_committed and held.index.hot_keys * 8 > self._hot_keys():  # else the lake is as fast
            held.index.seal()
        while held.upkeep.write_sealed():
            pass

    # -- bounds ------------------------------------------------------------------------------------------------------

    def _hot_keys(self) -> int:
        """Of one partition. A key in a hot table takes up to 36 bytes, and as many again while its run is written."""
        limits = self._limits
        together = min(limits.hot_keys, self._memory_bytes // 8 // 36)
        return max(together // max(len(self._held), 1), limits.least_hot_keys)

    def _bits_for(self, keys: int) -> int:
        """Bits a key of a new filter: fewer, and so more looks at runs, rather than more memory than was allowed."""
        taken = self.nbytes
        bits = BITS_A_KEY
        while bits > LEAST_BITS and taken + keys * bits // 8 > self._memory_bytes:
            bits //= 2
        return bits


def _misfit(manifest: Manifest, origin: Origin, position: Position) -> str | None:
    """Why the files are not of this lake as it stands."""
    if (manifest.lake, manifest.partition) != (origin.lake, origin.partition):
        return f"they are of partition {manifest.partition} of another lake"
    if manifest.layout != origin.layout:
        return f"they are of a topic of {manifest.layout} partitions, and it has {origin.layout}"
    if manifest.window_hours < origin.window_hours:
        return f"they reach back {manifest.window_hours} hours, not {origin.window_hours}"
    if position.arrived_us is None or manifest.arrived_hour is None:
        return "they cover no position of the lake"
    if manifest.accepted > position.counts.accepted or manifest.next_offset > position.next_offset:
        return f"they are ahead of the lake, which stands at offset {position.next_offset}"
    if manifest.after_hour > position.arrived_us // _HOUR_US - origin.window_hours:
        return "they are ahead of the lake: of its window they hold only a part"
    if manifest.arrived_hour < position.arrived_us // _HOUR_US - origin.window_hours:
        return "they are older than the window"
    return None
