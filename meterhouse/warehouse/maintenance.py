"""Maintenance of the lake: merges small files, adds up deltas, lets old snapshots go, removes files nobody needs.

It runs in a writer's process between its commits and changes no report. Files are merged by writing one, deleting the
rows of the others and naming the new one, in one transaction: a reader of an older snapshot goes on reading the old
files. (DuckLake's own `merge_adjacent_files` shows the newer rows to a reader whose transaction began before them.)
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final
from uuid import uuid4

import duckdb

from meterhouse.warehouse.lake import Lake
from meterhouse.warehouse.lake_files import merged_file
from meterhouse.warehouse.lake_schema import ADD_FILES, COMMITTED, REJECTS, TABLES, LakeTable, delta_sum_sql, quoted
from meterhouse.warehouse.lake_trouble import TROUBLE, passing, roll_back
from meterhouse.warehouse.lake_turns import turn

_DAY_US: Final = 86_400 * 1_000_000
_MIB: Final = 1 << 20
GROUP_ROWS: Final = 250_000
"""Of a row group that merging writes, and holds in memory: some 80 MB of charges."""
PAYLOAD_ROWS: Final = 2_048
"""The same of rejects, whose payloads may be large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceSettings:
    """When what is done."""

    size_classes: tuple[int, ...] = (_MIB, 32 * _MIB)  # bytes; a file is merged with others of its class, at most twice
    merge_files: int = 16  # of a class in a folder: a file costs a report about 0.3 ms
    merge_files_closed: int = 4  # of a day or month that ended a day ago: only late events come
    merge_deltas: int = 8  # of deltas' files, which nearly every report reads, between two runs
    merge_bytes: int = 64 * _MIB  # rewritten in a run: 2 million events, commits wait for some 3 s
    keep_all_us: int = (
        300 * 1_000_000
    )  # every snapshot, for reports in progress; 100 cost a commit 8 ms (`listings` hold theirs)
    keep_daily_us: int = 7 * _DAY_US  # the last snapshot of each day
    delete_after_us: int = 3_600 * 1_000_000  # from when no snapshot has a file until it goes: a scan may still read it
    orphan_after_us: int = _DAY_US  # far beyond the longest commit, whose files look like orphans until it ends


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file of a table's rows."""

    path: str  # as the catalogue names it
    size_bytes: int

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class MaintenanceReport:
    """What a run did, and how long it took."""

    merged_files: int = 0
    merged_into: int = 0
    rows_before: int = 0  # of the merged files
    rows_after: int = 0  # fewer when deltas were added up
    expired_snapshots: int = 0
    dropped_positions: int = 0  # rows of the catalogue that held positions no snapshot shows
    deleted_files: int = 0
    deleted_bytes: int = 0  # of these, orphans not among them
    orphans: int = 0
    duration_us: int = 0
    elsewhere: bool = False  # another process is at it: nothing was done
    trouble: tuple[str, ...] = field(default=())  # steps that could not be done; the next run tries again


def maintain(
    lake: Lake,
    now_us: int,
    settings: MaintenanceSettings | None = None,
    *,
    held: Collection[int] = (),
    timer: Callable[[], float] = time.perf_counter,
) -> MaintenanceReport:
    """Does what is due at `now_us` (microseconds, of the clock that snapshots have). Cheap when nothing is. Snapshots
    that are `held` stay, for someone reads a report page by page from them.

    Waits for a commit of this process in progress, and holds up the next. Of several processes one at a time does it,
    the others do nothing. Passing trouble is told in the report, not raised.
    """
    started = timer()
    steps = (_merge, _expire, _drop_positions, _delete_files, _delete_orphans)
    how = settings or MaintenanceSettings()
    report = _in_turn(lake, steps, lambda cursor: _Run(lake, cursor, now_us, how, frozenset(held)))
    return replace(report, duration_us=round((timer() - started) * 1e6))


def merge_deltas(lake: Lake, now_us: int, settings: MaintenanceSettings | None = None) -> MaintenanceReport:
    """Of `maintain` only this: small files of deltas are merged, from `merge_deltas` of a folder on."""
    settings = settings or MaintenanceSettings()
    few = replace(settings, merge_files=settings.merge_deltas, size_classes=settings.size_classes[:1])
    return _in_turn(lake, (_merge_deltas,), lambda cursor: _Run(lake, cursor, now_us, few, frozenset()))


_Step = Callable[["_Run", MaintenanceReport], MaintenanceReport]


def _in_turn(
    lake: Lake, steps: Sequence[_Step], run_on: Callable[[duckdb.DuckDBPyConnection], _Run]
) -> MaintenanceReport:
    report = MaintenanceReport()
    try:
        with lake.writing, turn(lake.config.catalogue, "maintenance") as ours:
            if not ours:
                return replace(report, elsewhere=True)
            with lake.borrowed() as cursor:
                return _done(run_on(cursor), steps)
    except TROUBLE as trouble:
        if not passing(trouble):
            raise
        return _troubled(report, lake, "beginning", trouble)


