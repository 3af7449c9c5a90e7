"""The consumer on Kafka: a member of a group of consumers, or in no group and owner of all partitions.

The group's callbacks come from within the client library, which would lose the records at hand if one raised. So what
they raise is carried past it, and partitions that are added are only noted: `on_assign` is called between two reads.
Revoked ones are dealt with in the callback itself, since the next owner waits for it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Final, Self

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from meterhouse.ingest.kafka_client import LASTING, KafkaSettings, Trouble, error_of, log_error, wrong_options
from meterhouse.ingest.kafka_columns import Taken
from meterhouse.ingest.log import LogError, LogUnavailable, OnAssign, OnRevoke, Records

POLL_BYTES: Final = 32 * 1024**2
"""Of values in one poll: 75,000 events, or as many as an Arrow lane takes at once. A poll may exceed it by what the
client holds ready (QUEUE_KB)."""
QUEUE_KB: Final = 32 * 1024
"""Of records that the client reads ahead, for all partitions: a tenth of a second at full speed; more is no faster."""
CHUNK_RECORDS: Final = 200
"""Taken from the client at a time: of 1,000 each costs a fifth more, of 20,000 nearly twice as much: they fall out of
the processor's cache."""
WAIT_S: Final = 0.1
"""Of one wait for the first record: new partitions and signals are noticed within that."""
GROWTH_S: Final = 5.0
"""How often a consumer without a group looks for new partitions."""

_GONE: Final = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError._LOG_TRUNCATION, KafkaError.OFFSET_OUT_OF_RANGE})

_log = structlog.get_logger("meterhouse.kafka")


