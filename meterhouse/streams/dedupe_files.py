"""The local files of one partition's dedupe tiers: runs, filters, and the manifest that says which of them count.

A folder belongs to one process at a time, by a lock. A file is written under its own name, synced, and counts from the
moment a manifest names it; the manifest is replaced whole. What no manifest names is removed. So a crash at any point
leaves the last manifest with all its files, and anything else that is found is noticed: sizes and the manifest's sum at
once, filters and first hashes when they are read at start, blocks when they are read.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

import numpy as np
from filelock import FileLock, Timeout

from meterhouse.streams.dedupe_filter import KeyFilter
from meterhouse.streams.dedupe_runs import BLOCK, Blocks, Damaged, Entries, Ints, Run, RunFacts, blocks_of

FORMAT: Final = 1
"""Of manifest, runs and filters together: another one is not read but rebuilt."""
_MANIFEST: Final = "manifest"
_READ_BYTES: Final = 2**26  # of a filter at a time
_WILL_NEED: Final = getattr(os, "POSIX_FADV_WILLNEED", None)


@dataclass(frozen=True, slots=True)
class FilterFacts:
    """A filter's file."""

    name: str
    words: int
    sum: int  # CRC-32 of its bytes


@dataclass(frozen=True, slots=True)
class GenerationFacts:
    """Runs, and the filter of all their keys; None: to be made from them."""

    runs: Sequence[RunFacts]
    filter: FilterFacts | None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the files of a folder hold: the first `accepted` keys that `partition` of lake `lake` accepted, those that
    arrived by `after_hour` perhaps left out; among them all that stand before `next_offset`."""

    lake: str
    layout: int
    partition: int
    window_hours: int
    accepted: int
    next_offset: int  # a committed position's
    accepted_before: int  # keys accepted before next_offset
    arrived_hour: int | None  # newest arrival before next_offset
    after_hour: int
    generations: Sequence[GenerationFacts]

    @property
    def names(self) -> set[str]:
        runs = {run.name for generation in self.generations for run in generation.runs}
        return runs | {generation.filter.name for generation in self.generations if generation.filter}


class Folder:
    """A partition's folder, held by this process until it is closed. Files stay open as long as a run uses them."""

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path = path
        self._lock = lock
        self._unlisted: set[str] = set()  # written and not in a manifest yet

    @classmethod
    def claim(cls, path: Path) -> Self | None:
        """Makes the folder if need be; None: another process has it."""
        path.mkdir(parents=True, exist_ok=True)
        # Claimed on one thread and released on another.
        lock = FileLock(path / "lock", blocking=False, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            return None
        return cls(path, lock)

    def close(self) -> None:
        self._lock.release()

    # -- manifest --------------------------------------------------------------------------------------------------

    def manifest(self) -> Manifest | None:
        """None: there is none. Raises Damaged."""
        try:
            told = (self.path / _MANIFEST).read_bytes()
        except FileNotFoundError:
            return None
        checked, _, text = told.partition(b"\n")
        if checked != b"%d %08x" % (FORMAT, zlib.crc32(text)):
            raise Damaged(f"{self.path / _MANIFEST} is damaged or of another version")
        return _manifest(json.loads(text))

    def replace_manifest(self, manifest: Manifest) -> None:
        """From here on its files count and all others are gone. Raises OSError."""
        text = json.dumps(asdict(manifest)).encode()
        fresh = self.path / f"{_MANIFEST}.new"
        with fresh.open("wb") as file:
            file.write(b"%d %08x\n" % (FORMAT, zlib.crc32(text)) + text)
            file.flush()
            sync(file.fileno())
        fresh.replace(self.path / _MANIFEST)
        self._sync_folder()
        self._unlisted -= manifest.names
        self._keep_only(manifest.names | self._unlisted)

    def discard(self) -> None:
        """Nothing in the folder counts any more."""
        (self.path / _MANIFEST).unlink(missing_ok=True)
        self._sync_folder()
        self._unlisted.clear()
        self._keep_only(set())

    def remove(self, name: str) -> None:
        """A file that was written and is not wanted after all."""
        self._unlisted.discard(name)
        (self.path / name).unlink(missing_ok=True)

    def _keep_only(self, names: set[str]) -> None:
        """Removes what no manifest names. An open run of a removed file can still be read."""
        for path in self.path.iterdir():
            if path.name not in names and path.name not in (_MANIFEST, "lock"):
                path.unlink()

    @contextmanager
    def _written(self, name: str) -> Iterator[BinaryIO]:
        """A new file, synced at the end; removed when that fails."""
        self._unlisted.add(name)
        try:
            with (self.path / name).open("xb") as file:
                yield file
                file.flush()
                sync(file.fileno())
        except BaseException:
            self.remove(name)
            raise

    def _sync_folder(self) -> None:
        handle = os.open(self.path, os.O_RDONLY)
        try:
            sync(handle)
        finally:
            os.close(handle)

    # -- runs ------------------------------------------------------------------------------------------------------

    def write_run(self, chunks: Iterable[Entries], facts: RunFacts) -> Run:
        """Writes all entries of a run; `facts.keys` may be too large, the run's are counted. Raises OSError."""
        facts = replace(facts, name=f"{os.urandom(8).hex()}.run")
        keys, firsts = 0, []

        def counted() -> Iterable[Entries]:
            nonlocal keys
            for chunk in chunks:
                keys += len(chunk)
                yield chunk

        with self._written(facts.name) as file:
            for blocks in blocks_of(counted(), facts):
                firsts.append(blocks["hash"][:, 0].copy())
                file.write(blocks.view(np.uint8).data)
            beginnings = np.concatenate([*firsts, np.empty(0, np.uint64)])
            file.write(beginnings.view(np.uint8).data)
            file.write(zlib.crc32(beginnings.view(np.uint8).data).to_bytes(8, "little"))
        facts = replace(facts, keys=keys)
        return Run(facts, beginnings, _RunFile(self.path / facts.name).read)

    def open_run(self, facts: RunFacts) -> Run:
        """Raises Damaged; its blocks are looked at when they are read."""
        file = _RunFile(self.path / facts.name)
        count, odd = divmod(file.size - 8, BLOCK.itemsize + 8)
        if odd or count < 0:
            raise Damaged(f"{self.path / facts.name} has {file.size} bytes, which is no whole number of blocks")
        told = file.bytes(count * BLOCK.itemsize, count * 8 + 8)
        firsts = np.frombuffer(told[:-8], np.uint64)
        if zlib.crc32(told[:-8]) != int.from_bytes(told[-8:], "little"):
            raise Damaged(f"{self.path / facts.name}: the first hashes of its blocks are not as they were written")
        return Run(facts, firsts, file.read)

    # -- filters ---------------------------------------------------------------------------------------------------

    def write_filter(self, filter_: KeyFilter) -> FilterFacts:
        """Raises OSError."""
        name = f"{os.urandom(8).hex()}.filter"
        data = filter_.words.view(np.uint8).data
        with self._written(name) as file:
            file.write(data)
        return FilterFacts(name, len(filter_.words), zlib.crc32(data))

    def read_filter(self, facts: FilterFacts) -> KeyFilter:
        """Raises Damaged."""
        words = np.zeros(facts.words, dtype=np.uint64)
        data, at, total = words.view(np.uint8).data, 0, 0
        try:
            with (self.path / facts.name).open("rb", buffering=0) as file:
                while count := file.readinto(data[at : at + _READ_BYTES]):
                    total = zlib.crc32(data[at : at + count], total)
                    at += count
        except FileNotFoundError as missing:
            raise Damaged(f"{self.path / facts.name} is missing") from missing
        if at != len(data) or total != facts.sum:
            raise Damaged(f"{self.path / facts.name} is not as it was written")
        return KeyFilter(words)


def sync(handle: int) -> None:
    """Returns when the file is on the disk, whatever happens to the machine then."""
    os.fsync(handle)


class _RunFile:
    """An open file of blocks, read page by page: mapped pages would count as memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("rb", buffering=0)
        except FileNotFoundError as missing:
            raise Damaged(f"{path} is missing") from missing
        self.size = os.fstat(self._file.fileno()).st_size

    def __del__(self) -> None:
        if file := getattr(self, "_file", None):
            file.close()

    def read(self, numbers: Ints) -> Blocks:
        """These blocks, by ascending number. Raises Damaged where the file ends before them."""
        blocks = np.empty(len(numbers), dtype=BLOCK)
        data = blocks.view(np.uint8).data
        if len(numbers) and int(numbers[-1] - numbers[0]) + 1 == len(numbers):
            self._read_into(data, int(numbers[0]) * BLOCK.itemsize)
            return blocks
        places = (numbers * BLOCK.itemsize).tolist()
        if _WILL_NEED is not None:  # so that a disk serves them side by side
            for place in places:
                os.posix_fadvise(self._file.fileno(), place, BLOCK.itemsize, _WILL_NEED)
        for number, place in enumerate(places):
            self._read_into(data[number * BLOCK.itemsize : (number + 1) * BLOCK.itemsize], place)
        return blocks

    def bytes(self, place: int, count: int) -> bytearray:
        data = bytearray(count)
        self._read_into(memoryview(data), place)
        return data

    def _read_into(self, data: memoryview, place: int) -> None:
        at = 0
        while at < len(data):
            count = os.preadv(self._file.fileno(), [data[at:]], place + at)
            if count == 0:
                raise Damaged(f"{self._path} ends before its time")
            at += count


def _manifest(told: dict[str, Any]) -> Manifest:
    generations = [
        GenerationFacts(
            [RunFacts(**run) for run in generation["runs"]],
            FilterFacts(**generation["filter"]) if generation["filter"] else None,
        )
        for generation in told.pop("generations")
    ]
    return Manifest(**told, generations=generations)
