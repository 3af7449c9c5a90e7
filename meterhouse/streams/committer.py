"""Commits beside reading: the ledger's own thread, its patience with a ledger that is away, and what a fence leaves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Final, TypeVar

import structlog
from tenacity import RetryCallState, Retrying, retry_if_exception_type
from tenacity.wait import wait_random_exponential

from meterhouse.ingest.log import EventLog, LogFull, LogUnavailable, Message
from meterhouse.ingest.log_limits import record_bytes
from meterhouse.streams.ledger import Fenced, LayoutChanged, Ledger, LedgerUnavailable, Processed
from meterhouse.streams.pipeline import without
from meterhouse.streams.watch import Away, MeterHooks

T = TypeVar("T")

FIRST_WAIT_S: Final = 0.05
LONGEST_WAIT_S: Final = 5.0
APPEND_BYTES: Final = 8 * 1024**2
"""Of forwards or rejects in one append: it is some tens of milliseconds."""
APPEND_RECORDS: Final = 20_000
GRACE_S: Final = 10.0
"""Patience once the meter is to stop: a process manager usually leaves 30 s, and what is dropped is in the log."""

_PASSING: Final = (LedgerUnavailable, LogUnavailable, LogFull)
_log = structlog.get_logger("meterhouse.meter")


class MeterStopped(Exception):
    """The meter gave up; the message says why and what to do."""


class Dropped(Exception):
    """The meter is to stop and the ledger is away: what was not committed is read again by the next meter."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a commit: the part that is in the lake, and the partitions that another meter had moved."""

    committed: Processed | None
    fenced: frozenset[int]


class Committer:
    """Owns the ledger: everything that asks it goes to one thread. `hooks.between_commits` runs there after a commit,
    and at a `rest`.

    `attempts`: how often passing trouble is met, with waits of up to 5 s, before the meter stops loudly.
    """

    def __init__(
        self,
        log: EventLog,
        ledger: Ledger,
        *,
        attempts: int,
        hooks: MeterHooks,
    ) -> None:
        self._log = log
        self._ledger = ledger
        self._attempts = attempts
        self._hooks = hooks
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._in_flight: Future[Outcome] | None = None
        self.stop = Event()

    @property
    def is_busy(self) -> bool:
        """Has a commit begun whose outcome was not taken yet?"""
        return self._in_flight is not None

    def start(self, unit: Callable[[], Processed], before: Mapping[str, Sequence[Message]]) -> None:
        """Begins a commit of what `unit` puts together, in the ledger's thread. `before`: what goes out to topics
        first, at least once: a crash between the two sends it again."""
        assert self._in_flight is None
        self._in_flight = self._thread.submit(self._commit, unit, before)

    def between(self) -> None:
        """Where nothing is committed: what is done between commits is due all the same."""
        if self._in_flight is None:
            self._in_flight = self._thread.submit(self._between)

    def outcome(self, *, wait: bool) -> Outcome | None:
        """Takes the outcome of the commit that was begun; None: there is none, or (without `wait`) not yet.

        Raises MeterStopped, Dropped.
        """
        if self._in_flight is None:
            return None
        if wait:
            wait_for([self._in_flight])
        if not self._in_flight.done():
            return None
        future, self._in_flight = self._in_flight, None
        return future.result()

    def ask(self, call: Callable[[], T]) -> T:
        """Asks the ledger in its thread, with patience. Raises MeterStopped, Dropped."""
        return self._thread.submit(lambda: self.patiently(call)).result()

    def patiently(self, call: Callable[[], T]) -> T:
        """Calls until it is not met by passing trouble of ledger or log. Raises MeterStopped, Dropped."""
        stopping_s: float | None = None

        def is_over(state: RetryCallState) -> bool:
            nonlocal stopping_s
            if not self.stop.is_set():
                return state.attempt_number >= self._attempts
            stopping_s = time.monotonic() if stopping_s is None else stopping_s
            return time.monotonic() - stopping_s >= GRACE_S

        retrying = Retrying(
            retry=retry_if_exception_type(_PASSING),
            wait=wait_random_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S),
            stop=is_over,
            sleep=self._sleep,
            before_sleep=self._note,
            reraise=True,
        )
        try:
            return retrying(call)
        except _PASSING as trouble:
            if self.stop.is_set():
                raise Dropped(str(trouble)) from trouble
            raise MeterStopped(
                f"the meter was not served in {self._attempts} tries ({trouble}); nothing is lost: the log keeps the"
                " events. See to the catalogue, the disk and the broker, then start the meter again."
            ) from trouble

    def close(self) -> None:
        self._thread.shutdown(wait=True)

    def _note(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self._hooks.watch.tries_again(away_of(error))
        _log.warning("trying again", reason=str(error), attempt=state.attempt_number)

    def _sleep(self, seconds: float) -> None:
        if self.stop.is_set():
            time.sleep(min(seconds, 0.5))
        else:
            self.stop.wait(seconds)

    def _between(self) -> Outcome:
        self._hooks.between_commits()
        return Outcome(None, frozenset())

    def _commit(self, unit: Callable[[], Processed], before: Mapping[str, Sequence[Message]]) -> Outcome:
        start_s = time.monotonic()
        for topic, messages in before.items():
            for run in in_appends(messages):
                self.patiently(partial(self._log.append, topic, run))
        left: Processed | None = unit()
        fenced: frozenset[int] = frozenset()
        while left is not None:
            moved = self.patiently(partial(self._try, left))
            if not moved:
                break
            fenced |= moved
            left = without(left, moved)
        if fenced:
            self._hooks.watch.fenced(len(fenced))
        if left is not None:
            self._hooks.watch.committed(left, time.monotonic() - start_s)
            self._hooks.between_commits()
        return Outcome(left, fenced)

    def _try(self, unit: Processed) -> frozenset[int]:
        """Commits; returns the partitions that were moved, if any: then nothing is committed."""
        try:
            self._ledger.commit(unit)
        except Fenced as fence:
            _log.warning("commit fenced", reason=str(fence))
            if isinstance(fence, LayoutChanged):
                return frozenset(unit.before)
            stored = self._ledger.positions()
            moved = {p for p, position in unit.before.items() if stored[p] != position}
            return frozenset(moved | {fence.partition})
        return frozenset()


def in_appends(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """Cuts messages into appends of some APPEND_BYTES: what a flood of rejects carries is more than a log takes at
    once."""
    start = size = 0
    for at, message in enumerate(messages):
        size += record_bytes(message)
        if size >= APPEND_BYTES or at - start >= APPEND_RECORDS:
            yield messages[start : at + 1]
            start, size = at + 1, 0
    if start < len(messages):
        yield messages[start:]


def away_of(trouble: BaseException | None) -> Away:
    """What was not to be had."""
    if isinstance(trouble, LedgerUnavailable):
        return "lake"
    return "log_full" if isinstance(trouble, LogFull) else "log"