def consumer_config(settings: KafkaSettings, group: str | None) -> dict[str, Any]:
    session_ms = round(settings.session_timeout_s * 1_000)
    # Who comes back under its name takes its partitions back, and nobody waits for the end of its silence.
    named = {"group.instance.id": settings.instance} if group and settings.instance else {}
    return named | {
        "group.id": group or f"meterhouse-none-{uuid.uuid4()}",  # the library wants one, and here never joins it
        "enable.auto.commit": False,  # positions are the lake's
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",  # nothing is skipped in silence
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": session_ms,
        "heartbeat.interval.ms": max(1, session_ms // 4),
        "max.poll.interval.ms": max(session_ms, round(settings.max_poll_s * 1_000)),
        "allow.auto.create.topics": False,
        "fetch.min.bytes": 1,  # a record is seen as soon as it is there
        "fetch.wait.max.ms": 100,  # a partition that is added or sought waits for the fetch under way
        "fetch.message.max.bytes": 2 * 1024**2,
        "fetch.queue.backoff.ms": 5,  # the default second would leave a full queue empty long before it is filled again
        "queued.min.messages": 100_000,
        "queued.max.messages.kbytes": QUEUE_KB,
    }


def _advice(fatal: KafkaError) -> str:
    if fatal.code() == KafkaError.FENCED_INSTANCE_ID:
        return "another process has the same METERHOUSE_KAFKA_INSTANCE: give each its own"
    return "make a new consumer"


class _Carrier:
    """Carries what a callback raises past the client library."""

    def __init__(self) -> None:
        self.raised: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.raised = self.raised or raised
        return True


class KafkaConsumer:
    """Reads one topic. `count`: how many partitions it has; `bounds`: begin and end of a partition, for messages."""

    def __init__(
        self,
        config: dict[str, Any],
        topic: str,
        trouble: Trouble,
        callbacks: tuple[OnAssign, OnRevoke | None],
        count: Callable[[], int] | None,
        bounds: Callable[[int], tuple[int, int]],
    ) -> None:
        self._topic = topic
        self._trouble = trouble
        self._on_assign, self._on_revoke = callbacks
        self._count = count  # None: the group says which partitions are ours
        self._bounds = bounds
        self._next: dict[int, int] = {}  # of the partitions that are ours
        self._added: set[int] = set()  # ours as soon as `on_assign` has said where to start
        self._held: set[int] = set()  # that the client reads
        self._was_silent = False
        self._seeks: dict[int, int] = {}
        self._stuck: set[int] = set()  # the client has given up on reading these from where they stand
        self._lasting: LogError | None = None
        self._look_at = 0.0
        self._polled_at = time.monotonic()
        self._session_s = config["session.timeout.ms"] / 1_000
        self._closed = False
        self._carrier = _Carrier()
        try:
            self._client = Consumer(config)
            if count is None:
                self._client.subscribe([topic], on_assign=self._given, on_revoke=self._taken, on_lost=self._taken)
        except KafkaException as raised:
            raise wrong_options(raised) from raised

    # --- the port ---

    def poll(self, max_records: int, timeout_s: float) -> list[Records]:
        """As the port says, at most about POLL_BYTES of values.

        Takes what is there and returns; waits only where nothing is. Raises what `on_assign` and `on_revoke` raise,
        and LogError when a record to read next is not there to read, or Kafka refuses for good; a cluster that is away
        is waited for.
        """
        if max_records < 1:
            raise ValueError(f"max_records is {max_records}: ask for at least one")
        if self._closed:
            raise LogError("the consumer is closed: make a new one")
        self._doubt_after_silence()
        deadline = time.monotonic() + timeout_s
        while True:
            self._refuse()
            self._follow_growth()
            self._start_added()
            self._apply_seeks()
            taken = self._take(max_records, max(0.0, min(deadline - time.monotonic(), WAIT_S)))
            self._let_go_after_silence()
            self._put_back_on_error(taken)
            runs = self._runs(taken)
            self._polled_at = time.monotonic()
            if runs or self._polled_at >= deadline:
                return runs

    def seek(self, partition: int, offset: int) -> None:
        if partition not in self._next:
            raise LogError(f"partition {partition} of {self._topic} is not assigned: seek after `on_assign`")
        self._next[partition] = self._seeks[partition] = offset

    def assignment(self) -> frozenset[int]:
        return frozenset(self._next)

    def close(self) -> None:
        """Leaves the group; calls nothing. Closing twice does nothing."""
        if not self._closed:
            self._closed = True
            self._client.close()
            self._next = {}

    # --- reading ---

    def _take(self, max_records: int, wait_s: float) -> Taken:
        taken = Taken()
        messages = self._consume(min(CHUNK_RECORDS, max_records), 0.0)
        if not messages and wait_s > 0 and not self._added:
            messages = self._consume(1, wait_s)
        while messages:
            taken.add(messages)
            if taken.records >= max_records or taken.bytes_ >= POLL_BYTES or self._carrier.raised is not None:
                break
            messages = self._consume(min(CHUNK_RECORDS, max_records - taken.records), 0.0)
        return taken

    def _consume(self, count: int, wait_s: float) -> Sequence[Message]:
        """Up to `count` records; errors that come between them are noted."""
        try:
            messages: list[Message] = self._client.consume(count, wait_s)
        except KafkaException as raised:
            self._note(error_of(raised), None)
            return []
        if not any(map(Message.error, messages)):
            return messages
        records = []
        for message in messages:
            error = message.error()
            if error is None:
                records.append(message)
            else:
                self._note(error, message.partition())
        return records

    def _runs(self, taken: Taken) -> list[Records]:
        """What is ours: neither of a partition that was revoked meanwhile, nor from before a seek."""
        runs = []
        for partition, columns in sorted(taken.columns.items()):
            if partition in self._next and partition not in self._seeks:
                run = columns.since(self._next[partition]).records(self._topic, partition)
                if run:
                    self._next[partition] = run.next_offset
                    runs.append(run)
        return runs

    def _put_back_on_error(self, taken: Taken) -> None:
        """Raises what a callback raised; what was taken is then read again."""
        raised, self._carrier.raised = self._carrier.raised, None
        if raised is None:
            return
        for partition in taken.columns:
            if partition in self._next:
                self._seeks.setdefault(partition, self._next[partition])
        raise raised

    def _doubt_after_silence(self) -> None:
        """After a pause in which the group may have given our partitions to others, what was read ahead is dropped and
        asked for again: the group's word, which stands behind it in the client's queue, then comes first."""
        if self._count is None and time.monotonic() - self._polled_at > self._session_s:
            for partition, offset in self._next.items():
                self._seeks.setdefault(partition, offset)

    def _let_go_after_silence(self) -> None:
        """We did not poll for so long that the group went on without us. The client tells of some of the partitions
        only: to others that come back to us it would hold on, although somebody else has read them meanwhile."""
        if not self._was_silent:
            return
        self._was_silent = False
        ours = frozenset(self._next)
        self._added |= ours
        with self._carrier:
            self._tell_revoked(ours)

    # --- trouble ---

    def _note(self, error: KafkaError, partition: int | None) -> None:
        code = error.code()
        if code in _GONE and partition in self._next:
            self._stuck.add(partition)  # `_refuse` asks what is there
        elif code == KafkaError._MAX_POLL_EXCEEDED:
            self._was_silent = True
            self._trouble.hear(error)
        elif error.fatal() or code in LASTING:
            self._lasting = log_error(error, f"read {self._topic}")
        else:
            self._trouble.hear(error)

    def _refuse(self) -> None:
        """Raises what keeps this consumer from reading."""
        if self._trouble.fatal is not None:
            raise LogError(f"read {self._topic}: {self._trouble.fatal.str()}; {_advice(self._trouble.fatal)}")
        if self._lasting is not None:
            raise self._lasting
        for partition in sorted(self._stuck - self._seeks.keys()):
            self._judge(partition)

    def _judge(self, partition: int) -> None:
        """Raises LogError when the next record of a partition is not there to read; else it is asked for again."""
        wanted = self._next[partition]
        try:
            begin, end = self._bounds(partition)
        except LogUnavailable:
            return  # at the next poll
        place = f"{self._topic} partition {partition}"
        if wanted < begin:
            raise LogError(
                f"{place}: records {wanted} to {begin - 1} were removed by retention before they were read here."
                f" Restore the log from a backup or, if they may be given up, read from {begin}"
            )
        if wanted > end:
            raise LogError(
                f"{place}: offset {wanted} is wanted, but the log ends at {end}. It is not the log that was read"
                f" before, or it lost records: name the right cluster or, if this one is right, read from {end}"
            )
        self._seeks[partition] = wanted  # a broker that lagged behind its leader said so

    # --- partitions ---

    def _follow_growth(self) -> None:
        """Without a group: all partitions are ours, new ones too."""
        if self._count is None or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + GROWTH_S
        try:
            count = self._count()
        except LogUnavailable as trouble:
            _log.warning("partitions are not known", topic=self._topic, reason=str(trouble))
            return
        self._added |= set(range(count)) - self._next.keys()

    def _start_added(self) -> None:
        if not self._added:
            return
        added = frozenset(self._added)
        starts = self._on_assign(added)
        if missing := added - starts.keys():
            raise LogError(f"on_assign gave no offset for partition {min(missing)}: give one for each")
        if fresh := sorted(added - self._held):
            self._client.incremental_assign([TopicPartition(self._topic, p, starts[p]) for p in fresh])
        self._seeks.update((p, starts[p]) for p in added & self._held)
        self._held |= added
        self._next.update((p, starts[p]) for p in added)
        self._added -= added

    def _apply_seeks(self) -> None:
        for partition, offset in sorted(self._seeks.items()):
            place = TopicPartition(self._topic, partition, offset)
            try:
                if partition in self._stuck:
                    self._client.incremental_unassign([place])
                    self._client.incremental_assign([place])
                else:
                    self._client.seek(place)
            except KafkaException as raised:
                if error_of(raised).code() != KafkaError._STATE:
                    raise log_error(error_of(raised), f"seek in {self._topic}") from raised
                return  # it is about to start: at the next read
            self._seeks.pop(partition)
            self._stuck.discard(partition)

    def _given(self, client: Consumer, partitions: list[TopicPartition]) -> None:
        self._added |= {each.partition for each in partitions} - self._next.keys()
        client.incremental_assign([])  # the answer that the library waits for; the partitions come by `_start_added`

    def _taken(self, client: Consumer, partitions: list[TopicPartition]) -> None:
        gone = frozenset(each.partition for each in partitions)
        self._added -= gone
        with self._carrier:
            self._tell_revoked(gone & self._next.keys())
        client.incremental_unassign([TopicPartition(self._topic, p) for p in sorted(gone & self._held)])
        self._held -= gone

    def _tell_revoked(self, gone: frozenset[int]) -> None:
        try:
            if gone and self._on_revoke is not None and not self._closed:
                self._on_revoke(gone)
        finally:
            self._stuck -= gone
            for held in (self._next, self._seeks):
                for partition in gone & held.keys():
                    del held[partition]
