"""The budget worker's desk: the books of the partitions that are its own, read from the log and spoken to it.

Both runtimes are shells around it. The compacted topic of totals is the whole state: a partition's book is opened by
reading what the topic holds, so there is nothing to keep in step and nothing to recover. Saying something twice changes
nothing: states are keyed, alerts have deterministic ids. What another worker says of a partition after this one (a
process that was paused, and does not know that it was replaced) is heard, and put right.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from meterhouse.ingest.event import Lateness
from meterhouse.ingest.log import (
    BUDGET_ALERTS,
    BUDGET_STATES,
    BUDGET_TOTALS,
    READ_RECORDS,
    USAGE_EVENTS,
    EventLog,
    LogUnavailable,
    Message,
    Records,
    partition_of,
    reached,
)
from meterhouse.streams.alerts import AlertOutbox, OutboxUnavailable
from meterhouse.streams.budget_book import BudgetBook, Due
from meterhouse.streams.budget_totals import read_total
from meterhouse.streams.control import Snapshot
from meterhouse.streams.gate_wire import fresh_key, state_key, terms_key
from meterhouse.streams.watch import BudgetWatch, TroubleWatch, Unwatched

APPEND_RECORDS: Final = 5_000
"""2 MB of states in one append: others wait for it."""
SWEEP_EVERY_US: Final = 3_600 * 1_000_000
"""Windows close by the day; looking at each of them costs milliseconds."""
LISTEN_EVERY_US: Final = 1_000_000
"""How long another worker's last word may stand. It costs asking the log for its ends, a millisecond; only where
somebody else spoke is anything read."""
MAX_FAILURES: Final = 20
"""One after another, with backoff up to 5 s: more than a minute of trouble, then stop loudly."""

PASSING: Final = (LogUnavailable, OutboxUnavailable)
_log = structlog.get_logger("meterhouse.budget_worker")


class BudgetWorkerStopped(Exception):
    """The worker gave up; the message says why and what to do."""


class Patience:
    """How long passing trouble is borne."""

    def __init__(self, watch: TroubleWatch | None = None) -> None:
        self._watch = watch or Unwatched()
        self._failures = 0

    def delay_s(self, trouble: Exception) -> float:
        """How long to wait before the next try. Raises BudgetWorkerStopped when trouble does not pass."""
        self._failures += 1
        self._watch.tries_again("control" if isinstance(trouble, OutboxUnavailable) else "log")
        if self._failures >= MAX_FAILURES:
            raise BudgetWorkerStopped(
                f"{self._failures} failures one after another, the last: {trouble}. Nothing is lost: totals stay in"
                " the log. See to the log and the control database, then start the worker again."
            ) from trouble
        delay_s = min(5.0, 0.05 * 2.0**self._failures) * random.uniform(0.5, 1.0)
        _log.warning("budget worker will try again", reason=str(trouble), delay_s=round(delay_s, 2))
        return delay_s

    def passed(self) -> None:
        self._failures = 0


@dataclass(slots=True)
class _Open:
    """A partition that is ours."""

    book: BudgetBook
    read_to: int = 0  # of the totals: all before is in the book
    said_to: int = 0  # what follows from all before is said
    heard_to: int = 0  # of the states
    swept_us: int | None = None

    def hear_own(self, offset: int) -> None:
        """What the book has said stands at `offset`: where nobody spoke in between, it need not be read again."""
        if offset == self.heard_to:
            self.heard_to += 1


class BudgetDesk:
    """Used by one thread at a time; `idle` too.

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
        self._snapshots = snapshots
        self._outbox = outbox
        self._clock = clock
        self._lateness = lateness
        self.watch = watch or Unwatched()
        self._partitions = log.partitions(BUDGET_TOTALS)
        self._open: dict[int, _Open] = {}
        self._was_assigned = False
        self._heard_us: int | None = None

    # -- partitions come and go --------------------------------------------------------------------------------------

    def assign(self, partitions: Iterable[int]) -> Mapping[int, int]:
        """These are ours, and no others. Returns, of each, the offset of `budget.totals` that is read next.

        One that was ours before is read on from where its book stands, since somebody else may have had it meanwhile.
        Raises LogUnavailable: ask again.
        """
        wanted = frozenset(partitions)
        self._open = {partition: kept for partition, kept in self._open.items() if partition in wanted}
        for partition in sorted(wanted):
            opened = self._open.get(partition) or self._opened(partition)
            self._hear_states(partition, opened, self._log.end_offsets(BUDGET_STATES)[partition])
            for records in self._all(BUDGET_TOTALS, partition, opened.read_to):
                self._take(opened, records)
            self._open[partition] = opened
        self._was_assigned = True
        return {partition: opened.read_to for partition, opened in self._open.items()}

    def _opened(self, partition: int) -> _Open:
        book = BudgetBook(self._lateness, partition, lambda budget: self._place(budget) == partition)
        for records in self._all(BUDGET_ALERTS, partition):
            _each(records, lambda _, value: book.restore_alert(value or b""))
        begins = self._log.begin_offsets(BUDGET_TOTALS)[partition], self._log.begin_offsets(BUDGET_STATES)[partition]
        return _Open(book, read_to=begins[0], heard_to=begins[1])

    def _place(self, budget_id: str) -> int:
        return partition_of(budget_id.encode(), self._partitions)

    def _all(self, topic: str, partition: int, offset: int | None = None) -> Iterator[Records]:
        """What a partition holds now, from `offset` or the beginning on."""
        at = self._log.begin_offsets(topic)[partition] if offset is None else offset
        end = self._log.end_offsets(topic)[partition]
        # Never asked for more than there is, Kafka answers at once; offsets that compaction left out end it as well.
        while at < end and (records := self._log.read(topic, partition, at, min(READ_RECORDS, end - at))):
            yield records
            at = records.next_offset

    # -- what comes in -----------------------------------------------------------------------------------------------

    def take(self, records: Records) -> None:
        """Takes in records of `budget.totals`; those of a partition that is not ours are left."""
        opened = self._open.get(records.partition)
        if opened is not None:
            self._take(opened, records)

    def _take(self, opened: _Open, records: Records) -> None:
        def hear(key: bytes, value: bytes | None) -> None:
            if value is None:
                opened.book.forget(key)
            else:
                opened.book.hear(read_total(key, value))

        _each(records, hear)
        opened.read_to = max(opened.read_to, records.next_offset)

    @property
    def pending(self) -> bool:
        """Is there something to be said that was not?"""
        return any(opened.book.pending for opened in self._open.values())

    # -- saying ------------------------------------------------------------------------------------------------------

    def turn(self, totals: int = 0) -> None:
        """Says all that follows from what is known; `totals`: how many were taken in since the last turn.

        Raises LogUnavailable, OutboxUnavailable: nothing is lost, the next turn says what this one could not.
        """
        snapshot, now_us = self._snapshots(), self._clock()
        self._listen(now_us)
        for partition, opened in self._open.items():
            opened.book.follow(snapshot)
            self._sweep(partition, opened, now_us)
        if any(opened.book.waits_for_marks for opened in self._open.values()):
            for partition, end in self._log.end_offsets(BUDGET_TOTALS).items():
                if partition in self._open:
                    self._open[partition].book.reached(self._open[partition].read_to, end)
        self._say_overtaken()
        meters = self._log.partitions(USAGE_EVENTS)
        dues = {partition: opened.book.due(now_us, meters) for partition, opened in self._open.items()}
        alerts = self._say_alerts(dues)
        states = [message for partition, due in dues.items() for message in _states(partition, due)]
        said = self._append(BUDGET_STATES, states)
        for partition, due in dues.items():
            opened = self._open[partition]
            opened.book.said(due, now_us)
            opened.said_to = opened.read_to
        for partition, offset in said:
            self._open[partition].hear_own(offset)
        self.watch.judged(totals, sum(len(due.states) for due in dues.values()), alerts)

    def idle(self) -> bool:
        """Is all that the log holds of our partitions taken in, and all that follows from it said?"""
        if not self._was_assigned or self.pending:
            return False
        if any(opened.book.version != self._snapshots().version for opened in self._open.values()):
            return False
        ends = self._log.end_offsets(BUDGET_TOTALS)
        said_to = {partition: opened.said_to for partition, opened in self._open.items()}
        return reached(self._log, BUDGET_TOTALS, said_to, {partition: ends[partition] for partition in said_to})

    def _listen(self, now_us: int) -> None:
        """Hears what was said of our partitions, by whomever."""
        if self._heard_us is not None and now_us - self._heard_us < LISTEN_EVERY_US:
            return
        ends = self._log.end_offsets(BUDGET_STATES)
        for partition, opened in self._open.items():
            self._hear_states(partition, opened, ends[partition])
        self._heard_us = now_us

    def _hear_states(self, partition: int, opened: _Open, end: int) -> None:
        last: dict[bytes, bytes | None] = {}
        if opened.heard_to < end:
            for records in self._all(BUDGET_STATES, partition, opened.heard_to):
                last.update((key or b"", value) for key, value in zip(records.keys, records.values, strict=True))
        for key, value in last.items():
            try:
                opened.book.restore_state(key, value)
            except ValueError as wrong:
                _log.error("record skipped", reason=str(wrong), topic=BUDGET_STATES, partition=partition)
        opened.heard_to = end

    def _sweep(self, partition: int, opened: _Open, now_us: int) -> None:
        if opened.swept_us is None or now_us - opened.swept_us >= SWEEP_EVERY_US:
            closed = opened.book.closed(now_us)
            self._append(BUDGET_TOTALS, [Message(total.key(), None, partition=partition) for total in closed])
            opened.swept_us = now_us

    def _say_overtaken(self) -> None:
        again = {partition: opened.book.overtaken() for partition, opened in self._open.items()}
        messages = [total.message(self._partitions) for totals in again.values() for total in totals]
        self._append(BUDGET_TOTALS, messages)
        for partition, totals in again.items():
            self._open[partition].book.restored(totals)

    def _say_alerts(self, dues: Mapping[int, Due]) -> int:
        alerts = [alert for due in dues.values() for alert in due.alerts]
        if alerts:
            # The outbox first: the topic is what a restart takes as raised.
            self._outbox.add(alerts)
            messages = [
                Message(alert.id.encode(), alert.to_json(), partition=partition)
                for partition, due in dues.items()
                for alert in due.alerts
            ]
            self._append(BUDGET_ALERTS, messages)
            for partition, due in dues.items():
                self._open[partition].book.raised(due)
        return len(alerts)

    def _append(self, topic: str, messages: Sequence[Message]) -> list[tuple[int, int]]:
        """The place of each, when all are in the log."""
        places: list[tuple[int, int]] = []
        for start in range(0, len(messages), APPEND_RECORDS):
            places += self._log.append(topic, messages[start : start + APPEND_RECORDS])
        return places


def _states(partition: int, due: Due) -> Iterator[Message]:
    """Records of the topic of states; how fresh they are comes last."""
    for budget_id, terms in due.terms.items():
        yield Message(terms_key(budget_id), terms, partition=partition)
    for (budget_id, window), state in due.states.items():
        yield Message(state_key(budget_id, window), state, partition=partition)
    if due.fresh is not None:
        yield Message(fresh_key(partition), msgspec.json.encode(due.fresh), partition=partition)


def _each(records: Records, take: Callable[[bytes, bytes | None], None]) -> None:
    """Gives each record to `take`; one that it cannot read is skipped, aloud: reading it again would not help, and the
    next record of its key says all that this one did."""
    for offset, key, value in zip(records.offsets, records.keys, records.values, strict=True):
        try:
            take(key or b"", value)
        except ValueError as wrong:
            where = {"topic": records.topic, "partition": records.partition, "offset": offset}
            _log.error("record skipped", reason=str(wrong), **where)
