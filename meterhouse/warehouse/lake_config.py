"""Where a lake is, and how a DuckDB attaches it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from meterhouse.warehouse.lake_schema import LakeTable, sql_text
from meterhouse.warehouse.lake_store import S3Place
from meterhouse.warehouse.postgres import LINK

ALIAS: Final = "lake"
"""Its name in each DuckDB that has it attached."""
_BUSY_TIMEOUT_MS: Final = 5000  # a reader's wait for the catalogue while a commit is written: far beyond any commit


@dataclass(frozen=True, slots=True)
class LakeConfig:
    """Where a lake is. The one place that knows how it is attached."""

    catalogue: Path | str = field(repr=False)  # SQLite file, or postgresql:// URL
    data: Path | S3Place  # of the Parquet files: a folder, or a bucket
    memory_limit_mb: int = 512  # of DuckDB: sorts beyond it spill to `scratch`; the meter as a whole stays under 1 GiB
    threads: int | None = None  # None: one for a writer, one per core for a reader

    @property
    def on_postgres(self) -> bool:
        return isinstance(self.catalogue, str)

    @property
    def named(self) -> str:
        """The catalogue as a message may name it: without user, password and options."""
        if isinstance(self.catalogue, Path):
            return str(self.catalogue)
        known = conninfo_to_dict(self.catalogue)
        return f"PostgreSQL {known.get('host')}:{known.get('port')}/{known.get('dbname')}"

    @property
    def metadata(self) -> str:
        """The schema of DuckLake's own tables."""
        return f"__ducklake_metadata_{ALIAS}.{'public' if self.on_postgres else 'main'}"

    @property
    def scratch(self) -> Path:
        """Where DuckDB spills what does not fit in memory."""
        if isinstance(self.catalogue, Path):
            return self.catalogue.with_name(self.catalogue.name + ".tmp")
        return Path(tempfile.gettempdir()) / "meterhouse-lake.tmp"  # DuckDB's files there carry names of their own

    def without_secrets(self, text: str) -> str:
        """A message of DuckDB, which may quote how it connects."""
        password = conninfo_to_dict(self.catalogue).get("password") if isinstance(self.catalogue, str) else None
        if password:
            stated = make_conninfo("", password=str(password)).removeprefix("password=")
            for form in (sql_text(stated)[1:-1], stated, str(password)):
                text = text.replace(form, "***")
        return self.data.without_secrets(text) if isinstance(self.data, S3Place) else text

    def told(self, trouble: Exception) -> str:
        """Trouble in one line that a person can read: without secrets, and without all that DuckDB wraps it in."""
        text = " ".join(self.without_secrets(str(trouble)).split())
        if self.on_postgres and "connection to server" in text:  # before it: how DuckDB connects, twice
            text = text[text.rindex("connection to server") :]
        advice = self.data.advice(text) if isinstance(self.data, S3Place) else None
        return advice or text

    @property
    def has_secrets(self) -> bool:
        """Whether a message of DuckDB may quote one, so that no such message is anybody's cause."""
        return self.on_postgres or isinstance(self.data, S3Place)

    @property
    def root(self) -> str:
        """What the paths of all files begin with."""
        return self.data.root if isinstance(self.data, S3Place) else str(self.data)

    def folder_of(self, table: LakeTable) -> str:
        """Where the catalogue keeps a table's files."""
        return f"{self.root}/main/{table.name}"

    def attach_sql(self, *, read_only: bool) -> str:
        options = [
            f"DATA_PATH {sql_text(self.root)}",
            "OVERRIDE_DATA_PATH true",  # the catalogue remembers where its files were; a home may be moved or copied
            *(["READ_ONLY"] if read_only else []),
        ]
        if isinstance(self.catalogue, str):
            place = make_conninfo(self.catalogue, **LINK)
            return f"ATTACH {sql_text(f'ducklake:postgres:{place}')} AS {ALIAS} ({', '.join(options)})"
        options += ["META_JOURNAL_MODE 'WAL'", f"META_BUSY_TIMEOUT {_BUSY_TIMEOUT_MS}"]
        return f"ATTACH {sql_text(f'ducklake:sqlite:{self.catalogue}')} AS {ALIAS} ({', '.join(options)})"
