"""The meter: the loop from the log to the ledger.

It alone decodes, dedupes and rates. Two outputs leave it: cumulative budget totals at once, and the ledger's commit,
which runs on a thread of its own beside reading, so that it delays neither totals nor throughput.

Where it stands is the lake's business: on assignment it reads the stored positions, rebuilds dedupe index and totals
from the same lake, and seeks there. Anything that goes wrong with a commit ends in the same place: drop what is
buffered, read the stored positions, start again from them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field
from threading import Event
from typing import Final, TypeVar

import structlog

from meterhouse.ingest.batch import Forward
from meterhouse.ingest.decode import Decoder
from meterhouse.ingest.encode import single_message
from meterhouse.ingest.event import Lateness
from meterhouse.ingest.log import BUDGET_TOTALS, USAGE_EVENTS, Consumer, EventLog, Records
from meterhouse.streams.budget import BudgetTotal, BudgetTotals
from meterhouse.streams.control import Snapshot
from meterhouse.streams.dedupe import DedupeIndex
from meterhouse.streams.ledger import Fenced, Ledger, LedgerUnavailable, Position, Processed
from meterhouse.streams.pipeline import merge_all, process
from meterhouse.streams.rate_card import compile_rates

T = TypeVar("T")
_HOUR_US: Final = 3_600 * 1_000_000
_log = structlog.get_logger("meterhouse.meter")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterSettings:
    """Limits of the loop, each with its reason."""

    poll_records: int = 20_000  # enough events for vectorised stages where a record is one event
    poll_timeout_s: float = 0.02  # also the delay of a budget total at low load
    commit_every_s: float = 1.0  # a catalogue takes tens of commits a second; readers want seconds
    commit_events: int = 200_000  # the catalogue's share of a commit, 0.15 s whatever its size, is then small
    buffer_events: int = 400_000  # about 150 MB; beyond it reading stops and lag shows it
    control_every_s: float = 1.0
    commit_attempts: int = 12  # with backoff up to 5 s about 40 s of trouble, then stop loudly
    window_hours: int = 35 * 24  # the dedupe window, of arrival
    lateness: Lateness = field(default_factory=Lateness)


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the meter stands: events processed and committed and records read since it started; records unread."""

    processed: int
    committed: int
    records: int
    lag_records: int


class MeterStopped(Exception):
    """The meter gave up; the message says why and what to do."""


@dataclass(slots=True)
class _Buffer:
    """What is processed and not committed: units in order, and the events they hold."""

    units: list[Processed] = field(default_factory=list)
    events: int = 0
    since_us: int = 0

    def add(self, unit: Processed, now_us: int) -> None:
        if not self.units:
            self.since_us = now_us
        self.units.append(unit)
        self.events += events_read(unit)


def events_read(unit: Processed) -> int:
    return sum(unit.after[p].counts.read - unit.before[p].counts.read for p in unit.after)


