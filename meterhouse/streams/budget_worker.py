"""The budget worker, embedded: budget totals in; states and alerts out.

It reads `budget.totals` from the beginning whenever it starts: compacted, the topic is the whole state, so there is
nothing to keep in step and nothing to recover. Saying something twice changes nothing: states are keyed, alerts have
deterministic ids.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog

from meterhouse.ingest import topics
from meterhouse.ingest.event import Lateness
from meterhouse.ingest.log import (
    BUDGET_ALERTS,
    BUDGET_STATES,
    BUDGET_TOTALS,
    EventLog,
    LogUnavailable,
    Message,
    Records,
    partition_of,
    whole_topic,
)
from meterhouse.streams.alerts import AlertOutbox, OutboxUnavailable
from meterhouse.streams.budget_book import BudgetBook, state_record_key
from meterhouse.streams.budget_totals import LayoutMark, read_total
from meterhouse.streams.control import Snapshot
from meterhouse.streams.watch import BudgetWatch, Unwatched

POLL_RECORDS: Final = 10_000  # 2 MB of totals, 0.1 s of work: a stop is heard within that
POLL_TIMEOUT_S: Final = 0.2  # how soon new control data is seen when no totals come
APPEND_RECORDS: Final = 5_000  # 2 MB of states in one append: others wait for it
SWEEP_EVERY_US: Final = 3_600 * 1_000_000  # windows close by the day; looking at each of them costs milliseconds
MAX_FAILURES: Final = 20  # one after another, with backoff up to 5 s: more than a minute of trouble, then stop loudly

budget_topics: Final = topics.budget_topics  # declared with all others

_log = structlog.get_logger("meterhouse.budget_worker")


class BudgetWorkerStopped(Exception):
    """The worker gave up; the message says why and what to do."""


class EmbeddedBudgetWorker:
    """One worker for all partitions of `budget.totals`. One thread runs it; `idle` may be asked from any.

    `snapshots` returns the control data in force and is called at every turn, so it must be cheap.
    """

    def __init__(
        self,
        log: EventLog,
        snapshots: Callable[[], Snapshot],
        outbox: AlertOutbox,
        clock: Callable[[], int],
        lateness: Lateness | None = None,
        *,
        watch: BudgetWatch | None = None,
    ) -> None:
        self._log = log
        self._watch = watch or Unwatched()
        self._snapshots = snapshots
        self._outbox = outbox
        self._clock = clock
        self._book = BudgetBook(lateness)
        self._restore()
        self._swept_us: int | None = None
        self._target: Mapping[int, int] | None = log.end_offsets(BUDGET_TOTALS)  # None: it has been reached
        self._read_to: dict[int, int] = {}
        self._said_to: dict[int, int] = {}
        self._consumer = log.consumer(BUDGET_TOTALS, on_assign=self._assigned)

    def run(self, stop: threading.Event) -> None:
        """Works until `stop` is set. Raises BudgetWorkerStopped when passing trouble does not pass."""
        failures = 0
        while not stop.is_set():
            try:
                self.run_once(POLL_TIMEOUT_S)
            except (LogUnavailable, OutboxUnavailable) as trouble:
                failures += 1
                if failures >= MAX_FAILURES:
                    raise BudgetWorkerStopped(
                        f"{failures} failures one after another, the last: {trouble}. Nothing is lost: totals stay in"
                        " the log. See to the log and the control database, then start the worker again."
                    ) from trouble
                delay_s = min(5.0, 0.05 * 2**failures) * random.uniform(0.5, 1.0)
                _log.warning("budget worker will try again", reason=str(trouble), delay_s=round(delay_s, 2))
                stop.wait(delay_s)
            else:
                failures = 0

    def run_once(self, timeout_s: float) -> int:
        """One turn: takes in what came within `timeout_s`, says what follows; returns how many records it read.

        Raises LogUnavailable, OutboxUnavailable: nothing is lost, the next turn says what this one could not.
        """
        # What an earlier turn could not say does not wait for new totals.
        runs = self._consumer.poll(POLL_RECORDS, 0.0 if self._book.pending else timeout_s)
        for records in runs:
            self._take(records)
        totals = sum(len(records) for records in runs)
        if self._caught_up():
            self._watch.judged(totals, *self._say())
            self._said_to = dict(self._read_to)
        else:
            self._watch.judged(totals, 0, 0)
        return totals

    def idle(self) -> bool:
        """Is all that the topic of totals holds taken in, and all that follows from it said?"""
        return self._target is None and not self._book.pending and self._reached(self._said_to, self._ends())

    def close(self) -> None:
        self._consumer.close()

    # -- reading -------------------------------------------------------------------------------------------------

    def _restore(self) -> None:
        """What the worker before this one has said, so that only what differs is said again."""
        for records in whole_topic(self._log, BUDGET_STATES):
            self._each(records, self._book.restore_state)
        for records in whole_topic(self._log, BUDGET_ALERTS):
            self._each(records, lambda _, value: self._book.restore_alert(value or b""))

    def _assigned(self, partitions: frozenset[int]) -> Mapping[int, int]:
        begins = self._log.begin_offsets(BUDGET_TOTALS)
        self._read_to |= {partition: begins[partition] for partition in partitions}
        return {partition: begins[partition] for partition in partitions}

    def _take(self, records: Records) -> None:
        self._each(records, self._take_total)
        self._read_to[records.partition] = records.next_offset

    def _take_total(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            self._book.forget(key)
        else:
            said = read_total(key, value)
            if isinstance(said, LayoutMark):
                self._book.mark(said)
            else:
                self._book.apply(said)

    def _each(self, records: Records, take: Callable[[bytes, bytes | None], None]) -> None:
        """Gives each record to `take`; one that it cannot read is skipped, aloud: reading it again would not help, and
        the next record of its key says all that this one did."""
        for offset, key, value in zip(records.offsets, records.keys, records.values, strict=True):
            try:
                take(key or b"", value)
            except ValueError as wrong:
                where = {"topic": records.topic, "partition": records.partition, "offset": offset}
                _log.error("record skipped", reason=str(wrong), **where)

    def _caught_up(self) -> bool:
        """Has all that was there at the start been taken in? Before that, sums lack partitions: states would dip."""
        if self._target is not None and self._reached(self._read_to, self._target):
            self._target = None
        return self._target is None

    def _ends(self) -> Mapping[int, int]:
        return self._log.end_offsets(BUDGET_TOTALS)

    def _reached(self, positions: Mapping[int, int], ends: Mapping[int, int]) -> bool:
        """A compacted topic may end in offsets whose records are gone, so an end below is looked at again."""
        return all(
            positions.get(partition, 0) >= end
            or not self._log.read(BUDGET_TOTALS, partition, positions.get(partition, 0), 1)
            for partition, end in ends.items()
        )

    # -- saying --------------------------------------------------------------------------------------------------

    def _say(self) -> tuple[int, int]:
        """Returns how many states it said and alerts it raised."""
        self._book.follow(self._snapshots())
        now_us = self._clock()
        if self._swept_us is None or now_us - self._swept_us >= SWEEP_EVERY_US:
            closed = self._book.closed(now_us)
            self._append(BUDGET_TOTALS, [(total.budget_id, total.key(), None) for total in closed])
            self._swept_us = now_us
        again = self._book.overtaken()
        self._append(BUDGET_TOTALS, [(total.budget_id, total.key(), total.to_json()) for total in again])
        self._book.restored(again)
        due = self._book.due(now_us)
        if due.alerts:
            # The outbox first: the topic is what a restart takes as raised.
            self._outbox.add(due.alerts)
            self._append(BUDGET_ALERTS, [(alert.subject, alert.id.encode(), alert.to_json()) for alert in due.alerts])
            self._book.raised(due)
        self._append(BUDGET_STATES, [(which[0], state_record_key(which), value) for which, value in due.states.items()])
        self._book.said(due)
        return len(due.states), len(due.alerts)

    def _append(self, topic: str, records: Sequence[tuple[str, bytes, bytes | None]]) -> None:
        """Appends (budget, key, value), all of a budget in one partition."""
        if not records:
            return
        partitions = self._log.partitions(topic)
        messages = [
            Message(key=key, value=value, partition=partition_of(budget_id.encode(), partitions))
            for budget_id, key, value in records
        ]
        for start in range(0, len(messages), APPEND_RECORDS):
            self._log.append(topic, messages[start : start + APPEND_RECORDS])
