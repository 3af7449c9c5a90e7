"""Wiring: the only place that constructs ports. A `House` is what a home folder holds, opened for one process."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cached_property
from time import monotonic
from typing import TYPE_CHECKING, Final, Self

import pyarrow as pa
import sqlalchemy as sa
import structlog

from meterhouse.api.clock import now_us
from meterhouse.api.head_keeper import HeadKeeper
from meterhouse.api.housekeeping import Housekeeping
from meterhouse.api.retaining import retaining
from meterhouse.api.settings import Settings
from meterhouse.api.wiring_edges import channels_of, code_flow_of, sessions_of, tokens_of, tracing_of
from meterhouse.api.wiring_places import control_url, lake_config
from meterhouse.ingest.event import Lateness
from meterhouse.ingest.log import EventLog, LogError, TopicSpec
from meterhouse.ingest.sqlite_log import SqliteLog
from meterhouse.ingest.topics import DAY_US, declared, embedded
from meterhouse.streams.budget_desk import BudgetDesk
from meterhouse.streams.budget_worker import BudgetWorker, EmbeddedBudgetWorker
from meterhouse.streams.control import Snapshot
from meterhouse.streams.dedupe_store import Dedupe, TieredDedupe
from meterhouse.streams.meter import Meter, MeterSettings
from meterhouse.streams.watch import MeterHooks
from meterhouse.warehouse.alert_outbox import SqlAlertOutbox
from meterhouse.warehouse.api_keys import ApiKeys
from meterhouse.warehouse.audit import AuditLog
from meterhouse.warehouse.control import ControlStore, ControlUnavailable
from meterhouse.warehouse.database import TROUBLE, open_database
from meterhouse.warehouse.erasures import Erasures
from meterhouse.warehouse.idempotency import IdempotencyKeys
from meterhouse.warehouse.kept_sums import KeptSums
from meterhouse.warehouse.lake import Lake
from meterhouse.warehouse.lake_ledger import LakeLedger
from meterhouse.warehouse.listings import Listings
from meterhouse.warehouse.quality.results import QualityResults
from meterhouse.warehouse.reject_resolutions import RejectResolutions
from meterhouse.warehouse.silences import SqlSilences

if TYPE_CHECKING:
    from meterhouse.api.admissions import Admissions
    from meterhouse.api.auth.authentication import Authentication
    from meterhouse.api.metrics import Metrics
    from meterhouse.api.tracing import Tracing
    from meterhouse.ingest.kafka_log import KafkaLog
    from meterhouse.streams.alert_sender import AlertSender
    from meterhouse.warehouse.lookout import Lookout
    from meterhouse.warehouse.quality.runs import Quality

CONTROL_EVERY_S: Final = 0.2
"""How often workers look for new control data: an edit is to be in force at gates within a second. A look costs 0.3 ms
with SQLite and 2 ms with PostgreSQL, too much for each of a budget worker's hundred turns a second."""

EMBEDDED_REST: Final = 3.0
"""Times its turn, that the meter of an embedded home rests: it shares its process with whoever asks for reports."""

_log = structlog.get_logger("meterhouse")


