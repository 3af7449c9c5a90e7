"""Publishes budget totals beside reading: the newest of each key, as soon as the log takes it.

A total replaces the one before it, so what waits is bounded by the open windows, and a log that is slow or away for a
while costs freshness and nothing else.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from typing import Final

import structlog

from meterhouse.ingest.log import BUDGET_TOTALS, EventLog, LogError, LogFull, LogUnavailable, Message
from meterhouse.streams.budget_totals import BudgetTotal, Mark

APPEND_TOTALS: Final = 5_000
"""Of one append: a megabyte and a half."""
LONGEST_WAIT_S: Final = 2.0
"""Between two tries: totals are to be tens of milliseconds old once the log is back."""

Said = BudgetTotal | Mark
_PASSING: Final = (LogUnavailable, LogFull)
_log = structlog.get_logger("meterhouse.meter")


class TotalsPublisher:
    """A thread that appends totals to `budget.totals`. `offer` never waits for the log."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._changed = threading.Condition()  # guards all below
        self._pending: dict[bytes, BudgetTotal] = {}
        self._marks: dict[bytes, Mark] = {}  # said when no total waits: what they speak of stands before them
        self._on_the_way = 0
        self._error: LogError | None = None
        self._closed = False
        self._give_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="totals", daemon=True)
        self._thread.start()

    def offer(self, totals: Sequence[Said]) -> None:
        """Takes totals, each newer than what was offered before of its key, and marks, which stay behind them.

        Raises LogError when an earlier one can never be published; the message says why.
        """
        if self._error is not None:
            raise self._error
        if not totals:
            return
        with self._changed:
            for said in totals:
                if isinstance(said, BudgetTotal):
                    self._pending[said.key()] = said
                else:
                    self._marks[said.key()] = said
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Waits until all that was offered is in the log; False: it is not."""
        with self._changed:
            idle = self._changed.wait_for(
                lambda: (not self._waiting and not self._on_the_way) or self._ended, timeout_s
            )
            return idle and self._error is None

    def close(self) -> None:
        """Ends the thread; what is not in the log by then is given up: the next meter says it again."""
        self._give_up.set()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    @property
    def _waiting(self) -> bool:
        return bool(self._pending or self._marks)

    @property
    def _ended(self) -> bool:
        return self._closed or self._error is not None

    def _run(self) -> None:
        while totals := self._take():
            try:
                self._append(totals)
            except LogError as error:
                _log.error("budget totals cannot be published", error=str(error))
                self._error = error
            finally:
                with self._changed:
                    self._on_the_way = 0
                    self._changed.notify_all()

    def _take(self) -> list[Said]:
        """Waits for totals; none when the publisher is closed or has failed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended)
            if self._ended:
                return []
            keys = list(self._pending)[:APPEND_TOTALS]
            said: list[Said] = [self._pending.pop(key) for key in keys]
            if not self._pending:
                said += self._marks.values()
                self._marks = {}
            self._on_the_way = len(said)
            return said

    def _append(self, totals: Sequence[Said]) -> None:
        """Tries until the log takes them. What is newer by then comes after them, so a key's last record stays its
        newest."""
        wait_s = 0.05
        while not self._give_up.is_set():
            try:
                partitions = self._log.partitions(BUDGET_TOTALS)
                self._log.append(BUDGET_TOTALS, [each for said in totals for each in _messages(said, partitions)])
            except _PASSING as trouble:
                _log.warning("the log takes no budget totals, trying again", reason=str(trouble))
                self._give_up.wait(wait_s * random.uniform(0.5, 1.0))
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            else:
                return


def _messages(said: Said, partitions: int) -> list[Message]:
    return [said.message(partitions)] if isinstance(said, BudgetTotal) else said.messages(partitions)
