"""The Ledger on the lake: rows, roll-ups, rejects and positions in one transaction, fenced per partition."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from typing import Any, Final, cast

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.ingest.log import partition_of
from meterhouse.streams.ledger import (
    AcceptedKeys,
    Counts,
    Fenced,
    LayoutChanged,
    LedgerUnavailable,
    Position,
    Processed,
)
from meterhouse.streams.memory_ledger import SPEND_SCHEMA
from meterhouse.warehouse.lake import Lake, table_names
from meterhouse.warehouse.lake_files import files_of
from meterhouse.warehouse.lake_schema import (
    ADD_FILES,
    CHARGES,
    COUNTS,
    LATENCY_HOUR,
    LAYOUT,
    NODE_EVENTS,
    POSITION_COLUMNS,
    REJECTS,
    ROLLUP_DAY,
    ROLLUP_HOUR,
    ROLLUP_MINUTE,
    LakeTable,
    by_day,
    create_position_sql,
    create_positions_view_sql,
    lacking_layout,
    position_table,
    quoted,
    rejects_table,
)
from meterhouse.warehouse.lake_trouble import TROUBLE, broken, passing, put_away, roll_back
from meterhouse.warehouse.lake_turns import turn

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR_US: Final = 3_600 * 1_000_000
_SEEDING_S: Final = 30.0  # another meter makes the same tables meanwhile: seconds, far beyond what it takes
_CHUNK_ROWS: Final = 1_000_000  # keys handed over at a time: 20 MB


class LakeLedger:
    """The Ledger port on a Lake. Belongs to one thread. `cleaned` gives what of a unit is to be committed, and raises
    LedgerUnavailable where it cannot say; it is asked while no erasure runs."""

    def __init__(
        self,
        lake: Lake,
        *,
        chunk_rows: int = _CHUNK_ROWS,
        cleaned: Callable[[Processed], Processed] = lambda unit: unit,
    ) -> None:
        self._lake = lake
        self._cursor = lake.cursor()
        self._broken = False  # the cursor, and its DuckDB: another is needed
        self._chunk_rows = chunk_rows
        self._cleaned = cleaned
        self._layout: int | None = None  # None: never seeded, so whichever is in force
        self._moved: list[tuple[int, str]] | None = None

    def seed(self, partitions: int) -> int:
        no_room = f"no room made for {partitions} partitions"
        # Meters that start together would make the same tables, and all but one of them fail.
        making = turn(self._lake.config.catalogue, "tables", wait_s=_SEEDING_S)
        with self._lake.writing, self._available(no_room), making as ours:
            if not ours:
                raise LedgerUnavailable(f"{no_room}: another meter is making it")
            self._layout = self._seed(partitions)
        self._moved = None
        return self._layout

    def _seed(self, partitions: int) -> int:
        try:
            self._cursor.execute("BEGIN TRANSACTION")
            present = table_names(self._cursor)
            there = [p for p in range(len(present)) if position_table(p) in present]
            layout = max(len(there), partitions)
            old = lacking_layout(self._cursor)
            if layout > len(there) or old:
                self._grow(there, layout, old)
            self._cursor.execute("COMMIT")
        except BaseException:
            roll_back(self._cursor)
            raise
        return layout

    def _grow(self, there: Sequence[int], layout: int, lacking: frozenset[str]) -> None:
        """Makes what positions are missing, and moves all to the layout: commits under the former one conflict."""
        for table in sorted(lacking):
            self._cursor.execute(f"ALTER TABLE {table} ADD COLUMN {LAYOUT} BIGINT")
        arrived = [self._cursor.execute(f"SELECT arrived_us FROM {position_table(p)}").fetchone() for p in there]
        newest_us = max((row[0] for row in arrived if row is not None and row[0] is not None), default=None)
        for partition in there:
            self._cursor.execute(
                f"UPDATE {position_table(partition)} SET {LAYOUT} = ?, arrived_us = ?", [layout, newest_us]
            )
        for partition in sorted(set(range(layout)) - set(there)):
            for statement in create_position_sql(partition, layout, newest_us):
                self._cursor.execute(statement)
        self._cursor.execute(create_positions_view_sql(layout))

    def positions(self) -> dict[int, Position]:
        with self._available("positions cannot be read"):
            rows = self._cursor.execute("FROM positions").fetchall()
        return {row[0]: Position(row[1], Counts(*row[2:-1]), row[-1]) for row in rows}

    def commit(self, unit: Processed) -> int:
        unknown = "what became of a commit is not known yet"
        with self._lake.writing, self._available(unknown), self._lake.passage.through():
            return self._commit(self._cleaned(unit))

    def _commit(self, unit: Processed) -> int:
        written: list[str] = []
        committing = False
        try:
            self._cursor.execute("BEGIN TRANSACTION")
            self._move_positions(unit)  # first: a fenced commit has then written no file
            self._append_all(unit, written)
            committing = True
            self._cursor.execute("COMMIT")
        except Fenced:
            roll_back(self._cursor)
            raise
        except (duckdb.Error, OSError) as trouble:
            roll_back(self._cursor)
            self._broken = broken(trouble)
            self._resolve(unit, trouble, [] if committing and self._may_still_commit(trouble) else written)
        return self._lake.snapshot_id(self._cursor)

    def accepted_keys(self, partition: int, since_hour: int, since_offset: int | None = None) -> Iterator[AcceptedKeys]:
        asked: dict[str, Any] = {"partition": partition, "since": _EPOCH + timedelta(hours=since_hour)}
        with self._available("keys cannot be read"), self._lake.borrowed() as cursor:
            here = '"partition" = $partition'
            if since_offset is not None:
                here, asked["since_offset"] = f'{here} AND "offset" >= $since_offset', since_offset
            elif moved := self._moved_to(partition):
                here, asked["moved"] = f"{here} OR tenant IN (SELECT unnest($moved))", moved
            sql = _sql("accepted_keys").replace("$here", here)
            reader = cursor.execute(sql, asked).to_arrow_reader(self._chunk_rows)
            for batch in reader:
                yield AcceptedKeys(_halves(cast("pa.ExtensionArray[Any]", batch.column(0))), batch.column(1).to_numpy())

    def _moved_to(self, partition: int) -> list[str]:
        """Tenants that belong in the partition and have events elsewhere: the topic grew."""
        if self._layout is None:
            return []
        if self._moved is None:
            layout, rows = self._layout, self._cursor.execute(_sql("tenants_by_partition")).fetchall()
            homes = [(partition_of(tenant.encode(), layout), at, tenant) for at, tenant in rows]
            self._moved = [(home, tenant) for home, at, tenant in homes if home != at]
        return sorted({tenant for home, tenant in self._moved if home == partition})

    def identity(self) -> str:
        with self._available("the lake's name cannot be read"):
            return self._lake.identity(self._cursor)

    def spend(self, edges_us: Sequence[int]) -> pa.Table:
        whole_hours = all(edge % _HOUR_US == 0 for edge in edges_us)
        table = ROLLUP_HOUR if whole_hours else ROLLUP_MINUTE
        with self._available("spend cannot be read"):
            result = self._cursor.execute(_spend_sql(table), {"edges": list(edges_us)}).to_arrow_table()
        return result.cast(SPEND_SCHEMA)

    def close(self) -> None:
        put_away(self._cursor)

    @contextmanager
    def _available(self, otherwise: str) -> Iterator[None]:
        try:
            if self._broken:
                put_away(self._cursor)
                self._cursor = self._lake.cursor()
                self._broken = False
            yield
        except TROUBLE as trouble:
            self._broken = self._broken or broken(trouble)
            if not passing(trouble):
                raise
            raise LedgerUnavailable(f"{otherwise}: {self._told(trouble)}") from self._cause(trouble)

    def _told(self, trouble: Exception) -> str:
        return self._lake.config.told(trouble)

    def _cause(self, trouble: Exception) -> Exception | None:
        return None if self._lake.config.has_secrets else trouble

    # -- within a transaction ------------------------------------------------------------------------------------

    def _move_positions(self, unit: Processed) -> None:
        for partition, after in sorted(unit.after.items()):
            expected = unit.before[partition].next_offset
            values = _position_row(after)
            moved = self._cursor.execute(_move_sql(partition), [*values, expected, self._layout]).fetchone()
            if moved != (1,):
                stored = self._cursor.execute(f"SELECT next_offset FROM {position_table(partition)}").fetchone()
                if stored == (expected,):
                    raise LayoutChanged(partition, expected)
                raise Fenced(partition, expected, stored[0] if stored else -1)

    def _append_all(self, unit: Processed, written: list[str]) -> None:
        """Writes the unit's files, all at once, then names them to the catalogue. `written`: all that may be there."""
        new = [
            (table, files_of(table, rows, self._lake.config.folder_of(table)))
            for table, rows in (
                (CHARGES, unit.charges),
                (NODE_EVENTS, unit.node_events),
                (ROLLUP_MINUTE, unit.minutes),
                (ROLLUP_HOUR, unit.hours),
                (ROLLUP_DAY, by_day(unit.hours)),
                (LATENCY_HOUR, unit.latency),
                (REJECTS, rejects_table(unit.rejects)),
            )
        ]
        made = [file for _, of_table in new for file in of_table]
        written += [file.path for file in made]
        self._lake.store.write(made)
        for table, of_table in new:
            if of_table:
                self._cursor.execute(ADD_FILES, [table.name, [file.path for file in of_table]])

    # -- after trouble -------------------------------------------------------------------------------------------

    def _may_still_commit(self, trouble: Exception) -> bool:
        """Whether PostgreSQL may yet do what a COMMIT without an answer asked for, after we have read positions."""
        return self._lake.config.on_postgres and "conflict" not in str(trouble).lower()

    def _resolve(self, unit: Processed, trouble: duckdb.Error | OSError, written: Sequence[str]) -> None:
        """What became of a commit that failed, by the stored positions. Returns when it is in the lake after all.

        Its files, `written`, are removed only when it is known not to be: the rest is for maintenance.
        """
        stored = self.positions()
        if all(stored[partition] == after for partition, after in unit.after.items()):
            return
        with suppress(OSError):  # a store in trouble keeps the rest, as orphans, rather than hold us up for each
            for path in written:
                self._lake.store.remove(path)
        for partition, before in sorted(unit.before.items()):
            if stored[partition].next_offset != before.next_offset:
                raise Fenced(partition, before.next_offset, stored[partition].next_offset) from self._cause(trouble)
        if passing(trouble):
            raise LedgerUnavailable(f"nothing was committed: {self._told(trouble)}") from self._cause(trouble)
        raise trouble


