"""Who may do what only one may: a file beside a SQLite catalogue, an advisory lock in a PostgreSQL one.

The advisory lock is held by a connection of its own, so that it goes when its process does. It keeps order and saves
work; the books do not rest on it: whoever loses it meanwhile meets a conflict at COMMIT.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, Literal

import psycopg
from filelock import FileLock, Timeout
from psycopg.conninfo import make_conninfo

from meterhouse.warehouse.postgres import LINK

Turn = Literal["tables", "maintenance"]
_LOCKS: Final[dict[Turn, int]] = {"tables": 0x6D65746C, "maintenance": 0x6D65746D}
"""Numbers of the advisory locks, in the catalogue's database."""
_PASSAGE: Final = 0x6D65746E
_PASSAGE_MS: Final = 10_000  # a merge rewrites 64 MiB at most, in some 3 s; whoever holds the passage longer is paused


class LakeError(Exception):
    """The lake cannot do what was asked; the message says what to do."""


class LakeBusy(LakeError):
    """Another process writes to this lake."""


class TurnTrouble(OSError):
    """The catalogue did not say whose turn it is; it may pass."""


class WriterLock:
    """Says who may write: a file beside the catalogue, locked for as long as its process lives."""

    def __init__(self, catalogue: Path) -> None:
        self._lock = FileLock(catalogue.with_name(catalogue.name + ".lock"), blocking=False)

    def acquire(self) -> None:
        """Raises LakeBusy when another process, or another Lake of this one, holds it."""
        try:
            self._lock.acquire()
        except Timeout:
            raise LakeBusy(
                f"another process writes to this lake (it holds {self._lock.lock_file}): a lake with a SQLite catalogue"
                " has one writer. Stop the other `meterhouse work` or `serve` first, or open the lake read-only"
            ) from None

    def release(self) -> None:
        self._lock.release()


@contextmanager
def turn(catalogue: Path | str, what: Turn, *, wait_s: float = 0) -> Iterator[bool]:
    """Holds a turn of the lake's writers, and says whether it was got within `wait_s` seconds.

    On SQLite always: its one writer needs no turn. Raises TurnTrouble when PostgreSQL does not answer.
    """
    if isinstance(catalogue, Path):
        yield True
        return
    try:
        connection = psycopg.connect(make_conninfo(catalogue, **LINK), autocommit=True)
    except psycopg.Error as trouble:
        raise TurnTrouble(str(trouble).strip()) from None
    with closing(connection):
        yield _got(connection, what, wait_s)


def _got(connection: psycopg.Connection, what: Turn, wait_s: float) -> bool:
    try:
        if not wait_s:
            row = connection.execute("SELECT pg_try_advisory_lock(%s)", [_LOCKS[what]]).fetchone()
            return row == (True,)
        connection.execute("SELECT set_config('lock_timeout', %s, false)", [f"{wait_s * 1000:.0f}ms"])
        connection.execute("SELECT pg_advisory_lock(%s)", [_LOCKS[what]])
    except psycopg.errors.LockNotAvailable:
        return False
    except psycopg.Error as trouble:
        raise TurnTrouble(str(trouble).strip()) from None
    return True


class Passage:
    """Commits of all processes go through it together, a merge alone: else it would conflict with every commit of the
    seconds that it takes, and lose. Who does not get it in time, or finds PostgreSQL away, goes on without: order is
    all it is for. Belongs to who holds `Lake.writing`."""

    def __init__(self, catalogue: Path | str) -> None:
        self._catalogue = catalogue
        self._connection: psycopg.Connection | None = None  # kept: a commit then waits for one answer more, not three

    @contextmanager
    def through(self, *, alone: bool = False) -> Iterator[None]:
        how = "" if alone else "_shared"
        held = self._ask(f"SELECT pg_advisory_lock{how}({_PASSAGE})")
        try:
            yield
        finally:
            if held:
                self._ask(f"SELECT pg_advisory_unlock{how}({_PASSAGE})")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, sql: str) -> bool:
        if isinstance(self._catalogue, Path):
            return False
        try:
            if self._connection is None:
                place = make_conninfo(self._catalogue, **LINK, options=f"-c lock_timeout={_PASSAGE_MS}")
                self._connection = psycopg.connect(place, autocommit=True)
            self._connection.execute(sql)
        except psycopg.Error:
            self.close()
            return False
        return True
