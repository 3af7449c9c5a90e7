"""What the catalogue says of the lake's newest snapshot, read from its own tables.

A query of a lake's table costs some milliseconds before it reads a row, for each table that it names; a query of the
catalogue does not. DuckLake's specification says what its tables hold:
https://ducklake.select/docs/stable/specification/tables/overview. What it says of a snapshot is sure while that is the
newest one: merges and expiry change what it says of older ones. All functions give None where it is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from meterhouse.warehouse.lake import Cursor, Lake
from meterhouse.warehouse.lake_schema import POSITION_TABLE

_ALIVE = "begin_snapshot <= $snapshot AND (end_snapshot IS NULL OR end_snapshot > $snapshot)"


@dataclass(frozen=True, slots=True)
class LakeFile:
    """A file of a table. Its first and last time in microseconds, where they are known."""

    path: str
    first_us: int | None
    last_us: int | None

    def may_hold(self, from_us: int, to_us: int) -> bool:
        """May a row's time be in [from_us, to_us)?"""
        return (self.first_us is None or self.first_us < to_us) and (self.last_us is None or self.last_us >= from_us)


def files(lake: Lake, cursor: Cursor, table: str, snapshot: int) -> Sequence[LakeFile] | None:
    """The files whose rows are a table's rows. None too where some of a file's rows are not: they were deleted, or came
    later."""
    metadata = lake.config.metadata
    rows = cursor.execute(
        f"""
        WITH this AS (
            SELECT table_id, column_id
            FROM {metadata}.ducklake_table AS t JOIN {metadata}.ducklake_column AS c USING (table_id)
            WHERE t.table_name = $table AND t.end_snapshot IS NULL
                AND c.column_name = 'time' AND c.end_snapshot IS NULL
        ),
        alive AS (FROM {metadata}.ducklake_data_file WHERE {_ALIVE})
        SELECT
            f.path, f.path_is_relative, epoch_us(s.min_value::TIMESTAMPTZ), epoch_us(s.max_value::TIMESTAMPTZ),
            f.partial_max IS NOT NULL
                OR EXISTS (FROM {metadata}.ducklake_delete_file AS d WHERE d.data_file_id = f.data_file_id)
                OR $snapshot <> {_newest(metadata)}
        FROM this
        JOIN alive AS f USING (table_id)
        LEFT JOIN {metadata}.ducklake_file_column_stats AS s
            ON s.data_file_id = f.data_file_id AND s.column_id = this.column_id
        ORDER BY f.data_file_id
        """,
        {"table": table, "snapshot": snapshot},
    ).fetchall()
    if any(row[-1] for row in rows):
        return None
    folder = f"{lake.config.root}/main/{table}"
    return [LakeFile(f"{folder}/{path}" if relative else path, *times) for path, relative, *times, _ in rows]


def positions(lake: Lake, cursor: Cursor, snapshot: int) -> list[tuple[int, int, int | None]] | None:
    """Partition, next offset and newest arrival of each partition's position, ascending. A position is a row of the
    catalogue; None too where one of them is not."""
    metadata = lake.config.metadata
    tables = cursor.execute(
        f"SELECT t.table_name, i.table_name FROM {metadata}.ducklake_table AS t"
        f" LEFT JOIN {metadata}.ducklake_inlined_data_tables AS i USING (table_id)"
        f" WHERE starts_with(t.table_name, '{POSITION_TABLE}') AND t.end_snapshot IS NULL"
    ).fetchall()
    if not tables or any(rows is None for _, rows in tables):
        return None
    of_each = " UNION ALL ".join(
        f"SELECT {int(name.removeprefix(POSITION_TABLE))} AS of, next_offset, arrived_us,"
        f" $snapshot = {_newest(metadata)} FROM {metadata}.{rows} WHERE {_ALIVE}"
        for name, rows in tables
    )
    found = cursor.execute(f"{of_each} ORDER BY of", {"snapshot": snapshot}).fetchall()
    if [row[0] for row in found] != list(range(len({name for name, _ in tables}))) or not all(row[-1] for row in found):
        return None
    return [(partition, offset, arrived_us) for partition, offset, arrived_us, _ in found]


def _newest(metadata: str) -> str:
    return f"(SELECT max(snapshot_id) FROM {metadata}.ducklake_snapshot)"
