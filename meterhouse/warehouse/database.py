"""The database of control data and alerts: SQLite embedded, PostgreSQL in production; its schema is brought up to date
when it is opened.

Several processes hold it open at once (`serve`, `work`, `apply`): transactions are short, a writer takes its lock when
it begins, readers see one state and block nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection

from meterhouse.warehouse.migrations import HEAD
from meterhouse.warehouse.postgres import LINK

BUSY_TIMEOUT_MS: Final = 10_000
"""Far beyond any transaction here (milliseconds): who waits longer meets a hung process and should hear of it."""

_POOL_SIZE: Final = 4
_UPGRADE_LOCK: Final = 0x6D657465
"""PostgreSQL's advisory lock that one upgrade at a time holds."""
_BEGIN: Final = "meterhouse_begin"


TROUBLE: Final = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError, sa.exc.ProgrammingError)
"""What a database raises that is locked, down, or not as we left it (each driver has its own names for it)."""


Along = Callable[[sa.Connection], None]
"""What a caller adds to a store's transaction: it happens with the deed or not at all."""


class ControlUnavailable(Exception):
    """Passing trouble (database locked or down): nothing was changed; trying again may help."""


class DatabaseTooNew(Exception):
    """A newer Meterhouse wrote this database."""


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file."""
    return sa.URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


def open_database(url: str) -> sa.Engine:
    """An engine on a database of the newest schema; creates and upgrades what is needed. Its owner disposes of it.

    Raises DatabaseTooNew; sqlalchemy.exc.OperationalError when the database cannot be reached.
    """
    engine = _sqlite_engine(url) if sa.make_url(url).get_backend_name() == "sqlite" else _postgres_engine(url)
    try:
        if _revision(engine) != HEAD:
            _upgrade(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


@contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that may write: committed at the end, rolled back by an exception."""
    # SQLite refuses to turn a read lock into a write lock when another process wrote in between; so take it at once.
    with engine.execution_options(**{_BEGIN: "IMMEDIATE"}).begin() as connection:
        yield connection


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction in which every SELECT sees the same state."""
    if engine.dialect.name != "sqlite":
        engine = engine.execution_options(isolation_level="REPEATABLE READ")
    with engine.begin() as connection:
        yield connection


@contextmanager
def available() -> Iterator[None]:
    """Turns passing trouble of the database into ControlUnavailable."""
    try:
        yield
    except TROUBLE as error:
        raise ControlUnavailable(f"the control database does not answer ({error.orig}): try again") from error


def _sqlite_engine(url: str) -> sa.Engine:
    engine = sa.create_engine(
        url,
        pool_size=_POOL_SIZE,
        max_overflow=_POOL_SIZE,
        connect_args={"timeout": BUSY_TIMEOUT_MS / 1000, "isolation_level": None},  # we say BEGIN ourselves
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: DBAPIConnection, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")  # a version that was reported as applied survives a power cut
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        mode = connection.get_execution_options().get(_BEGIN, "DEFERRED")
        connection.exec_driver_sql(f"BEGIN {mode}")

    return engine


def _postgres_engine(url: str) -> sa.Engine:
    return sa.create_engine(
        url,
        pool_size=_POOL_SIZE,
        max_overflow=_POOL_SIZE,
        pool_pre_ping=True,  # a connection that did not outlive the server's restart is replaced unheard
        connect_args={**LINK, "options": f"-c lock_timeout={BUSY_TIMEOUT_MS}"},
    )


def _revision(engine: sa.Engine) -> str | None:
    """The stored schema's revision; None: there is none yet."""
    with reading(engine) as connection:
        return _stored(connection)


def _upgrade(engine: sa.Engine) -> None:
    # Importing Alembic takes longer than all the rest of an opening, and is hardly ever needed.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", "meterhouse.warehouse:migrations")
    config.set_main_option("path_separator", "os")
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    with writing(engine) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _UPGRADE_LOCK})
        stored = _stored(connection)
        if stored is not None and stored not in known:
            raise DatabaseTooNew(
                f"the control database has schema {stored}, which this version of Meterhouse does not know: "
                "run the version that wrote it, or a newer one"
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _stored(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return revision
