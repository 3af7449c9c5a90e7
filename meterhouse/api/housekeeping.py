"""Housekeeping in the meter's process between commits: the lake's maintenance and retention, and those of the embedded
log (a broker sees to its own). A SQLite catalogue has one writer, so it can be nowhere else; of several meters on
PostgreSQL one at a time does it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import structlog

from meterhouse.api.metrics_workers import MaintenanceMetrics
from meterhouse.ingest.log import USAGE_EVENTS, EventLog
from meterhouse.ingest.sqlite_log import SqliteLog
from meterhouse.streams.ledger import Ledger, LedgerUnavailable
from meterhouse.warehouse.control import ControlUnavailable
from meterhouse.warehouse.lake import Lake
from meterhouse.warehouse.maintenance import maintain, merge_deltas
from meterhouse.warehouse.retention import RetentionReport

_log = structlog.get_logger("meterhouse.housekeeping")


DELTAS_EVERY_US: Final = 8_000_000
"""Between two merges of deltas: some eight commits. A file costs a report 0.6 ms of processor time."""


RETAIN_EVERY_US: Final = 3_600_000_000
"""Between two looks for what retention is to remove: it goes by days."""


@dataclass(kw_only=True)
class Housekeeping:
    """Does its round every `every_s` seconds of commits, and merges deltas every DELTAS_EVERY_US. What is not due
    costs a look at the clock.

    `held(now_us)`: the lake snapshots that listings are read from, which stay. `retain(now_us)` removes rows that are
    older than they are kept.
    """

    every_s: float
    lake: Lake
    ledger: Ledger
    log: EventLog
    clock: Callable[[], int]
    held: Callable[[int], Collection[int]]
    watch: MaintenanceMetrics
    retain: Callable[[int], RetentionReport] = lambda _now_us: RetentionReport()

    def __post_init__(self) -> None:
        self._last_us = self._deltas_us = self.clock()
        self._retained_us = 0
        self.watch.begins()

    def between_commits(self) -> None:
        """Called on the ledger's thread while no transaction is open."""
        now_us = self.clock()
        if now_us - self._last_us >= self.every_s * 1e6:
            self._last_us = self._deltas_us = now_us
            self.round(now_us)
            self._retain(now_us)
        # On PostgreSQL the commits of all meters would wait for it: there it is left to the rounds.
        elif now_us - self._deltas_us >= DELTAS_EVERY_US and not self.lake.config.on_postgres:
            self._deltas_us = now_us
            report = merge_deltas(self.lake, now_us)
            self.watch.maintained(report)
            if report.trouble:
                _log.warning("deltas are not merged", trouble=report.trouble)

    def _retain(self, now_us: int) -> None:
        if now_us - self._retained_us < RETAIN_EVERY_US:
            return
        self._retained_us = now_us
        try:
            report = self.retain(now_us)
        except ControlUnavailable as trouble:
            _log.warning("retention removed nothing: what is to be kept is not known", reason=str(trouble))
            return
        self.watch.retained(report)
        if report.trouble:
            _log.warning("retention is not done", trouble=report.trouble)
        if any(report.rows.values()):
            _log.info("retention removed rows", **report.rows)

    def round(self, now_us: int) -> None:
        try:
            held = self.held(now_us)
        except ControlUnavailable as trouble:
            _log.warning("the lake was not maintained: who reads what of it is not known", reason=str(trouble))
            return
        report = maintain(self.lake, now_us, held=held)
        self.watch.round_done(report)
        if report.merged_into:
            # The row groups of merged charges: the C library would keep the room, 200 MiB of it after some millions.
            pa.default_memory_pool().release_unused()
        removed = 0
        if isinstance(self.log, SqliteLog):
            try:
                positions = self.ledger.positions()
            except LedgerUnavailable as trouble:
                _log.warning("nothing was removed from the log", reason=str(trouble))
                return
            keep_from = {(USAGE_EVENTS, p): position.next_offset for p, position in positions.items()}
            removed = self.log.enforce_retention(now_us, keep_from)
        _log.info("housekeeping done", report=str(report), log_records_removed=removed)
