"""The budget worker, embedded: budget totals in; states and alerts out. One process works on all partitions.

Its twin for Kafka, a group of workers, is `budget_faust`; what both say is decided at the desk (`budget_desk`).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Final, Protocol

from meterhouse.ingest import topics
from meterhouse.ingest.log import BUDGET_TOTALS, EventLog
from meterhouse.streams.budget_desk import PASSING, BudgetDesk, Patience

POLL_RECORDS: Final = 10_000  # 2 MB of totals, 0.1 s of work: a stop is heard within that
POLL_TIMEOUT_S: Final = 0.2  # how soon new control data is seen when no totals come

budget_topics: Final = topics.budget_topics  # declared with all others


class BudgetWorker(Protocol):
    """A runtime of the budget worker."""

    def run(self, stop: threading.Event) -> None:
        """Works until `stop` is set. Raises BudgetWorkerStopped when passing trouble does not pass."""
        ...

    def run_until_idle(self, stop: threading.Event) -> None:
        """Works until all that the log holds is judged and said, or `stop` is set. Raises BudgetWorkerStopped."""
        ...

    def close(self) -> None: ...


class EmbeddedBudgetWorker:
    """One worker for all partitions of `budget.totals`. One thread runs it."""

    def __init__(self, log: EventLog, desk: BudgetDesk) -> None:
        self._desk = desk
        self._patience = Patience(desk.watch)
        self._consumer = log.consumer(BUDGET_TOTALS, on_assign=self._assigned)

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self._patient_turn(stop)

    def run_until_idle(self, stop: threading.Event) -> None:
        while not stop.is_set() and not self.idle():
            self._patient_turn(stop)

    def run_once(self, timeout_s: float) -> int:
        """One turn: takes in what came within `timeout_s`, says what follows; returns how many records it read.

        Raises LogUnavailable, OutboxUnavailable: nothing is lost, the next turn says what this one could not.
        """
        # What an earlier turn could not say does not wait for new totals.
        runs = self._consumer.poll(POLL_RECORDS, 0.0 if self._desk.pending else timeout_s)
        for records in runs:
            self._desk.take(records)
        totals = sum(len(records) for records in runs)
        self._desk.turn(totals)
        return totals

    def idle(self) -> bool:
        return self._desk.idle()

    def close(self) -> None:
        self._consumer.close()

    def _patient_turn(self, stop: threading.Event) -> None:
        try:
            self.run_once(POLL_TIMEOUT_S)
        except PASSING as trouble:
            stop.wait(self._patience.delay_s(trouble))
        else:
            self._patience.passed()

    def _assigned(self, partitions: frozenset[int]) -> Mapping[int, int]:
        return self._desk.assign(self._consumer.assignment() | partitions)
