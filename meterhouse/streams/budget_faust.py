"""The budget worker on Kafka: a group of Faust workers. One is the embedded worker's twin (`budget_worker`).

Faust gives what a group needs: membership, partitions that move when a worker dies, streams of records. It keeps no
state of ours. Its committed offsets may stand still after a rebalance while work goes on, and then thousands of records
come again; a book is therefore opened from the compacted topic itself, to its end, and whatever Faust brings twice
says nothing new. (A table of Faust's would be a second copy of that topic, to be kept in step.)

Faust's loop only takes records in; the desk, whose appends wait for the broker, works in a thread beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import tempfile
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import faust
import structlog
from faust.types.auth import CredentialsT

from meterhouse.ingest.log import BUDGET_TOTALS, Records
from meterhouse.streams.budget_desk import PASSING, BudgetDesk, BudgetWorkerStopped, Patience
from meterhouse.streams.faust_consumer import QuickTransport

INBOX_RECORDS: Final = 20_000
"""Taken in and not yet judged, some MB; beyond it Faust stops reading, and lag shows it."""
TURN_S: Final = 0.2
"""The longest between two turns: new control data is seen within that when no totals come."""
STOP_S: Final = 15.0
"""For Faust to leave its group; the group waits no longer than the session for one who did not."""

_Taken = tuple[int, int, bytes | None, bytes | None]
"""Partition, offset, key, value."""

_log = structlog.get_logger("meterhouse.budget_worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class FaustSettings:
    """How a worker reaches its cluster and its group."""

    bootstrap: str
    group: str
    session_timeout_s: float = 6.0  # a worker that is silent for so long loses its partitions to the others
    instance: str | None = None
    options: Mapping[str, str] = field(default_factory=dict, repr=False)  # as Kafka's C client takes them


class FaustBudgetWorker:
    """One worker of the group. One thread runs it."""

    def __init__(self, desk: BudgetDesk, settings: FaustSettings) -> None:
        self._desk = desk
        self._settings = settings
        self._credentials = credentials_of(settings.options)
        self._patience = Patience(desk.watch)
        # One thread, so that the desk is used by one at a time.
        self._at_desk = ThreadPoolExecutor(1, thread_name_prefix="desk")

    def run(self, stop: threading.Event) -> None:
        asyncio.run(self._run(stop, until_idle=False))

    def run_until_idle(self, stop: threading.Event) -> None:
        asyncio.run(self._run(stop, until_idle=True))

    def idle(self) -> bool:
        """Makes a turn, and says whether all that the log holds of our partitions is then judged and said. May be asked
        from any thread while the worker runs."""

        def look() -> bool:
            self._desk.turn()
            return self._desk.idle()

        return self._at_desk.submit(look).result()

    def close(self) -> None:
        self._at_desk.shutdown()

    # -- Faust's side ------------------------------------------------------------------------------------------------

    async def _run(self, stop: threading.Event, *, until_idle: bool) -> None:
        for name in ("faust", "aiokafka", "mode"):
            logging.getLogger(name).setLevel(logging.ERROR)  # each rebalance is a page of warnings
        self._inbox: list[_Taken] = []
        self._came = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._assigned: frozenset[int] | None = None  # as the group says; None: nothing new
        # Faust wants a folder; nothing of ours is kept there.
        with tempfile.TemporaryDirectory(prefix="meterhouse-faust-") as folder:
            app = self._app(folder)
            try:
                await app.start()
                await self._work(app, stop, until_idle=until_idle)
            finally:
                self._room.set()
                await asyncio.wait_for(app.stop(), STOP_S)

    def _app(self, folder: str) -> faust.App:
        settings = self._settings
        app = faust.App(
            settings.group,
            broker=f"kafka://{settings.bootstrap}",
            broker_credentials=self._credentials,
            datadir=folder,
            topic_disable_leader=True,
            web_enabled=False,
            processing_guarantee="at_least_once",
            stream_wait_empty=False,
            broker_session_timeout=settings.session_timeout_s,
            broker_heartbeat_interval=settings.session_timeout_s / 5,
            broker_commit_interval=5.0,  # how far Faust has come is of no consequence to us
            consumer_auto_offset_reset="earliest",
            consumer_group_instance_id=settings.instance,
            producer_acks=-1,
        )
        app.transport = QuickTransport(app.conf.broker_consumer, app)
        topic = app.topic(
            BUDGET_TOTALS, key_serializer="raw", value_serializer="raw", key_type=bytes, value_type=bytes,
            allow_empty=True, internal=False,
        )  # fmt: skip
        app.agent(topic, name="totals")(self._take)
        app.on_partitions_assigned.connect(self._given)
        return app

    async def _take(self, stream: faust.StreamT[bytes]) -> None:
        async for event in stream.events():
            message = event.message
            self._inbox.append((message.partition, message.offset, message.key, message.value))
            self._came.set()
            if len(self._inbox) >= INBOX_RECORDS:
                self._room.clear()
                await self._room.wait()

    async def _given(self, *told: Any, signal: Any, **_: Any) -> None:
        _app, assigned = told
        self._assigned = frozenset(tp.partition for tp in assigned if tp.topic == BUDGET_TOTALS)
        self._came.set()

    # -- the desk's side -----------------------------------------------------------------------------------------------

    async def _work(self, app: faust.App, stop: threading.Event, *, until_idle: bool) -> None:
        loop = asyncio.get_running_loop()
        while not stop.is_set():
            if app.crashed:
                raise BudgetWorkerStopped(f"Faust gave up ({app.crash_reason!r}). Nothing is lost: start it again")
            await self._something_came()
            taken, self._inbox = self._inbox, []
            assigned, self._assigned = self._assigned, None
            self._room.set()
            try:
                idle = await loop.run_in_executor(self._at_desk, self._turn, assigned, taken, until_idle)
            except PASSING as trouble:
                if self._assigned is None:
                    self._assigned = assigned  # to be tried again, unless there is a newer one
                await asyncio.sleep(self._patience.delay_s(trouble))
            else:
                self._patience.passed()
                if idle:
                    return

    async def _something_came(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._came.wait(), TURN_S)
        self._came.clear()

    def _turn(self, assigned: frozenset[int] | None, taken: list[_Taken], until_idle: bool) -> bool:
        for records in _runs(taken):
            self._desk.take(records)
        if assigned is not None:
            _log.info("partitions assigned", partitions=sorted(assigned))
            self._desk.assign(assigned)
        self._desk.turn(len(taken))
        return until_idle and self._desk.idle()


def _runs(taken: Iterable[_Taken]) -> list[Records]:
    """By partition, in the order they came. Faust may have brought some before: their offsets then fall back."""
    columns: dict[int, tuple[list[int], list[bytes | None], list[bytes | None]]] = {}
    for partition, offset, key, value in taken:
        offsets, keys, values = columns.setdefault(partition, ([], [], []))
        offsets.append(offset)
        keys.append(key)
        values.append(value)
    return [
        Records(BUDGET_TOTALS, p, offsets, [0] * len(offsets), keys, values, [()] * len(offsets))
        for p, (offsets, keys, values) in columns.items()
    ]


_KNOWN: Final = frozenset(
    {
        "security.protocol", "sasl.mechanism", "sasl.mechanisms", "sasl.username", "sasl.password", "ssl.ca.location",
        "ssl.certificate.location", "ssl.key.location", "ssl.key.password",
    }
)  # fmt: skip


def credentials_of(options: Mapping[str, str]) -> CredentialsT | None:
    """The options of Kafka's C client as Faust wants them. Raises BudgetWorkerStopped for what has no counterpart and
    changes who is reached, or as whom: names only, since values may be secrets."""
    safety = {name: value for name, value in options.items() if name.startswith(("security.", "sasl.", "ssl."))}
    if unknown := sorted(safety.keys() - _KNOWN):
        raise BudgetWorkerStopped(
            f"METERHOUSE_KAFKA_OPTIONS: the budget worker does not know {', '.join(unknown)}; it takes"
            f" {', '.join(sorted(_KNOWN))}"
        )
    protocol = safety.get("security.protocol", "plaintext").lower()
    context = _ssl_context(safety) if protocol in ("ssl", "sasl_ssl") else None
    if protocol.startswith("sasl"):
        return faust.SASLCredentials(
            username=safety.get("sasl.username"),
            password=safety.get("sasl.password"),
            mechanism=safety.get("sasl.mechanism") or safety.get("sasl.mechanisms") or "PLAIN",
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context is not None else None


def _ssl_context(safety: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=safety.get("ssl.ca.location"))
    if certificate := safety.get("ssl.certificate.location"):
        context.load_cert_chain(certificate, safety.get("ssl.key.location"), safety.get("ssl.key.password"))
    return context