def _done(run: _Run, steps: Sequence[_Step]) -> MaintenanceReport:
    report = MaintenanceReport()
    for step in steps:
        try:
            report = step(run, report)
        except TROUBLE as trouble:
            roll_back(run.cursor)
            if not passing(trouble):
                raise
            report = _troubled(report, run.lake, step.__name__.strip("_"), trouble)
    return report


def _troubled(report: MaintenanceReport, lake: Lake, step: str, trouble: Exception) -> MaintenanceReport:
    return replace(report, trouble=(*report.trouble, f"{step}: {lake.config.told(trouble)}"))


@dataclass(frozen=True, slots=True)
class _Run:
    lake: Lake
    cursor: duckdb.DuckDBPyConnection
    now_us: int
    settings: MaintenanceSettings
    held: frozenset[int]

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[object, ...]]:
        return self.cursor.execute(sql, list(parameters)).fetchall()

    def ago(self, span_us: int) -> datetime:
        return datetime.fromtimestamp((self.now_us - span_us) / 1e6, UTC)


# -- merging ---------------------------------------------------------------------------------------------------------


def due_merges(files: Iterable[DataFile], now_us: int, settings: MaintenanceSettings) -> list[list[DataFile]]:
    """Groups of files worth merging: of one folder (a day or a month) and one size class, when there are enough."""
    groups: dict[tuple[str, int], list[DataFile]] = defaultdict(list)
    for each in files:
        for size_class in settings.size_classes:
            if each.size_bytes < size_class:
                groups[each.folder, size_class].append(each)
                break
    due = []
    for (folder, _), group in sorted(groups.items()):
        closed = folder_end_us(folder) <= now_us - _DAY_US
        if len(group) >= (settings.merge_files_closed if closed else settings.merge_files):
            due.append(group)
    return due


def folder_end_us(folder: str) -> int:
    """When the day or month ends whose files are in a folder `year=Y/month=M[/day=D]`; microseconds."""
    parts = {name: int(value) for name, _, value in (part.partition("=") for part in folder.split("/")[-3:]) if value}
    year, month = parts["year"], parts["month"]
    if "day" in parts:
        return int(datetime(year, month, parts["day"], tzinfo=UTC).timestamp()) * 1_000_000 + _DAY_US
    following = datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)
    return int(following.timestamp()) * 1_000_000


def _merge(run: _Run, report: MaintenanceReport) -> MaintenanceReport:
    return _merge_of(TABLES, run, report)


def _merge_deltas(run: _Run, report: MaintenanceReport) -> MaintenanceReport:
    return _merge_of([table for table in COMMITTED if table.keys], run, report)


def _merge_of(tables: Sequence[LakeTable], run: _Run, report: MaintenanceReport) -> MaintenanceReport:
    budget_bytes = run.settings.merge_bytes
    for table in tables:
        found = run.rows("SELECT data_file, data_file_size_bytes FROM ducklake_list_files('lake', ?)", [table.name])
        files = [DataFile(str(path), int(str(size))) for path, size in found]
        for group in due_merges(files, run.now_us, run.settings):
            chosen = within(group, budget_bytes)
            if len(chosen) < 2:
                continue
            budget_bytes -= sum(each.size_bytes for each in chosen)
            with run.lake.passage.through(alone=True):
                before, after = _merge_files(run, table, chosen)
            report = replace(
                report,
                merged_files=report.merged_files + len(chosen),
                merged_into=report.merged_into + 1,
                rows_before=report.rows_before + before,
                rows_after=report.rows_after + after,
            )
    return report


def within(files: Sequence[DataFile], budget_bytes: int) -> list[DataFile]:
    """The smallest of `files` that come to at most `budget_bytes`."""
    chosen = []
    for each in sorted(files, key=lambda file: (file.size_bytes, file.path)):
        budget_bytes -= each.size_bytes
        if budget_bytes < 0:
            break
        chosen.append(each)
    return chosen


def _merge_files(run: _Run, table: LakeTable, files: Sequence[DataFile]) -> tuple[int, int]:
    """Puts the rows of `files`, all of one folder, into one file. Returns the number of rows before and after."""
    merged = f"{files[0].folder}/{uuid4()}.parquet"
    names = [each.path for each in files]
    try:
        run.rows("BEGIN TRANSACTION")
        sums = _sums(run, table, names)
        # By Arrow, as commits write: DuckDB's encodings take two bytes an event more.
        rows = run.cursor.execute(_merged_sql(table), [names]).to_arrow_reader(
            PAYLOAD_ROWS if table is REJECTS else GROUP_ROWS
        )
        run.lake.store.write([merged_file(table, merged, rows)])
        run.rows(f"DELETE FROM {table.name} WHERE filename IN ?", [names])
        run.rows(ADD_FILES, [table.name, [merged]])
        merged_sums = _sums(run, table, [merged])
        if merged_sums[1:] != sums[1:] or (not table.keys and merged_sums != sums):
            raise AssertionError(f"merging {len(files)} files of {table.name} changed its sums: {sums} → {merged_sums}")
        run.rows("COMMIT")
    except BaseException:
        roll_back(run.cursor)
        with suppress(OSError):  # an orphan then
            run.lake.store.remove(merged)
        raise
    return int(str(sums[0])), int(str(merged_sums[0]))


