"""What a back-up asks of a copied catalogue, and what makes a copy a lake of its own again.

Statements that SQLite and PostgreSQL both know. DuckLake's specification says what its tables hold:
https://ducklake.select/docs/stable/specification/tables/overview
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import uuid4

from meterhouse.warehouse.backup.databases import Ask
from meterhouse.warehouse.backup.manifest import BackupError, Mark
from meterhouse.warehouse.lake_schema import POSITION_TABLE

NEWEST: Final = "SELECT max(snapshot_id) FROM ducklake_snapshot"
_FILES: Final = " UNION ALL ".join(
    f"""
    SELECT s.path, t.path, f.path, s.path_is_relative, t.path_is_relative, f.path_is_relative, f.file_size_bytes
    FROM {kind} AS f JOIN ducklake_table AS t ON t.table_id = f.table_id AND t.end_snapshot IS NULL
    JOIN ducklake_schema AS s ON s.schema_id = t.schema_id AND s.end_snapshot IS NULL
    WHERE f.end_snapshot IS NULL
    """
    for kind in ("ducklake_data_file", "ducklake_delete_file")
)
_POSITIONS: Final = f"""
    SELECT t.table_name, i.table_name FROM ducklake_table AS t
    JOIN ducklake_inlined_data_tables AS i ON i.table_id = t.table_id
    WHERE t.table_name LIKE '{POSITION_TABLE}%' AND t.end_snapshot IS NULL
"""
_OF_FILES: Final = ("ducklake_file_column_stats", "ducklake_file_variant_stats", "ducklake_file_partition_value")


@dataclass(frozen=True, slots=True)
class LakeFile:
    """A file that the newest snapshot needs, by its path below the lake's files."""

    name: str
    bytes: int


def files(ask: Ask) -> list[LakeFile]:
    """All files that the newest snapshot needs. Raises BackupError when one lies elsewhere."""
    found = []
    for schema, table, path, *relative, size in ask(_FILES):
        if not all(relative):
            raise BackupError(f"the catalogue names {path}, which is not below the lake's files: it cannot be copied")
        found.append(LakeFile(f"{schema}{table}{path}", int(size)))
    return found


def marks(ask: Ask) -> dict[int, Mark]:
    """How far each partition is metered."""
    found = {}
    for position, rows in ask(_POSITIONS):
        for next_offset, arrived_us in ask(f"SELECT next_offset, arrived_us FROM {rows} WHERE end_snapshot IS NULL"):
            found[int(position.removeprefix(POSITION_TABLE))] = Mark(int(next_offset), arrived_us)
    return dict(sorted(found.items()))


def alone() -> list[str]:
    """Statements that leave a copy its newest snapshot, whose files alone are there, and give the lake another name:
    what was derived from the one that it is a copy of, and kept elsewhere, may know of later events."""
    return [
        *(f"DELETE FROM {of} WHERE end_snapshot IS NOT NULL" for of in ("ducklake_data_file", "ducklake_delete_file")),
        *(f"DELETE FROM {of} WHERE data_file_id NOT IN (SELECT data_file_id FROM ducklake_data_file)"
          for of in _OF_FILES),
        "DELETE FROM ducklake_files_scheduled_for_deletion",
        f"DELETE FROM ducklake_snapshot_changes WHERE snapshot_id < ({NEWEST})",
        f"DELETE FROM ducklake_snapshot WHERE snapshot_id < ({NEWEST})",
        f"UPDATE ducklake_table SET table_uuid = '{uuid4()}' WHERE table_name = 'charges' AND end_snapshot IS NULL",
    ]  # fmt: skip