class House:
    """The parts of one home, each opened when it is first asked for. `writer` says who may write to the lake."""

    def __init__(self, settings: Settings, *, writer: bool = False) -> None:
        self.settings = settings
        self._writer = writer
        self._closing = ExitStack()
        self._last_snapshot: Snapshot | None = None
        self._looked_s = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    @cached_property
    def log(self) -> EventLog:
        """The log as producers, reports and the group of meters use it. Raises LogError: no such topics yet."""
        return self._kafka(self.settings.kafka_group) if self.settings.kafka_bootstrap else self._embedded_log

    @cached_property
    def _ungrouped_log(self) -> EventLog:
        """The log of a reader of whole topics, in no group."""
        return self._kafka(None) if self.settings.kafka_bootstrap else self._embedded_log

    @cached_property
    def _embedded_log(self) -> SqliteLog:
        self.settings.home.mkdir(parents=True, exist_ok=True)
        log = SqliteLog(self.settings.log_path, clock=now_us, max_bytes=self.settings.log_max_bytes)
        self._closing.callback(log.close)
        log.create_topics(topics_of(self.settings))
        return log

    def _kafka(self, group: str | None) -> EventLog:
        log = open_kafka(self.settings, group)
        self._closing.callback(log.close)
        names = [spec.name for spec in topics_of(self.settings)]
        there = log.describe_topics(names)
        if missing := [name for name in names if name not in there]:
            raise LogError(f"Kafka lacks the topics {', '.join(missing)}: run `meterhouse topics apply` once")
        return log

    @cached_property
    def metrics(self) -> Metrics:
        # Here, since a report needs none.
        from meterhouse.api.metrics import Metrics

        made = Metrics()
        made.watch_disk(home=self.settings.home, dedupe=self.settings.dedupe_folder)
        return made

    @cached_property
    def tracing(self) -> Tracing | None:
        """The spans of this process; None: nobody asked for them. Raises TracesMissing."""
        made = tracing_of(self.settings)
        if made is not None:
            self._closing.callback(made.close)
        return made

    @cached_property
    def control(self) -> ControlStore:
        return ControlStore(self._database)

    @cached_property
    def outbox(self) -> SqlAlertOutbox:
        return SqlAlertOutbox(self._database)

    @cached_property
    def silences(self) -> SqlSilences:
        return SqlSilences(self._database)

    @cached_property
    def resolutions(self) -> RejectResolutions:
        return RejectResolutions(self._database)

    @cached_property
    def audit(self) -> AuditLog:
        return AuditLog(self._database)

    @cached_property
    def idempotency(self) -> IdempotencyKeys:
        return IdempotencyKeys(self._database)

    @cached_property
    def erasures(self) -> Erasures:
        return Erasures(self._database)

    @cached_property
    def listings(self) -> Listings:
        return Listings(self._database)

    @cached_property
    def lake(self) -> Lake:
        lake = Lake.open(lake_config(self.settings), read_only=not self._writer)
        self._closing.callback(lake.close)
        return lake

    @property
    def opened_lake(self) -> Lake | None:
        """The lake, if anybody asked for it yet."""
        return self.__dict__.get("lake")

    @cached_property
    def sums(self) -> KeptSums:
        return KeptSums(self.lake)

    @cached_property
    def _database(self) -> sa.Engine:
        self.settings.home.mkdir(parents=True, exist_ok=True)
        try:
            engine = open_database(control_url(self.settings))
        except TROUBLE as trouble:
            raise ControlUnavailable(f"the control database does not open ({trouble.orig})") from trouble
        self._closing.callback(engine.dispose)
        return engine

    @cached_property
    def admissions(self) -> Admissions:
        """The gate of this process, which the log fills from now on. Raises LogError, ControlUnavailable."""
        # Here, since most commands admit nothing.
        from meterhouse.api.admissions import Admissions
        from meterhouse.api.prices import PriceBook
        from meterhouse.streams.gate import Gate, GateSettings
        from meterhouse.streams.gate_feed import LogFeed
        from meterhouse.streams.gate_hub import StateHub

        log, _ = self._ungrouped_log, self.control  # opened before their readers, so closed after them
        gate = Gate(now_us, GateSettings(gates=self.settings.gates))
        hub = StateHub(gate)
        prices = self._closing.enter_context(PriceBook(self._steady_snapshot))
        self._closing.enter_context(LogFeed(log, hub))
        made = Admissions(gate, hub, prices, self.metrics.gate, now_us)
        self.metrics.gate.watch(lambda: gate.reservations, made.state_age_s)
        return made

    @cached_property
    def keys(self) -> ApiKeys:
        return ApiKeys(self._database)

    @cached_property
    def authentication(self) -> Authentication:
        """Who may ask this server, followed from now on. Raises ControlUnavailable."""
        # Here, since only a server asks who someone is.
        from meterhouse.api.auth.authentication import Authentication, Doors
        from meterhouse.api.auth.key_ring import KeyRing
        from meterhouse.api.auth.notices import Notices

        tokens = tokens_of(self.settings)
        doors = Doors(
            KeyRing(self.keys, self._steady_snapshot, now_us),
            tokens,
            Notices(self._database, now_us),
            sessions_of(self.settings),
            code_flow_of(self.settings, tokens),
        )
        return self._closing.enter_context(Authentication(self.settings.auth, doors))

    # -- workers ---------------------------------------------------------------------------------------------------

    def meter(self) -> Meter:
        """The meter of this home's log; the house must be the lake's writer. Its caller closes it."""
        settings = self.settings
        # Arrow's own pool hands memory back at once, and having it faulted in again is a fifth of the meter's time.
        pa.set_memory_pool(pa.system_memory_pool())
        ledger = LakeLedger(self.lake, cleaned=self.erasures.cleaned)
        housekeeping = Housekeeping(
            every_s=settings.maintain_every_s,
            lake=self.lake,
            ledger=ledger,
            log=self.log,
            clock=now_us,
            held=self.listings.held,
            watch=self.metrics.maintenance,
            retain=retaining(
                self.lake, settings.kept_for, settings.dedupe_window_hours, self._steady_snapshot, self.quality_results
            ),
        )
        _ = self._head_keeper
        watch = self.metrics.meter
        return Meter(
            log=self.log,
            ledger=ledger,
            snapshots=self._newest_snapshot,
            clock=now_us,
            settings=MeterSettings(
                commit_every_s=settings.commit_every_s,
                control_every_s=CONTROL_EVERY_S,
                commit_events=settings.commit_events,
                poll_records=settings.poll_records,
                window_hours=settings.dedupe_window_hours,
                lateness=self.lateness,
                rest=0.0 if settings.kafka_bootstrap else EMBEDDED_REST,
            ),
            hooks=MeterHooks(
                self.tracing.meter(watch) if self.tracing else watch, housekeeping.between_commits, self.dedupe()
            ),
        )

    @cached_property
    def _head_keeper(self) -> HeadKeeper:
        """Runs beside the meters of this house until the house is closed."""
        keeper = HeadKeeper(self.audit.head, self.lake, now_us)  # both are opened before it, so closed after it
        self._closing.callback(keeper.close)
        keeper.start()
        return keeper

    def dedupe(self) -> Dedupe:
        """The dedupe window of one meter, which closes it."""
        settings = self.settings
        memory_bytes = settings.dedupe_memory_mib * 2**20
        return TieredDedupe(settings.dedupe_folder, settings.dedupe_window_hours, memory_bytes)

    def budget_worker(self) -> BudgetWorker:
        """On Kafka a member of the group of budget workers; its caller closes it."""
        log, settings = self._ungrouped_log, self.settings
        self._looked_s = float("-inf")  # a worker that starts knows the control data of now
        desk = BudgetDesk(log, self._steady_snapshot, self.outbox, now_us, self.lateness, watch=self.metrics.budgets)
        if settings.kafka_bootstrap is None:
            return EmbeddedBudgetWorker(log, desk)
        # Here, since Faust is loaded only where there is an address.
        from meterhouse.streams.budget_faust import FaustBudgetWorker, FaustSettings

        return FaustBudgetWorker(
            desk,
            FaustSettings(
                bootstrap=settings.kafka_bootstrap,
                group=f"{settings.kafka_group}.budgets",
                session_timeout_s=settings.kafka_session_timeout_s,
                instance=settings.kafka_instance,
                options=settings.client_options(),
            ),
        )

    def alert_sender(self) -> AlertSender:
        """The sender of this home's alerts, which the house closes. Raises ChannelMissing."""
        # Here, since an HTTP client's import is felt at every report.
        from meterhouse.streams.alert_sender import AlertSender

        channels, watch = channels_of(self.settings), self.metrics.alerts
        for channel in channels:
            watch.has(channel.name)
        sender = AlertSender(self.outbox, self.silences, channels, clock=now_us, watch=watch)
        self._closing.callback(sender.close)
        return sender

    def lookout(self) -> Lookout:
        # Here, since reports are imported where they are asked for.
        from meterhouse.warehouse.lookout import Lookout, LookoutSettings, Views

        settings = self.settings
        return Lookout(
            # There may be no lake yet, nor topics: it waits for them.
            Views(lambda: self.lake, lambda: self._ungrouped_log, self._steady_snapshot),
            self.outbox,
            now_us,
            LookoutSettings(
                settings.lookout_every_s, settings.meter_stuck_s, settings.meter_behind_s, settings.reconciliation
            ),
            watch=self.metrics.lookout,
        )

    @cached_property
    def quality(self) -> Quality:
        # Here, since one command and one route ask for it; the route needs no lake.
        from meterhouse.warehouse.quality.runs import Quality

        return Quality(lambda: self.lake, self.control, self.quality_results, self.outbox, self.lateness)

    @cached_property
    def quality_results(self) -> QualityResults:
        return QualityResults(self._database)

    def _steady_snapshot(self) -> Snapshot:
        """`_newest_snapshot`, at most CONTROL_EVERY_S old."""
        if self._last_snapshot is not None and monotonic() - self._looked_s < CONTROL_EVERY_S:
            return self._last_snapshot
        return self._newest_snapshot()

    def _newest_snapshot(self) -> Snapshot:
        """The control data in force or, while its database is away, the last that was: work goes on, and each charge
        says the version that rated it. Raises ControlUnavailable where there was none yet."""
        self._looked_s = monotonic()
        try:
            self._last_snapshot = self.control.snapshot()
            self.metrics.control.follows(self._last_snapshot.version)
        except ControlUnavailable as away:
            self.metrics.control.away()
            if self._last_snapshot is None:
                raise
            _log.warning("control data is not to be had; the last is used", reason=str(away))
        return self._last_snapshot

    @property
    def lateness(self) -> Lateness:
        return Lateness(self.settings.max_ahead_s * 1_000_000, self.settings.max_behind_s * 1_000_000)


def topics_of(settings: Settings) -> list[TopicSpec]:
    """All topics as these settings want them."""
    declare = declared if settings.kafka_bootstrap else embedded
    return declare(partitions=settings.partitions, retention_us=settings.log_retention_days * DAY_US)


def open_kafka(settings: Settings, group: str | None) -> KafkaLog:
    """The log on Kafka, topics or not."""
    # Here, since Kafka's client is loaded only where there is an address.
    from meterhouse.ingest.kafka_client import KafkaSettings
    from meterhouse.ingest.kafka_log import KafkaLog

    assert settings.kafka_bootstrap is not None
    return KafkaLog(
        settings.kafka_bootstrap,
        group=group,
        settings=KafkaSettings(
            session_timeout_s=settings.kafka_session_timeout_s,
            replication=settings.replication,
            instance=settings.kafka_instance,
            options=settings.client_options(),
        ),
    )
