"""What a gateway imports: `Publisher` for requests under way, `append_events` for whoever can wait.

    publisher = Publisher(log)
    publisher.publish(UsageEvent(id=new_id(), source="/gateways/eu-1", tenant="acme-retail", ...))

A publisher belongs to the process that made it: after a fork, make a new one.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import structlog
import uuid6
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, stop_when_event_set
from tenacity.nap import sleep_using_event
from tenacity.wait import wait_random_exponential

from meterhouse.ingest.encode import BATCH_BYTES, BATCH_EVENTS, Batch, Encoded, batches, to_json
from meterhouse.ingest.event import Event
from meterhouse.ingest.log import USAGE_EVENTS, EventLog, LogError, LogFull, LogUnavailable, Message

LINGER_S: Final = 0.005
"""How long an event waits for company: a tenth of the 50 ms from event to budget state."""
PENDING_BYTES: Final = 64 * 1024**2
"""Of events not yet in the log: two minutes of a thousand requests a second while the log is away."""
APPEND_BYTES: Final = 8 * 1024**2
"""Of one append: the log's other writers wait for it, some 30 ms."""
CLOSE_S: Final = 30.0
"""What a process manager usually leaves between asking a process to end and killing it."""

_PASSING: Final = (
    LogUnavailable,
    LogFull,
)  # a full log is emptied by retention; its gateways keep their events till then

_logger = structlog.get_logger(__name__)


def new_id() -> str:
    """An event id: a UUIDv7. Give it once per request; whoever sends the event again sends it with the same id."""
    return str(uuid6.uuid7())


# --- for whoever can wait --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Appended:
    """What `append_events` put in the log."""

    events: int
    records: int


def append_events(
    log: EventLog,
    events: Iterable[Encoded],
    *,
    topic: str = USAGE_EVENTS,
    max_batch_events: int = BATCH_EVENTS,
    max_batch_bytes: int = BATCH_BYTES,
) -> Appended:
    """Appends events, grouped by tenant into batch records; on return all are durable. Each tenant's events keep
    their order.

    Does not try again: LogUnavailable, LogFull and LogError come to the caller, who then sends all of `events` again
    with the same ids (what is there twice is billed once).
    """
    count = records = 0
    for run in _appends(batches(events, max_events=max_batch_events, max_bytes=max_batch_bytes)):
        log.append(topic, [batch.message() for batch in run])
        count += sum(len(batch.payloads) for batch in run)
        records += len(run)
    return Appended(count, records)


def _appends(whole: Iterable[Batch]) -> Iterable[list[Batch]]:
    """Cuts batches into appends of about APPEND_BYTES."""
    run: list[Batch] = []
    size = 0
    for batch in whole:
        run.append(batch)
        size += batch.payload_bytes
        if size >= APPEND_BYTES:
            yield run
            run, size = [], 0
    if run:
        yield run


# --- for requests under way ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Retries:
    """How long to try again while the log is away or full: the wait before try n is random, up to `first_s` x 2^n and
    `longest_s` (full jitter, so that gateways do not return all at once). After `for_s` the events count as failed."""

    first_s: float = 0.05
    longest_s: float = 5.0
    for_s: float = 600.0


@dataclass(frozen=True, slots=True)
class PublisherCounts:
    """Events since the publisher was made: published = delivered + failed + pending."""

    published: int = 0  # taken into the buffer
    delivered: int = 0  # durable in the log
    failed: int = 0  # given up
    refused: int = 0  # not taken: the buffer was full, or the publisher closed
    batches: int = 0  # records appended
    retries: int = 0
    pending: int = 0
    pending_bytes: int = 0


