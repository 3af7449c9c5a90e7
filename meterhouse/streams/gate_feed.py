"""What keeps a gate up to date: a thread that reads `budget.states` from its beginning and goes on with what comes.

`LogFeed` reads the log. `gate_feed_http.HttpFeed` reads the same from Meterhouse's HTTP API, for gateways that do not
reach the log.
"""

from __future__ import annotations

import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

import structlog

from meterhouse.ingest.log import BUDGET_STATES, Consumer, EventLog, LogError, LogUnavailable, reached
from meterhouse.streams.gate import Taker

POLL_RECORDS: Final = 5_000  # some MB; a stop is heard within the time they take
POLL_TIMEOUT_S: Final = 0.2  # how soon a stop is heard when nothing comes; what comes is taken at once
FIRST_RETRY_S: Final = 0.05
LONGEST_RETRY_S: Final = 5.0  # trouble is over for a gate so soon after it is over; tries of many gates are spread
CLOSE_S: Final = 10.0  # a log that does not answer is not waited for longer: the thread ends with the process

_log = structlog.get_logger("meterhouse.gate")


class Interrupted(Exception):
    """Passing trouble: the feed goes on from where it stands, or starts over, after a pause."""


class Feed(ABC):
    """The thread. It goes on through trouble, however long that lasts: meanwhile the gate follows its budgets' policies
    for stale states."""

    def __init__(self, gate: Taker) -> None:
        self._gate = gate
        self._stop = threading.Event()
        self._caught_up = threading.Event()
        self._failures = 0  # one after another
        self._thread = threading.Thread(target=self._run, name="meterhouse-gate-feed", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wait_caught_up(self, timeout_s: float) -> bool:
        """Waits until the gate has all that was there at the start; False: not within the time."""
        return self._caught_up.wait(timeout_s)

    def close(self) -> None:
        """Stops; the gate gets nothing after that. Closing twice does nothing."""
        self._stop.set()
        self._interrupt()
        if self._thread.is_alive():
            self._thread.join(CLOSE_S)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _turn(self) -> None:
        """Gives what there is to the gate, waiting a moment for it. Raises Interrupted."""

    @abstractmethod
    def _interrupt(self) -> None:
        """Ends the waiting of a turn, from another thread."""

    @abstractmethod
    def _end(self) -> None:
        """Gives up what the thread holds."""

    def _all_taken(self) -> None:
        self._gate.caught_up()
        self._caught_up.set()
        self._failures = 0

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    self._turn()
                    self._failures = 0
                except Interrupted as trouble:
                    if self._stop.is_set():
                        break
                    self._failures += 1
                    longest_s = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(self._failures, 30))
                    delay_s = longest_s * random.uniform(0.5, 1.0)
                    _log.warning("gate feed will try again", reason=str(trouble), delay_s=round(delay_s, 2))
                    self._stop.wait(delay_s)
        finally:
            self._end()


class LogFeed(Feed):
    """Reads from a log. On Kafka it must be a log without a group: each gate reads all partitions."""

    def __init__(self, log: EventLog, gate: Taker, *, topic: str = BUDGET_STATES) -> None:
        super().__init__(gate)
        self._log = log
        self._topic = topic
        self._consumer: Consumer | None = None
        self._target: Mapping[int, int] | None = None  # None: it has been reached
        self._read_to: dict[int, int] = {}

    def _turn(self) -> None:
        try:
            if self._consumer is None:
                self._begin()
            assert self._consumer is not None
            for records in self._consumer.poll(POLL_RECORDS, POLL_TIMEOUT_S):
                for key, value in zip(records.keys, records.values, strict=True):
                    self._gate.take(records.partition, key or b"", value)
                self._read_to[records.partition] = records.next_offset
            self._look_whether_caught_up()
        except LogUnavailable as trouble:
            raise Interrupted(str(trouble)) from trouble
        except LogError as trouble:  # what is next cannot be read: all there is says as much
            self._end()
            raise Interrupted(f"{trouble}. All of {self._topic} is read again") from trouble

    def _begin(self) -> None:
        self._gate.starts_over()
        self._read_to = {}
        self._target = self._log.end_offsets(self._topic)
        self._consumer = self._log.consumer(self._topic, on_assign=self._assigned)

    def _assigned(self, partitions: frozenset[int]) -> Mapping[int, int]:
        begins = self._log.begin_offsets(self._topic)
        starts = {partition: begins[partition] for partition in partitions}
        self._read_to |= starts
        return starts

    def _look_whether_caught_up(self) -> None:
        if self._target is not None and reached(self._log, self._topic, self._read_to, self._target):
            self._target = None
            self._all_taken()

    def _interrupt(self) -> None:
        pass  # a poll is short

    def _end(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None
