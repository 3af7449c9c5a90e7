"""The meter: the loop from the log to the ledger.

It alone decodes, dedupes and rates. Two outputs leave it: cumulative budget totals at once, and the ledger's commit.
Both run beside reading (`totals_publisher`, `committer`), so neither delays the other.

Where it stands is the lake's business: a partition is *taken over* by reading its stored position, rebuilding its
dedupe index and totals from the same lake, and reading on from there. Whatever goes wrong with a partition ends in the
same place: its work is dropped and, if it is still ours, it is taken over again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from threading import Event
from time import monotonic, perf_counter
from typing import Final

import pyarrow as pa
import structlog

from meterhouse.ingest.batch import Decoded, Reason
from meterhouse.ingest.decode import Decoder
from meterhouse.ingest.log import (
    USAGE_EVENTS,
    Consumer,
    EventLog,
    LogUnavailable,
    Records,
)
from meterhouse.streams.budget_totals import AsOfMark, BudgetTotal, BudgetTotals, LayoutMark
from meterhouse.streams.committer import Committer, Dropped, MeterStopped
from meterhouse.streams.control import Snapshot
from meterhouse.streams.dedupe import KeyIndex
from meterhouse.streams.dedupe_runs import Damaged
from meterhouse.streams.dedupe_store import Dedupe, MemoryDedupe
from meterhouse.streams.ledger import Ledger, Position
from meterhouse.streams.meter_buffer import Buffer, Work, events_read
from meterhouse.streams.meter_settings import REST_S, MeterSettings
from meterhouse.streams.pipeline import process_run
from meterhouse.streams.rate_card import compile_rates
from meterhouse.streams.totals_publisher import TotalsPublisher
from meterhouse.streams.watch import Lag, MeterHooks, Stand, Turn

__all__ = ["Meter", "MeterSettings", "MeterStopped", "Progress"]

FLUSH_S: Final = 30.0
"""For the last totals at the end of a run: a leader that died is replaced in a few seconds."""
TAKE_OVER_TRIES: Final = 5
"""A partition that another meter moves while it is being taken over; each of its commits is its last."""
_log = structlog.get_logger("meterhouse.meter")


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the meter stands: events processed and committed and records read since it started; records unread."""

    processed: int
    committed: int
    records: int
    lag_records: int


