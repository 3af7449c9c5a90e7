"""Wiring: the only place that constructs ports. A `House` is what a home folder holds, opened for one process."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Self

import pyarrow as pa
from sqlalchemy import Engine

from meterhouse.api.clock import now_us
from meterhouse.api.housekeeping import Housekeeping
from meterhouse.api.settings import Settings
from meterhouse.ingest.event import Lateness
from meterhouse.ingest.log import USAGE_EVENTS, LogError, TopicSpec
from meterhouse.ingest.sqlite_log import SqliteLog
from meterhouse.streams.budget_worker import EmbeddedBudgetWorker, budget_topics
from meterhouse.streams.meter import Meter, MeterSettings
from meterhouse.warehouse.alert_outbox import SqlAlertOutbox
from meterhouse.warehouse.control import ControlStore
from meterhouse.warehouse.database import open_database, sqlite_url
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.lake_ledger import LakeLedger

if TYPE_CHECKING:
    from meterhouse.streams.alert_sender import AlertSender

_DAY_US = 86_400 * 1_000_000


class House:
    """The parts of one home, each opened when it is first asked for. `writer` says who may write to the lake."""

    def __init__(self, settings: Settings, *, writer: bool = False) -> None:
        self.settings = settings
        self._writer = writer
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    @cached_property
    def log(self) -> SqliteLog:
        if self.settings.kafka_bootstrap is not None:
            raise LogError("this version has the embedded log alone: unset METERHOUSE_KAFKA_BOOTSTRAP")
        self.settings.home.mkdir(parents=True, exist_ok=True)
        log = SqliteLog(self.settings.log_path, clock=now_us, max_bytes=self.settings.log_max_bytes)
        self._closing.callback(log.close)
        retention_us = self.settings.log_retention_days * _DAY_US
        usage = TopicSpec(USAGE_EVENTS, self.settings.partitions, retention_us=retention_us)
        log.create_topics([usage, *budget_topics(partitions=1)])
        return log

    @cached_property
    def control(self) -> ControlStore:
        return ControlStore(self._database)

    @cached_property
    def outbox(self) -> SqlAlertOutbox:
        return SqlAlertOutbox(self._database)

    @cached_property
    def lake(self) -> Lake:
        config = LakeConfig(self.settings.catalogue_path, self.settings.data_path)
        lake = Lake.open(config, read_only=not self._writer)
        self._closing.callback(lake.close)
        return lake

    @cached_property
    def _database(self) -> Engine:
        self.settings.home.mkdir(parents=True, exist_ok=True)
        engine = open_database(sqlite_url(self.settings.control_path))
        self._closing.callback(engine.dispose)
        return engine

    # -- workers ---------------------------------------------------------------------------------------------------

    def meter(self) -> Meter:
        """The meter of this home's log; the house must be the lake's writer. Its caller closes it."""
        settings = self.settings
        # Arrow's own pool hands memory back at once, and having it faulted in again is a fifth of the meter's time.
        pa.set_memory_pool(pa.system_memory_pool())
        ledger = LakeLedger(self.lake)
        housekeeping = Housekeeping(
            every_s=settings.maintain_every_s, lake=self.lake, ledger=ledger, log=self.log, clock=now_us
        )
        return Meter(
            log=self.log,
            ledger=ledger,
            snapshots=self.control.snapshot,
            clock=now_us,
            settings=MeterSettings(
                commit_every_s=settings.commit_every_s,
                commit_events=settings.commit_events,
                poll_records=settings.poll_records,
                window_hours=settings.dedupe_window_hours,
                lateness=self.lateness,
            ),
            between_commits=housekeeping.between_commits,
        )

    def budget_worker(self) -> EmbeddedBudgetWorker:
        return EmbeddedBudgetWorker(self.log, self.control.snapshot, self.outbox, now_us, self.lateness)

    def alert_sender(self) -> AlertSender:
        # Here, since an HTTP client's import is felt at every report.
        from meterhouse.streams.alert_sender import AlertSender, Webhook

        settings = self.settings
        secret = settings.webhook_secret.get_secret_value().encode() if settings.webhook_secret else None
        webhook = Webhook(settings.webhook_url, secret) if settings.webhook_url else None
        return AlertSender(self.outbox, webhook, clock=now_us)

    @property
    def lateness(self) -> Lateness:
        return Lateness(self.settings.max_ahead_s * 1_000_000, self.settings.max_behind_s * 1_000_000)
