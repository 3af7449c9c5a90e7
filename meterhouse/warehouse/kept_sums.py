"""Sums of the lake's tables file by file, kept for as long as the files are there.

A report of a month reads thirty days of roll-ups, and a file for each of the newest commits: from one commit to the
next all of them but one are the same. A file never changes and its name is never used again, so its sums for a query
stay true. Who asks again has the new files read, and no others.

Of queries that read nothing but such sums, the last rows are kept too, with the snapshot that they are of: to plan the
query again and to run it costs as much as all else of a report.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from threading import Lock
from time import monotonic
from typing import Any, Final, TypeVar

import numpy as np
import pyarrow as pa

from meterhouse.warehouse.catalogue import LakeFile, files
from meterhouse.warehouse.lake import Cursor, Lake
from meterhouse.warehouse.reports.query import KeepableSums, Query
from meterhouse.warehouse.view import View

MOST_BYTES: Final = 64 * 2**20
"""A month by tenant and model takes some 150 KB: hundreds of such queries, more than people look at within a day."""
LARGEST_BYTES: Final = 4 * 2**20
"""Of one file: sums of many groups are as large as what they are made from, and would drive out others. A month of
sixteen objectives' latencies by the day takes 1.3 MB, of fifty budgets' spend by the hour 2 MB."""
OVERHEAD_BYTES: Final = 8_192
"""Of a table beside its columns' values, about: most of them have a few rows."""
LATELY_S: Final = 60.0
"""Who asked within a minute has a page open, or polls: what they asked is made ready ahead."""
MOST_ASKED: Final = 16
"""Queries and sums that are made ahead after each commit, some 5 to 15 ms of processor time each. The page of
objectives alone asks four, that of budgets two."""
MOST_LARGE: Final = 1_000
"""Queries remembered as too large to be kept, or to be read by one at a time; beyond that all are forgotten."""
MOST_ROWS: Final = 1_000
"""Of a query whose rows are kept, some 1 KB each: more lines than people read at once."""
MOST_ANSWERS: Final = 32
"""Queries whose last rows are kept, of two snapshots: 64 MB at most."""

Rows = list[tuple[Any, ...]]
Read = Callable[[Sequence[str]], pa.Table]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked:
    """What someone asked for, and when (time.monotonic)."""

    what: Query | KeepableSums
    view: View
    at_s: float