class Meter:
    """Meters `usage.events` into a ledger until stopped.

    `snapshots` returns the control data in force (cheap: it is called every `control_every_s`). `between_commits` runs
    on the ledger's thread after a commit, while no transaction is open: the place for maintenance.
    """

    def __init__(
        self,
        *,
        log: EventLog,
        ledger: Ledger,
        snapshots: Callable[[], Snapshot],
        clock: Callable[[], int],
        settings: MeterSettings | None = None,
        between_commits: Callable[[], None] | None = None,
    ) -> None:
        self._log = log
        self._ledger = ledger
        self._snapshots = snapshots
        self._clock = clock
        self.settings = settings or MeterSettings()
        self._between_commits = between_commits
        self._decoder = Decoder()
        self._snapshot = snapshots()
        self._rates = compile_rates(self._snapshot)
        self._tenants = self._snapshot.known_tenants
        self._totals = BudgetTotals(self._snapshot, self.settings.lateness)
        self._control_checked_us = clock()
        self._positions: dict[int, Position] = {}  # processed up to, of the partitions that are ours
        self._indexes: dict[int, DedupeIndex] = {}
        self._buffer = _Buffer()
        self._in_flight: tuple[Future[int], Processed] | None = None
        self._processed = self._committed = self._records = 0
        self._stop = Event()
        self._ledger_thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._consumer: Consumer = log.consumer(USAGE_EVENTS, on_assign=self._assigned, on_revoke=self._revoked)

    # -- the loop ------------------------------------------------------------------------------------------------

    def run(
        self,
        stop: Event,
        *,
        until_idle: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> None:
        """Runs until `stop` is set, or with `until_idle` until all that the log holds is committed.

        What is processed when it stops is committed first. Raises MeterStopped.
        """
        self._stop = stop
        while not stop.is_set():
            idle = not self.step()
            if progress is not None:
                progress(self.progress())
            if until_idle and idle and self._drained():
                break
        self._commit_all()

    def step(self) -> bool:
        """One turn: poll, process, publish totals, and start a commit when one is due. False: nothing was there."""
        self._settle(block=self._buffer.events >= self.settings.buffer_events)
        self._follow_control()
        polled = self._consumer.poll(self.settings.poll_records, self.settings.poll_timeout_s)
        if polled:
            self._process(polled)
        self._start_commit()
        return bool(polled)

    @property
    def committed(self) -> int:
        """Events committed since this meter started."""
        return self._committed

    def progress(self) -> Progress:
        ends = self._log.end_offsets(USAGE_EVENTS)
        lag = sum(end - self._positions[p].next_offset for p, end in ends.items() if p in self._positions)
        return Progress(self._processed, self._committed, self._records, lag)

    def close(self) -> None:
        """Releases the consumer and the ledger's thread; what is not committed is read again by the next meter."""
        self._consumer.close()
        self._ledger_thread.shutdown(wait=True)

    # -- reading -------------------------------------------------------------------------------------------------

    def _process(self, polled: Sequence[Records]) -> None:
        decoded = self._decoder.decode(polled, tenants=self._tenants, lateness=self.settings.lateness)
        self._forward(decoded.forwards)
        before = {records.partition: self._positions[records.partition] for records in polled}
        unit = process(polled, decoded, before, self._indexes, self._rates)
        self._positions.update(unit.after)
        self._buffer.add(unit, self._clock())
        self._processed += events_read(unit)
        self._records += sum(len(records) for records in polled)
        self._publish(self._totals.add(unit.minutes, unit.after))

    def _forward(self, forwards: Sequence[Forward]) -> None:
        """Publishes misplaced events under their tenant's key, before the commit that counts them as forwarded: a
        crash between the two publishes them again, and their own partition drops the duplicate."""
        if forwards:
            self._log.append(USAGE_EVENTS, [single_message(forward.tenant, forward.payload) for forward in forwards])

    def _publish(self, totals: Sequence[BudgetTotal]) -> None:
        if not totals:
            return
        partitions = self._log.partitions(BUDGET_TOTALS)
        self._log.append(BUDGET_TOTALS, [total.message(partitions) for total in totals])

    def _follow_control(self) -> None:
        """Takes over new control data at a batch boundary: what was rated before is committed first, so that totals
        can start again from the lake."""
        now_us = self._clock()
        if now_us - self._control_checked_us < self.settings.control_every_s * 1e6:
            return
        self._control_checked_us = now_us
        snapshot = self._snapshots()
        if snapshot.version == self._snapshot.version:
            return
        self._commit_all()
        self._snapshot = snapshot
        self._rates = compile_rates(snapshot)
        self._tenants = snapshot.known_tenants
        self._totals = BudgetTotals(snapshot, self.settings.lateness)
        self._start_totals(self._positions)
        _log.info("control data taken over", version=snapshot.version)

    # -- assignment ----------------------------------------------------------------------------------------------

    def _assigned(self, partitions: frozenset[int]) -> Mapping[int, int]:
        self._settle(block=True)
        positions = self._on_ledger(lambda: self._load(partitions))
        self._positions.update(positions)
        self._start_totals(positions)
        return {p: position.next_offset for p, position in positions.items()}

    def _load(self, partitions: frozenset[int]) -> dict[int, Position]:
        """The stored positions of `partitions`, and their dedupe indexes rebuilt from the lake."""
        self._ledger.seed(max(partitions) + 1)
        stored = self._ledger.positions()
        for partition in partitions:
            index = DedupeIndex(self.settings.window_hours)
            arrived_us = stored[partition].arrived_us
            if arrived_us is not None:
                since_hour = arrived_us // _HOUR_US - self.settings.window_hours
                for keys in self._ledger.accepted_keys(partition, since_hour):
                    index.insert(keys.halves, keys.arrived_hour)
            self._indexes[partition] = index
        return {p: stored[p] for p in partitions}

    def _start_totals(self, positions: Mapping[int, Position]) -> None:
        """Starts the totals of `positions` from the lake; call only while nothing of them is uncommitted."""
        edges = self._totals.edges(*self._arrivals(positions))
        spend = self._on_ledger(lambda: self._ledger.spend(edges))
        started: list[BudgetTotal] = []
        for partition, position in positions.items():
            started += self._totals.start(partition, spend, edges, position.next_offset)
        self._publish(started)

    def _arrivals(self, positions: Mapping[int, Position]) -> tuple[int, int]:
        """The earliest arrival still to be read and the latest one read: now, where the meter keeps up."""
        now_us = self._clock()
        oldest, newest = now_us, now_us
        for partition, position in positions.items():
            newest = max(newest, position.arrived_us or newest)
            if unread := self._log.read(USAGE_EVENTS, partition, position.next_offset, 1):
                oldest = min(oldest, unread.appended_us[0])
        return oldest, newest

    def _revoked(self, partitions: frozenset[int]) -> None:
        self._commit_all()
        for partition in partitions:
            self._positions.pop(partition, None)
            self._indexes.pop(partition, None)
            self._totals.drop(partition)

    # -- committing ----------------------------------------------------------------------------------------------

    def _start_commit(self, *, force: bool = False) -> None:
        """Hands the buffer to the ledger's thread when it is due: full enough or old enough."""
        if self._in_flight is not None or not self._buffer.units:
            return
        age_us = self._clock() - self._buffer.since_us
        due = self._buffer.events >= self.settings.commit_events or age_us >= self.settings.commit_every_s * 1e6
        if due or force:
            units = self._buffer.units
            self._buffer = _Buffer()
            unit = merge_all(units)
            self._in_flight = (self._ledger_thread.submit(self._commit, unit), unit)

    def _commit(self, unit: Processed) -> int:
        """On the ledger's thread: commits with backoff and jitter while the ledger is unavailable."""
        for attempt in range(self.settings.commit_attempts):
            try:
                snapshot_id = self._ledger.commit(unit)
            except LedgerUnavailable as trouble:
                delay_s = min(5.0, 0.05 * 2**attempt) * random.uniform(0.5, 1.0)
                _log.warning("commit will be tried again", reason=str(trouble), delay_s=round(delay_s, 2))
                self._stop.wait(delay_s)
            else:
                if self._between_commits is not None:
                    self._between_commits()
                return snapshot_id
        raise MeterStopped(
            f"the ledger did not take a commit in {self.settings.commit_attempts} tries; nothing is lost: the log keeps"
            " the events. See to the catalogue and the disk, then start the meter again."
        )

    def _settle(self, *, block: bool) -> None:
        """Takes the outcome of the commit in flight, if it has one (waits for it when `block`)."""
        if self._in_flight is None:
            return
        future, unit = self._in_flight
        if block:
            wait_for([future])
        if not future.done():
            return
        self._in_flight = None
        try:
            future.result()
        except Fenced as fenced:
            self._start_over(fenced)
        else:
            self._committed += events_read(unit)

    def _commit_all(self) -> None:
        while self._in_flight is not None or self._buffer.units:
            self._settle(block=True)
            self._start_commit(force=True)

    def _start_over(self, fenced: Fenced) -> None:
        """Another meter moved a partition: all that is buffered is dropped and read again from the stored positions."""
        _log.warning("commit fenced", partition=fenced.partition, expected=fenced.expected, stored=fenced.stored)
        self._buffer = _Buffer()
        self._totals = BudgetTotals(self._snapshot, self.settings.lateness)
        for partition, offset in self._assigned(frozenset(self._positions)).items():
            self._consumer.seek(partition, offset)

    def _drained(self) -> bool:
        """Nothing buffered, nothing in flight, nothing unread."""
        self._commit_all()
        ends = self._log.end_offsets(USAGE_EVENTS)
        return all(self._positions.get(p, Position()).next_offset >= end for p, end in ends.items())

    def _on_ledger(self, call: Callable[[], T]) -> T:
        """The ledger belongs to one thread: everything that asks it goes there."""
        return self._ledger_thread.submit(call).result()