class Meter:
    """Meters `usage.events` into a ledger until stopped.

    `snapshots` returns the control data in force (cheap: it is called every `control_every_s`, and before an event is
    rejected whose tenant nobody knows, since it may have been made known just now).
    """

    def __init__(
        self,
        *,
        log: EventLog,
        ledger: Ledger,
        snapshots: Callable[[], Snapshot],
        clock: Callable[[], int],
        settings: MeterSettings | None = None,
        hooks: MeterHooks | None = None,
    ) -> None:
        self._log = log
        self._ledger = ledger
        self._snapshots = snapshots
        self._clock = clock
        self.settings = settings or MeterSettings()
        hooks = hooks or MeterHooks()
        self._watch = hooks.watch
        self._dedupe: Dedupe = MemoryDedupe(self.settings.window_hours) if hooks.dedupe is None else hooks.dedupe
        self._decoder = Decoder()
        self._snapshot = snapshots()
        self._rates = compile_rates(self._snapshot)
        self._tenants = self._snapshot.known_tenants
        self._layout = 0  # the lake's; 0: nothing was taken over yet
        self._totals = BudgetTotals(self._snapshot, self.settings.lateness)
        self._control_checked_us = clock()
        self._positions: dict[int, Position] = {}  # processed up to, of the partitions that are ours
        self._indexes: dict[int, KeyIndex] = {}
        self._dropped: frozenset[int] = frozenset()  # perhaps ours still: to be taken over again
        self._buffer = Buffer()
        self._processed = self._committed = self._records = 0
        self._lag = Lag()
        self._lag_seen_s = -1e9
        self._totals_out = TotalsPublisher(log)
        self._committer = Committer(log, ledger, attempts=self.settings.commit_attempts, hooks=hooks)
        self._rest_s = 0.0
        self._closed = False
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

        What is processed when it stops is committed first or, where the ledger is away, dropped whole: it is read
        again. Raises MeterStopped.
        """
        self._committer.stop = stop
        try:
            while not stop.is_set():
                idle = not self.step()
                if progress is not None:
                    progress(self.progress())
                if until_idle:
                    if idle and self._is_drained():
                        break
                elif self._rest_s > 0:
                    stop.wait(self._rest_s)
            self.finish()
        except Dropped as dropped:
            _log.warning("stopped without a last commit; it is read again", reason=str(dropped))

    def step(self) -> bool:
        """One turn: poll, process, offer totals, and start a commit when one is due. False: nothing was there."""
        full = self._buffer.events >= self.settings.buffer_events
        self._settle(block=full or self._buffer.payload_bytes >= self.settings.buffer_bytes)
        self._follow_control()
        begin_s = perf_counter()
        polled = self._consumer.poll(self.settings.poll_records, self.settings.poll_timeout_s)
        poll_s = perf_counter() - begin_s
        if self._dropped:
            polled = self._take_over_again(polled)
        self._rest_s = 0.0
        if polled:
            self._process(polled, poll_s)
        self._start_commit()
        self._look_at_lag()
        return bool(polled)

    def finish(self) -> None:
        """Commits all that is processed and publishes its totals. Raises MeterStopped, Dropped."""
        self._commit_all()
        if not self._totals_out.flush(FLUSH_S):
            _log.warning("the last budget totals are not published; the next meter says them again")

    @property
    def committed(self) -> int:
        """Events committed since this meter started."""
        return self._committed

    def progress(self) -> Progress:
        """As of the last look at the log's end, which is at most `lag_every_s` old."""
        return Progress(self._processed, self._committed, self._records, self._lag.total_records)

    def close(self) -> None:
        """Releases the consumer and the threads; what is not committed is read again by the next meter."""
        self._closed = True
        self._consumer.close()
        self._committer.close()
        self._dedupe.close()
        self._totals_out.close()
        self._decoder.close()

    # -- reading -------------------------------------------------------------------------------------------------

    def _process(self, polled: Sequence[Records], poll_s: float) -> None:
        begin_s = perf_counter()
        decoded = self._decode(polled)
        if any(reject.reason is Reason.UNKNOWN_TENANT for reject in decoded.rejects) and self._take_over_control():
            polled = self._take_over_again(polled) if self._dropped else polled
            if not polled:
                return
            decoded = self._decode(polled)
        decoded_s = perf_counter()
        before = {records.partition: self._positions[records.partition] for records in polled}
        try:
            unit = process_run(polled, decoded, before, self._indexes, self._rates)
        except Damaged as damage:
            _log.warning("local dedupe files are damaged; the lake has their keys", reason=str(damage))
            self._drop(frozenset(before))  # the others' indexes may have taken keys in already
            return
        self._positions.update(unit.after)
        self._totals_out.offer(self._totals.add(unit.minutes, unit.after))
        self._buffer.add(Work(unit, decoded.forwards), self._clock())
        self._processed += events_read(unit)
        records = sum(len(run) for run in polled)
        self._records += records
        took_s = perf_counter() - begin_s
        self._rest_s = min(self.settings.rest * took_s, REST_S) if records < self.settings.poll_records else 0.0
        self._watch.processed(unit, Turn(records, poll_s, decoded_s - begin_s, perf_counter() - decoded_s))

    def _decode(self, polled: Sequence[Records]) -> Decoded:
        return self._decoder.decode(
            polled, tenants=self._tenants, lateness=self.settings.lateness, partitions=self._layout
        )

    def _follow_control(self) -> None:
        if self._clock() - self._control_checked_us >= self.settings.control_every_s * 1e6:
            self._take_over_control()

    def _take_over_control(self) -> bool:
        """Takes over new control data, if there is any, at a batch boundary: what was rated before is committed first,
        so that totals can start again from the lake."""
        self._control_checked_us = self._clock()
        snapshot = self._snapshots()
        if snapshot.version == self._snapshot.version:
            return False
        self._commit_all()
        self._snapshot = snapshot
        self._rates = compile_rates(snapshot)
        self._tenants = snapshot.known_tenants
        self._totals = BudgetTotals(snapshot, self.settings.lateness, self._layout)
        edges = self._edges(self._positions)
        self._start_totals(self._positions, edges, self._committer.ask(lambda: self._ledger.spend(edges)))
        _log.info("control data taken over", version=snapshot.version)
        return True

    def _look_at_lag(self) -> None:
        if monotonic() - self._lag_seen_s < self.settings.lag_every_s:
            return
        self._lag_seen_s = monotonic()
        if not self._buffer.work:
            self._committer.between()
        asked_us = self._clock()
        try:
            ends = self._log.end_offsets(USAGE_EVENTS)
        except LogUnavailable as away:
            _log.warning("the log does not tell its end", reason=str(away))
            return
        now_us = self._clock()
        records = {p: max(0, ends.get(p, 0) - position.next_offset) for p, position in self._positions.items()}
        seconds = {
            p: max(0.0, (now_us - position.arrived_us) / 1e6) if records[p] else 0.0
            for p, position in self._positions.items()
            if position.arrived_us is not None
        }
        self._lag = Lag(records, seconds)
        self._say_how_far(records, asked_us)
        indexes = self._indexes.values()
        sizes = sum(map(len, indexes)), sum(index.nbytes for index in indexes)
        self._watch.stands(Stand(self._lag, self._buffer.events, *sizes))

    def _say_how_far(self, unread: Mapping[int, int], asked_us: int) -> None:
        """Marks how far the totals have come: to the moment `asked_us`, where nothing was unread then."""
        marks: list[AsOfMark] = []
        for partition, position in self._positions.items():
            as_of_us = position.arrived_us if unread[partition] else asked_us
            if as_of_us is not None:
                version = self._snapshot.version
                marks.append(AsOfMark(partition, as_of_us, position.next_offset, version, self._layout))
        self._totals_out.offer(marks)

    # -- partitions come and go ----------------------------------------------------------------------------------

    def _assigned(self, partitions: frozenset[int]) -> Mapping[int, int]:
        self._settle(block=True)
        return self._take_over(partitions)

    def _revoked(self, partitions: frozenset[int]) -> None:
        if not self._closed:
            self._commit_all()
        self._drop(partitions)
        self._dropped -= partitions

    def _drop(self, partitions: frozenset[int]) -> None:
        """Forgets partitions and what was done on them since their last commit."""
        self._buffer = self._buffer.without(partitions)
        for partition in partitions:
            self._positions.pop(partition, None)
            self._indexes.pop(partition, None)
            self._dedupe.drop(partition)
            self._totals.drop(partition)
        self._dropped |= partitions

    def _take_over_again(self, polled: Sequence[Records]) -> list[Records]:
        """Takes over what was dropped and is still ours; returns what was polled of the others."""
        ours, self._dropped = self._dropped & self._consumer.assignment(), frozenset()
        if ours:
            for partition, offset in self._take_over(ours).items():
                self._consumer.seek(partition, offset)
        return [records for records in polled if records.partition not in ours | self._dropped]

    def _take_over(self, partitions: frozenset[int]) -> Mapping[int, int]:
        """Goes on with partitions from where the lake stands: returns the offsets to read from."""
        self._dropped -= partitions
        known = self._committer.patiently(lambda: self._log.partitions(USAGE_EVENTS))
        layout = self._committer.ask(lambda: self._ledger.seed(max(known, max(partitions) + 1)))
        if layout != self._layout:
            # All that is held was read under the former layout: tenants may belong elsewhere now.
            self._drop(frozenset(self._positions) - partitions)
            self._layout = layout
            self._totals = BudgetTotals(self._snapshot, self.settings.lateness, layout)
        for _ in range(TAKE_OVER_TRIES):
            stored = self._committer.ask(self._ledger.positions)
            positions = {p: stored[p] for p in partitions}
            edges = self._edges(positions)
            indexes, spend, after = self._committer.ask(partial(self._load, positions, edges))
            if all(after[p] == position for p, position in positions.items()):
                break
        else:
            raise MeterStopped(
                f"partitions {sorted(partitions)} are moved by another meter all the time: stop one of them"
            )
        self._positions.update(positions)
        self._indexes.update(indexes)
        self._start_totals(positions, edges, spend)
        return {p: position.next_offset for p, position in positions.items()}

    def _load(
        self, positions: Mapping[int, Position], edges: Sequence[int]
    ) -> tuple[dict[int, KeyIndex], pa.Table, Mapping[int, Position]]:
        """Dedupe indexes and spend from the lake, and the positions as they are after reading both."""
        indexes = {p: self._dedupe.open(p, position, self._ledger) for p, position in positions.items()}
        return indexes, self._ledger.spend(edges), self._ledger.positions()

    # -- totals --------------------------------------------------------------------------------------------------

    def _start_totals(self, positions: Mapping[int, Position], edges: Sequence[int], spend: pa.Table) -> None:
        """Starts the totals of `positions` from the lake; call only while nothing of them is uncommitted."""
        started: list[BudgetTotal | LayoutMark] = []
        for partition, position in positions.items():
            started += self._totals.start(partition, spend, edges, position.next_offset)
        self._totals_out.offer([*started, *(LayoutMark(partition, self._layout) for partition in positions)])

    def _edges(self, positions: Mapping[int, Position]) -> list[int]:
        """Edges of the windows that can still change, from the earliest arrival to be read to the latest one read."""
        return self._totals.edges(*self._committer.patiently(lambda: self._arrivals(positions)))

    def _arrivals(self, positions: Mapping[int, Position]) -> tuple[int, int]:
        """The earliest arrival still to be read and the latest one read: now, where the meter keeps up."""
        now_us = self._clock()
        oldest, newest = now_us, now_us
        ends = self._log.end_offsets(USAGE_EVENTS)
        for partition, position in positions.items():
            newest = max(newest, position.arrived_us or newest)
            if position.next_offset < ends.get(partition, 0):
                unread = self._log.read(USAGE_EVENTS, partition, position.next_offset, 1)
                oldest = min([oldest, *unread.appended_us[:1]])
        return oldest, newest

    # -- committing ----------------------------------------------------------------------------------------------

    def _start_commit(self, *, force: bool = False) -> None:
        """Hands the buffer to the ledger's thread when it is due: full enough or old enough."""
        buffer = self._buffer
        if self._committer.is_busy or not buffer.work:
            return
        age_us = self._clock() - buffer.since_us
        due = buffer.events >= self.settings.commit_events or age_us >= self.settings.commit_every_s * 1e6
        if due or force or buffer.payload_bytes >= self.settings.buffer_bytes // 2:
            self._buffer = Buffer()
            self._committer.start(buffer.unit, buffer.messages())

    def _settle(self, *, block: bool) -> None:
        """Takes the outcome of the commit in flight, if it has one (waits for it when `block`)."""
        outcome = self._committer.outcome(wait=block)
        if outcome is None:
            return
        if outcome.committed is not None:
            self._committed += events_read(outcome.committed)
            for partition, position in outcome.committed.after.items():
                self._dedupe.committed(partition, position)
        if outcome.fenced:
            self._drop(outcome.fenced)

    def _commit_all(self) -> None:
        while self._committer.is_busy or self._buffer.work:
            self._settle(block=True)
            self._start_commit(force=True)

    def _is_drained(self) -> bool:
        """Nothing buffered, nothing in flight and, of whichever meter, nothing unread."""
        self._commit_all()
        ends = self._committer.patiently(lambda: self._log.end_offsets(USAGE_EVENTS))
        if any(position.next_offset < ends.get(p, 0) for p, position in self._positions.items()):
            return False
        stored = self._committer.ask(self._ledger.positions)
        return all(stored.get(p, Position()).next_offset >= end for p, end in ends.items())
