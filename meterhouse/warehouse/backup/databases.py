"""Databases as a back-up copies them: one consistent state of each, taken beside its writers, and put back as it was.

SQLite is copied by its own back-up, which sees one state. Of PostgreSQL each table is copied in one REPEATABLE READ
transaction, as text, with what makes the table again; no program of its own is needed.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from meterhouse.warehouse.backup.manifest import BackupError, Kind
from meterhouse.warehouse.control_tables import METADATA
from meterhouse.warehouse.lake_store import sync_file
from meterhouse.warehouse.postgres import LINK

Ask = Callable[[str], list[tuple[Any, ...]]]
"""Runs a statement that both databases know, and gives its rows."""

_BUSY_S: Final = 60.0
_FILE: Final = "database.sqlite"
_SCHEMA: Final = "schema.json"
_CHUNK: Final = 2**20
_NO_SPECIAL: Final = (
    "p",
    "u",
    "c",
    "f",
)  # primary keys, unique, checks; foreign keys last, once what they name is there


class Database(Protocol):
    """A database of ours. Raises BackupError when it is not to be had."""

    kind: Kind

    @property
    def named(self) -> str:
        """As a message may name it."""
        ...

    def empty(self) -> bool:
        """Whether nothing of ours is there."""
        ...

    def copied(self, folder: Path) -> Any:
        """A context: within it the copy is in `folder`, and the Ask that it gives reads that very state."""
        ...

    def load(self, folder: Path, statements: Sequence[str]) -> None:
        """Puts a copy in, runs the statements on it, and all of it is there, or nothing."""
        ...

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        """Rows of the database as it is now."""
        ...


class SqliteDatabase:
    """A SQLite file. Its folder is made when it is missing."""

    kind: Kind = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def named(self) -> str:
        return str(self.path)

    def empty(self) -> bool:
        return not self.path.exists()

    @contextmanager
    def copied(self, folder: Path) -> Iterator[Ask]:
        folder.mkdir(parents=True, exist_ok=True)
        with self._told(), closing(self._open()) as source, closing(sqlite3.connect(folder / _FILE)) as copy:
            source.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # one file, whole by itself
            yield lambda statement: copy.execute(statement).fetchall()

    def load(self, folder: Path, statements: Sequence[str]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_name(f"{self.path.name}.restoring")
        shutil.move(folder / _FILE, unfinished)
        with self._told(), closing(sqlite3.connect(unfinished)) as copy:
            for statement in statements:
                copy.execute(statement)
            copy.commit()
            copy.execute("PRAGMA journal_mode = WAL")  # as ours are: a reader cannot make it so
        sync_file(unfinished)
        unfinished.rename(self.path)
        sync_file(self.path.parent)

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        with self._told(), closing(self._open()) as connection:
            return connection.execute(statement).fetchall()

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=rw", uri=True, timeout=_BUSY_S)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as trouble:
            raise BackupError(f"{self.path} cannot be copied: {trouble}") from None


class PostgresDatabase:
    """Those tables of a PostgreSQL database that are the catalogue's, or control data's: both may be in one."""

    kind: Kind = "postgresql"

    def __init__(self, url: str, named: str, *, catalogue: bool) -> None:
        self._url, self._named = make_conninfo(url, **LINK), named
        self._catalogue = catalogue

    @property
    def named(self) -> str:
        return self._named

    def empty(self) -> bool:
        with self._told(), self._connection() as connection:
            return not self._tables(connection)

    @contextmanager
    def copied(self, folder: Path) -> Iterator[Ask]:
        folder.mkdir(parents=True, exist_ok=True)
        with self._told(), self._connection() as connection:
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            tables = [_described(connection, name) for name in self._tables(connection)]
            (folder / _SCHEMA).write_text(json.dumps(tables, indent=1), encoding="utf-8")
            for table in tables:
                copy = sql.SQL("COPY {} TO STDOUT").format(_table(table["name"]))
                with connection.cursor().copy(copy) as rows, (folder / f"{table['name']}.copy").open("wb") as file:
                    for chunk in rows:
                        file.write(chunk)
            yield lambda statement: connection.execute(_as_query(statement)).fetchall()

    def load(self, folder: Path, statements: Sequence[str]) -> None:
        tables = json.loads((folder / _SCHEMA).read_text(encoding="utf-8"))
        with self._told(), self._connection() as connection:
            for table in tables:
                connection.execute(_create(table))
                copy = sql.SQL("COPY {} FROM STDIN").format(_table(table["name"]))
                with connection.cursor().copy(copy) as rows, (folder / f"{table['name']}.copy").open("rb") as file:
                    while chunk := file.read(_CHUNK):
                        rows.write(chunk)
            for kind in _NO_SPECIAL:
                for table in tables:
                    for name, of, definition in table["constraints"]:
                        if of == kind:
                            added = sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} {}")
                            text = sql.SQL(definition)
                            connection.execute(added.format(_table(table["name"]), sql.Identifier(name), text))
            for definition in (index for table in tables for index in table["indexes"]):
                connection.execute(sql.SQL(definition))
            for statement in statements:
                connection.execute(_as_query(statement))

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        with self._told(), self._connection() as connection:
            return connection.execute(_as_query(statement)).fetchall()

    def _connection(self) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self._url)

    def _tables(self, connection: psycopg.Connection[tuple[Any, ...]]) -> list[str]:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1").fetchall()
        names = [str(name) for (name,) in rows]
        if self._catalogue:
            return [name for name in names if name.startswith("ducklake_")]
        return [name for name in names if name in METADATA.tables or name == "alembic_version"]

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as trouble:
            raise BackupError(f"{self._named} cannot be copied: {str(trouble).strip()}") from None


_COLUMNS: Final = """
    SELECT attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid),
        CASE WHEN attcollation <> typcollation THEN collname END
    FROM pg_attribute JOIN pg_type ON pg_type.oid = atttypid
    LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    LEFT JOIN pg_collation ON pg_collation.oid = attcollation
    WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_CONSTRAINTS: Final = """
    SELECT conname, contype::text, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE conrelid = to_regclass(%s) AND contype IN ('p', 'u', 'c', 'f') ORDER BY conname
"""
_INDEXES: Final = """
    SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = to_regclass(%s)
        AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid AND contype IN ('p', 'u')) ORDER BY 1
"""


def _described(connection: psycopg.Connection[tuple[Any, ...]], name: str) -> dict[str, Any]:
    """A table as JSON: what makes it again."""
    of = [f'public."{name}"']
    return {
        "name": name,
        "columns": connection.execute(_COLUMNS, of).fetchall(),
        "constraints": connection.execute(_CONSTRAINTS, of).fetchall(),
        "indexes": [definition for (definition,) in connection.execute(_INDEXES, of).fetchall()],
    }


def _create(table: dict[str, Any]) -> sql.Composed:
    columns = [
        sql.SQL(" ").join(
            [
                sql.Identifier(name),
                sql.SQL(kind),
                *([sql.SQL("COLLATE"), sql.Identifier(collation)] if collation else []),
                *([sql.SQL("NOT NULL")] if needed else []),
                *([sql.SQL("DEFAULT"), sql.SQL(default)] if default is not None else []),
            ]
        )
        for name, kind, needed, default, collation in table["columns"]
    ]
    return sql.SQL("CREATE TABLE {} ({})").format(_table(table["name"]), sql.SQL(", ").join(columns))


def _table(name: str) -> sql.Identifier:
    return sql.Identifier("public", name)


def _as_query(statement: str) -> sql.SQL:
    """Statements are ours, or of a back-up that is trusted as one: none comes from a request."""
    return sql.SQL(statement)