@dataclass(frozen=True, slots=True)
class PublisherLimits:
    """What bounds a publisher; each default's reason stands at its constant."""

    max_batch_events: int = BATCH_EVENTS
    max_batch_bytes: int = BATCH_BYTES
    linger_s: float = LINGER_S
    max_pending_bytes: int = PENDING_BYTES
    retries: Retries = field(default_factory=Retries)


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of the events of one record; `error` None: they are durable in the log."""

    message: Message
    events: int
    error: LogError | None


class NotDelivered(LogError):
    """Events were given up, or are still pending when time is up; the message says how many and why."""


class Publisher:
    """Takes events without ever making a request wait for the log; a thread appends them.

    `on_delivery` is called in that thread, once per record, in order: keep it short; where `error` is set, the record
    is in its hands. Use as a context manager, or `close` it: an event that is pending when the process ends is lost.
    """

    def __init__(
        self,
        log: EventLog,
        *,
        topic: str = USAGE_EVENTS,
        limits: PublisherLimits | None = None,
        on_delivery: Callable[[Delivery], None] | None = None,
    ) -> None:
        self._log = log
        self._topic = topic
        self._limits = limits or PublisherLimits()
        self._on_delivery = on_delivery
        self._changed = threading.Condition()  # guards all below
        self._pending: deque[Encoded] = deque()
        self._oldest_s = 0.0  # when the oldest pending event came, monotonic
        self._pending_bytes = 0  # of those that are being appended, too
        self._published = self._delivered = self._failed = self._refused = self._batches = self._retried = 0
        self._hurry_to = 0  # events up to this count do not linger
        self._told_failed = 0
        self._last_error: LogError | None = None
        self._closing = self._ended = False
        self._give_up = threading.Event()
        self._retrying = self._make_retrying(self._limits.retries)
        self._thread = threading.Thread(target=self._run, name=f"publisher-{topic}", daemon=True)
        self._thread.start()

    def publish(self, event: Event) -> bool:
        """Takes an event into the buffer; never waits. False: refused, because the buffer is full or the publisher
        closed; it is counted, and sent only if the caller publishes it again (with the same id).

        Raises ValueError for what a publisher may not send (`encode.to_json`).
        """
        payload = to_json(event)
        with self._changed:
            full = self._pending_bytes + len(payload) > self._limits.max_pending_bytes
            if full or self._closing or self._ended:
                self._refused += 1
                return False
            if not self._pending:
                self._oldest_s = time.monotonic()
            self._pending.append(Encoded(event.tenant, payload))
            self._pending_bytes += len(payload)
            self._published += 1
            if len(self._pending) == 1 or self._pending_bytes >= APPEND_BYTES:
                self._changed.notify_all()
            return True

    def flush(self, timeout_s: float = CLOSE_S) -> None:
        """Returns when all that was published before is durable. Raises NotDelivered when `timeout_s` is over first,
        or when events were given up since the last `flush`."""
        with self._changed:
            target = self._hurry_to = self._published
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._settled >= target or self._ended, timeout_s)
            self._tell(target)

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Refuses new events, appends what is pending and ends. Raises NotDelivered as `flush` does; what is pending
        then is given up."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._give_up.set()
            self._thread.join(1.0)  # enough, except for an append that waits for a lock
        with self._changed:
            self._tell(self._published)

    @property
    def counts(self) -> PublisherCounts:
        with self._changed:
            return PublisherCounts(
                published=self._published,
                delivered=self._delivered,
                failed=self._failed,
                refused=self._refused,
                batches=self._batches,
                retries=self._retried,
                pending=self._published - self._settled,
                pending_bytes=self._pending_bytes,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- with the lock held ---

    @property
    def _settled(self) -> int:
        return self._delivered + self._failed

    def _tell(self, target: int) -> None:
        given_up, self._told_failed = self._failed - self._told_failed, self._failed
        pending = target - self._settled
        if given_up:
            raise NotDelivered(
                f"{given_up} events were given up ({self._last_error}): on_delivery was given their records; "
                "once the log takes them again, publish them with the same ids"
            )
        if pending > 0 and self._ended:
            raise NotDelivered(
                f"the publisher's thread has ended with {pending} events pending: its error is on stderr"
            )
        if pending > 0:
            raise NotDelivered(
                f"{pending} events are not in the log yet ({self._last_error}): wait longer, or look at it"
            )

    def _due_s(self) -> float:
        """Until the pending events are to be appended, seconds."""
        if self._closing or self._hurry_to > self._settled or self._pending_bytes >= APPEND_BYTES:
            return 0.0
        return self._oldest_s + self._limits.linger_s - time.monotonic()

    # --- the thread ---

    def _run(self) -> None:
        try:
            while events := self._take():
                self._deliver(list(self._batches_of(events)))
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _take(self) -> list[Encoded]:
        """Waits for events that are due; empty when the publisher is closed and nothing is left."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._closing)
            while self._pending and (wait_s := self._due_s()) > 0:
                self._changed.wait(wait_s)
            events: list[Encoded] = []
            size = 0
            while self._pending and size < APPEND_BYTES:
                events.append(self._pending.popleft())
                size += len(events[-1].payload)
            return events

    def _batches_of(self, events: Iterable[Encoded]) -> Iterable[Batch]:
        limits = self._limits
        return batches(events, max_events=limits.max_batch_events, max_bytes=limits.max_batch_bytes)

    def _deliver(self, run: Sequence[Batch]) -> None:
        """Appends the batches together; where the log refuses one of them for good, each alone."""
        messages = [batch.message() for batch in run]
        error: LogError | None = None
        try:
            if self._give_up.is_set():
                raise LogUnavailable("the publisher was closed while the log was away")
            self._retrying(self._log.append, self._topic, messages)
        except LogError as raised:
            if len(run) > 1 and not isinstance(raised, _PASSING):
                for batch in run:
                    self._deliver([batch])
                return
            error = raised
            _logger.error("events given up", events=sum(len(batch.payloads) for batch in run), error=str(raised))
        self._settle(run, error)
        if self._on_delivery is not None:
            for batch, message in zip(run, messages, strict=True):
                self._on_delivery(Delivery(message, len(batch.payloads), error))

    def _settle(self, run: Sequence[Batch], error: LogError | None) -> None:
        events = sum(len(batch.payloads) for batch in run)
        with self._changed:
            if error is None:
                self._delivered += events
                self._batches += len(run)
            else:
                self._failed += events
                self._last_error = error
            self._pending_bytes -= sum(batch.payload_bytes for batch in run)
            self._changed.notify_all()

    def _make_retrying(self, retries: Retries) -> Retrying:
        return Retrying(
            retry=retry_if_exception_type(_PASSING),
            wait=wait_random_exponential(multiplier=retries.first_s, max=retries.longest_s),
            stop=stop_after_delay(retries.for_s) | stop_when_event_set(self._give_up),
            sleep=sleep_using_event(self._give_up),
            before_sleep=self._note_retry,
            reraise=True,
        )

    def _note_retry(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        with self._changed:
            self._retried += 1
            if isinstance(error, LogError):
                self._last_error = error
        _logger.warning("the log takes no events, trying again", attempt=state.attempt_number, error=str(error))