class KeptSums:
    """What is kept of one lake, for all who read it. May be shared between threads."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._lock = Lock()
        self._sums: OrderedDict[bytes, pa.Table] = OrderedDict()  # the last one was used last
        self._bytes = 0
        self._answers: OrderedDict[bytes, dict[int, Rows]] = OrderedDict()  # by query: snapshots, the rows in them
        self._large: set[bytes] = set()
        self._asked: OrderedDict[bytes, Asked] = OrderedDict()  # the last one was asked last
        self._turns: dict[bytes, Lock] = {}  # by query: held while its files are read, so that each is read once
        self._files: dict[str, dict[int, Sequence[LakeFile]]] = {}  # by table: snapshots, the files in them

    @property
    def held_bytes(self) -> int:
        return self._bytes

    def of(self, sums: KeepableSums, view: View, cursor: Cursor, read: Read) -> pa.Table | None:
        """The sums in the cursor's snapshot, a block of rows per file. `read` makes them of files, given their paths,
        as `view` sees it. None: they cannot be made file by file now, or are too large to be kept."""
        digest = _digest(sums, view)
        if digest in self._large:
            return None
        parts = self._parts(digest, sums, cursor, read)
        if parts is None:
            return None
        return pa.concat_tables(parts) if parts else read([])

    def rows_of(self, query: Query, view: View, cursor: Cursor, read: Callable[[], Rows]) -> Rows:
        """The rows of a query that names sums and no table, in the cursor's snapshot. `read` runs it."""
        digest, snapshot = _digest(query, view), self._lake.snapshot_id(cursor)
        with self._lock:
            found = self._answers.get(digest, {}).get(snapshot)
        if found is not None:
            return found
        rows = read()
        if len(rows) > MOST_ROWS:
            self._note_large(digest)
        else:
            with self._lock:
                self._answers[digest] = _newest({**self._answers.get(digest, {}), snapshot: rows})
                self._answers.move_to_end(digest)
                if len(self._answers) > MOST_ANSWERS:
                    self._answers.popitem(last=False)
        return rows

    def note_asked(self, what: Query | KeepableSums, view: View) -> None:
        digest = _digest(what, view)
        if digest in self._large:
            return
        with self._lock:
            self._asked[digest] = Asked(what, view, monotonic())
            self._asked.move_to_end(digest)
            if len(self._asked) > MOST_ASKED:
                self._asked.popitem(last=False)

    def asked_lately(self) -> list[Asked]:
        """What was asked for lately, and by whom: it may be asked again. First the queries, the last one first."""
        now_s = monotonic()
        with self._lock:
            lately = [asked for asked in self._asked.values() if now_s - asked.at_s <= LATELY_S]
        return sorted(lately, key=lambda asked: (not isinstance(asked.what, Query), -asked.at_s))

    def _parts(self, digest: bytes, sums: KeepableSums, cursor: Cursor, read: Read) -> list[pa.Table] | None:
        paths, parts = self.paths(sums.table, sums.from_us, sums.to_us, cursor), []
        if paths is None:
            return None
        with self._turn(digest):
            for path in paths:
                part = self._of_file(digest + path.encode(), partial(read, [path]))
                if part is None:
                    self._note_large(digest)
                    return None
                parts.append(part)
        return parts

    def _turn(self, digest: bytes) -> Lock:
        with self._lock:
            if len(self._turns) >= MOST_LARGE:
                self._turns.clear()  # who holds one goes on; at worst a file is read twice
            return self._turns.setdefault(digest, Lock())

    def _of_file(self, name: bytes, read: Callable[[], pa.Table]) -> pa.Table | None:
        with self._lock:
            found = self._sums.get(name)
            if found is not None:
                self._sums.move_to_end(name)
                return found
        made = _no_larger_than_its_rows(read())
        if made.nbytes > LARGEST_BYTES:
            return None
        with self._lock:
            if name not in self._sums:
                self._bytes += made.nbytes + OVERHEAD_BYTES
            self._sums[name] = made
            while self._bytes > MOST_BYTES:
                _, dropped = self._sums.popitem(last=False)
                self._bytes -= dropped.nbytes + OVERHEAD_BYTES
        return made

    def _note_large(self, digest: bytes) -> None:
        with self._lock:
            if len(self._large) >= MOST_LARGE:
                self._large.clear()
            self._large.add(digest)
            self._asked.pop(digest, None)

    def paths(self, table: str, from_us: int, to_us: int, cursor: Cursor) -> list[str] | None:
        """The files of the cursor's snapshot that may hold a table's rows of a range. None: not known."""
        known = self._files_of(table, cursor)
        return None if known is None else [file.path for file in known if file.may_hold(from_us, to_us)]

    def _files_of(self, table: str, cursor: Cursor) -> Sequence[LakeFile] | None:
        snapshot = self._lake.snapshot_id(cursor)
        before = self._files.get(table, {})
        if snapshot in before:
            return before[snapshot]
        found = files(self._lake, cursor, [table], snapshot)[table]
        if found is not None:  # of an older snapshot, or while rows are deleted, nothing is known
            self._files[table] = kept = _newest({**before, snapshot: found})
            self._forget(_paths(before.values()) - _paths(kept.values()))
        return found

    def _forget(self, paths: Set[bytes]) -> None:
        """Files that were merged into others: nobody asks for them again."""
        with self._lock:
            for name in [name for name in self._sums if name[_DIGEST_BYTES:] in paths] if paths else ():
                self._bytes -= self._sums.pop(name).nbytes + OVERHEAD_BYTES


def _newest(kept: Mapping[int, T]) -> dict[int, T]:
    """Of the two newest snapshots: while one is made ready, the one before is read."""
    return dict(sorted(kept.items())[-2:])


def _paths(of: Iterable[Sequence[LakeFile]]) -> Set[bytes]:
    return {file.path.encode() for files in of for file in files}


_DIGEST_BYTES: Final = hashlib.sha256().digest_size


def _digest(what: Query | KeepableSums, view: View) -> bytes:
    query = what if isinstance(what, Query) else what.query
    parts = [_digest(sums, view) for sums in query.keepable.values()]
    return hashlib.sha256(repr((query.sql, sorted(query.params.items()), parts, view)).encode()).digest()


def _no_larger_than_its_rows(rows: pa.Table) -> pa.Table:
    """DuckDB gives a table of a few rows the memory of some thousand: 100 KiB, of which a copy needs 12."""
    return rows.take(np.arange(rows.num_rows))