def _merged_sql(table: LakeTable) -> str:
    """The rows of the files `?` as they are merged: deltas are added up, others stay as they stand, file after file."""
    source = f"SELECT * FROM {table.name} WHERE filename IN ?"
    if table.keys:
        return f'{delta_sum_sql(table, f"({source})")} ORDER BY "time", tenant'
    return source  # to sort them would take memory, and they stand in the log's order as it is


def _sums(run: _Run, table: LakeTable, names: Sequence[str]) -> tuple[object, ...]:
    """The number of rows of the files `names`, and the sum of each measure."""
    sums = "".join(f", sum({quoted(name)})" for name in table.measures)
    return run.rows(f"SELECT count(*){sums} FROM {table.name} WHERE filename IN ?", [names])[0]


# -- letting go ------------------------------------------------------------------------------------------------------


def expirable(snapshots: Iterable[tuple[int, int]], now_us: int, settings: MaintenanceSettings) -> list[int]:
    """Which of `snapshots` (id, time in microseconds) may go: all but the newest, the young, and each day's last."""
    ordered = sorted(snapshots)
    last_of_day = {time_us // _DAY_US: id_ for id_, time_us in ordered}
    return [
        id_
        for id_, time_us in ordered[:-1]
        if time_us <= now_us - settings.keep_all_us
        and (last_of_day[time_us // _DAY_US] != id_ or time_us <= now_us - settings.keep_daily_us)
    ]


def _expire(run: _Run, report: MaintenanceReport) -> MaintenanceReport:
    found = run.rows("SELECT snapshot_id, epoch_us(snapshot_time) FROM ducklake_snapshots('lake')")
    snapshots = [(int(str(id_)), int(str(time_us))) for id_, time_us in found]
    due = [id_ for id_ in expirable(snapshots, run.now_us, run.settings) if id_ not in run.held]
    if due:
        run.cursor.execute(f"CALL ducklake_expire_snapshots('lake', versions => {due})")
    return replace(report, expired_snapshots=len(due))


def _drop_positions(run: _Run, report: MaintenanceReport) -> MaintenanceReport:
    """Each commit leaves its partitions' former positions in the catalogue as rows that expiry does not remove."""
    dropped = 0
    for (name,) in run.rows(f"SELECT table_name FROM {run.lake.config.metadata}.ducklake_inlined_data_tables"):
        ((count,),) = run.rows(
            f"""
            DELETE FROM {run.lake.config.metadata}.{name} WHERE end_snapshot IS NOT NULL AND NOT EXISTS (
                SELECT 1 FROM {run.lake.config.metadata}.ducklake_snapshot
                WHERE snapshot_id >= begin_snapshot AND snapshot_id < end_snapshot
            )
            """
        )
        dropped += int(str(count))
    return replace(report, dropped_positions=dropped)


def _delete_files(run: _Run, report: MaintenanceReport) -> MaintenanceReport:
    # A SQLite catalogue holds the time as text and compares it with a text that has a T in the middle: without one
    # every file of the day would be older than any moment of it.
    run.rows(
        f"""
        UPDATE {run.lake.config.metadata}.ducklake_files_scheduled_for_deletion
        SET schedule_start = replace(schedule_start::VARCHAR, ' ', 'T') WHERE schedule_start::VARCHAR LIKE '% %'
        """
    )
    before = run.ago(run.settings.delete_after_us)
    due = run.rows("CALL ducklake_cleanup_old_files('lake', older_than => ?, dry_run => true)", [before])
    size = run.lake.store.total_bytes([str(path) for (path,) in due])
    gone = run.rows("CALL ducklake_cleanup_old_files('lake', older_than => ?)", [before])
    return replace(report, deleted_files=len(gone), deleted_bytes=size)


def _delete_orphans(run: _Run, report: MaintenanceReport) -> MaintenanceReport:
    """Removes files that the catalogue does not name, which a killed writer left. Those of an open writer look the
    same: so only old ones, and none while this process writes."""
    before = run.ago(run.settings.orphan_after_us)
    gone = run.rows("CALL ducklake_delete_orphaned_files('lake', older_than => ?)", [before])
    return replace(report, orphans=len(gone))