def _position_row(position: Position) -> list[int | None]:
    """POSITION_COLUMNS of a position."""
    return [position.next_offset, *(getattr(position.counts, name) for name in COUNTS), position.arrived_us]


@cache
def _move_sql(partition: int) -> str:
    """It compares lists: for a bare column DuckLake would look for files by their extremes, of which there are none,
    and read the catalogue's extremes of all files of the lake twice for it, half of what an update costs. In lists a
    null equals a null: the -1, no layout's, keeps a position that says none from being moved."""
    sets = ", ".join(f"{quoted(name)} = ?" for name in POSITION_COLUMNS)
    return (
        f"UPDATE {position_table(partition)} SET {sets} WHERE [next_offset, {LAYOUT}] = [?, coalesce(?, {LAYOUT}, -1)]"
    )


@cache
def _spend_sql(table: LakeTable) -> str:
    """Parameter $edges: microseconds, ascending."""
    cost = " + ".join(f"sum({kind.cost})" for kind in TOKEN_KINDS)
    tokens = " + ".join(f"sum({kind.tokens})" for kind in TOKEN_KINDS)
    return f"""
        WITH edges AS (
            SELECT i - 1 AS interval, make_timestamptz($edges[i]) AS start, make_timestamptz($edges[i + 1]) AS stop
            FROM range(1, len($edges)) AS numbers(i)
        )
        SELECT "partition", interval, tenant, application, model, {cost} AS cost, ({tokens})::BIGINT AS tokens
        FROM {table.name} JOIN edges ON "time" >= start AND "time" < stop
        WHERE disposition = 'billed'
        GROUP BY ALL
        ORDER BY ALL
    """


@cache
def _sql(name: str) -> str:
    return (files("meterhouse.warehouse") / "sql" / f"{name}.sql").read_text()


def _halves(keys: pa.ExtensionArray[Any]) -> npt.NDArray[np.uint64]:
    """The 16 bytes of each key as two native uint64, without a copy."""
    storage = keys.storage
    data = storage.buffers()[1]
    if data is None:
        return np.empty((0, 2), np.uint64)
    return np.frombuffer(data, np.uint64).reshape(-1, 2)[storage.offset : storage.offset + len(storage)]
