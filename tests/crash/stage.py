"""A group of meters in one process, whose rebalances, deaths and pauses are steps of a script; and budget workers.

The log is the embedded one, the lake a real one; only the group's coordinator is ours: it says who owns which
partition, and says it late to those who are paused. A meter that dies leaves what it has not committed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

from meterhouse.ingest.log import (
    BUDGET_TOTALS,
    USAGE_EVENTS,
    USAGE_REJECTED,
    Message,
    OnAssign,
    OnRevoke,
    Records,
    TopicSpec,
)
from meterhouse.ingest.sqlite_log import SqliteLog
from meterhouse.streams.budget_worker import budget_topics
from meterhouse.streams.ledger import Fenced
from meterhouse.streams.meter import Meter, MeterSettings
from meterhouse.warehouse.alert_outbox import SqlAlertOutbox
from meterhouse.warehouse.control import ControlStore
from meterhouse.warehouse.control_file import parse
from meterhouse.warehouse.control_plan import plan
from meterhouse.warehouse.database import open_database, sqlite_url
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.lake_ledger import LakeLedger
from tests.crash.budget_checks import budget_differences, last_totals, untrue_freshness
from tests.crash.checks import Scene, billed, differences, lake_book
from tests.crash.control_data import control_text
from tests.crash.desks import Desks, Died
from tests.crash.stream import Book, Entry, Stream
from tests.oracle import books

PARTITIONS: Final = 3
BUDGET_PARTITIONS: Final = 3
GROWTHS: Final = 2
IDLE_STEPS: Final = 500
"""Turns within which a stream of these tests is read to its end, many times over."""


def appended(log: SqliteLog, topic: str, messages: Sequence[Message]) -> list[tuple[int, int]]:
    """What a meter appends: planted bugs stand here, and publishers are not concerned."""
    return log.append(topic, messages)


def _kept(spec: TopicSpec) -> TopicSpec:
    """Totals are kept, as Kafka keeps them for some minutes at least (`min.compaction.lag.ms`). The embedded log would
    compact at once, and with meters that speak after their successors, which one process has not, lose the newer."""
    return replace(spec, compacted=False) if spec.name == BUDGET_TOTALS else spec


class _Consumer:
    """Reads what the coordinator gave to its meter."""

    def __init__(self, log: SqliteLog, on_assign: OnAssign, on_revoke: OnRevoke | None) -> None:
        self._log, self._on_assign, self._on_revoke = log, on_assign, on_revoke
        self.wanted: frozenset[int] = frozenset()
        self._next: dict[int, int] = {}

    def poll(self, max_records: int, timeout_s: float) -> list[Records]:
        lost = self._next.keys() - self.wanted
        if lost and self._on_revoke is not None:
            self._on_revoke(frozenset(lost))
        for partition in lost:
            del self._next[partition]
        if added := frozenset(self.wanted - self._next.keys()):
            self._next.update(self._on_assign(added))
        runs = [self._log.read(USAGE_EVENTS, p, at, max_records) for p, at in sorted(self._next.items())]
        self._next.update((run.partition, run.next_offset) for run in runs if run)
        return [run for run in runs if run]

    def seek(self, partition: int, offset: int) -> None:
        self._next[partition] = offset

    def assignment(self) -> frozenset[int]:
        return frozenset(self._next)

    def close(self) -> None:
        self._next = {}


class _GroupLog:
    """The embedded log, whose consumers are members of a group."""

    def __init__(self, log: SqliteLog) -> None:
        self._log = log
        self.newest: _Consumer | None = None

    def consumer(self, topic: str, *, on_assign: OnAssign, on_revoke: OnRevoke | None = None) -> _Consumer:
        assert topic == USAGE_EVENTS
        self.newest = _Consumer(self._log, on_assign, on_revoke)
        return self.newest

    def append(self, topic: str, messages: Sequence[Message]) -> list[tuple[int, int]]:
        return appended(self._log, topic, messages)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


@dataclass
class Member:
    """A meter of the group."""

    meter: Meter
    consumer: _Consumer
    is_paused: bool = False


@dataclass
class Stage:
    """A lake, a log, a stream, meters and budget workers; `play` runs a script of chance, `end` reads everything."""

    folder: Path
    seed: int
    now_us: int
    members: list[Member] = field(default_factory=list)
    deaths: int = 0

    def __enter__(self) -> Self:
        self._closing = ExitStack()
        self.rng = random.Random(self.seed)
        text = control_text(self.now_us)
        path = self.folder / "control.yaml"
        path.write_text(text, encoding="utf-8")
        engine = open_database(sqlite_url(self.folder / "control.sqlite"))
        self._closing.callback(engine.dispose)
        self.control = ControlStore(engine)
        self.control.apply(plan(parse(text.encode()), self.control.snapshot(), self.now_us), self.now_us)
        self.stream = Stream(self.seed, self.now_us, books.read_control(path))
        self.log = SqliteLog(self.folder / "log.sqlite", clock=lambda: self.now_us, max_bytes=2**30)
        self._closing.callback(self.log.close)
        self.log.create_topics(
            [
                TopicSpec(USAGE_EVENTS, PARTITIONS),
                TopicSpec(USAGE_REJECTED, 1),
                *map(_kept, budget_topics(BUDGET_PARTITIONS)),
            ]
        )
        config = LakeConfig(self.folder / "lake.sqlite", self.folder / "data")
        self.lake = self._closing.enter_context(Lake.open(config))
        self.desks = Desks(self.log, SqlAlertOutbox(engine), self.control.snapshot, seed=self.seed)
        self.desks.now_us = self.now_us
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            member.meter.close()
        self._closing.close()

    # -- what may happen -----------------------------------------------------------------------------------------------

    def publish(self, events: int) -> None:
        """The next of the stream, some of it sent twice, as a publisher does that was killed."""
        entries = self.stream.take(events)
        again = entries[-10:] if self.rng.random() < 0.3 else []
        partitions = self.log.partitions(USAGE_EVENTS)
        if partitions > PARTITIONS and self.rng.random() < 0.2:
            partitions -= 1  # a publisher that does not know yet that the topic grew
        self.log.append(USAGE_EVENTS, [_message(entry, partitions) for entry in (*entries, *again)])

    def grow(self) -> None:
        """One partition more: tenants move. The group learns of it at its next rebalance."""
        partitions = self.log.partitions(USAGE_EVENTS)
        if partitions < PARTITIONS + GROWTHS:
            self.log.create_topics([TopicSpec(USAGE_EVENTS, partitions + 1)])

    def join(self) -> None:
        log = _GroupLog(self.log)
        meter = Meter(
            log=log,
            ledger=LakeLedger(self.lake),
            snapshots=self.control.snapshot,
            clock=lambda: self.now_us,
            settings=MeterSettings(
                poll_records=9, poll_timeout_s=0, commit_events=70, control_every_s=3_600, lag_every_s=0
            ),
        )
        assert log.newest is not None
        self.members.append(Member(meter, log.newest))
        self.rebalance()

    def rebalance(self) -> None:
        """Partitions anew, at random, among those that answer; the paused keep what they believe they have."""
        awake = [member for member in self.members if not member.is_paused]
        owners = {p: self.rng.choice(awake) for p in range(self.log.partitions(USAGE_EVENTS))} if awake else {}
        # Who loses a partition hears of it before its next owner does, as the group protocol has it.
        for member in awake:
            member.consumer.wanted &= frozenset(p for p, owner in owners.items() if owner is member)
            self._step(member)
        for member in awake:
            if member in self.members:
                member.consumer.wanted = frozenset(p for p, owner in owners.items() if owner is member)

    def kill(self, member: Member) -> None:
        """As SIGKILL: what it has not committed is gone, and it says goodbye to nobody."""
        self.members.remove(member)
        member.meter.close()
        self.deaths += 1

    def pause(self, member: Member) -> None:
        """As SIGSTOP in the middle of its work: with something read and not committed."""
        self.publish(40)
        self._step(member)
        member.is_paused = member in self.members
        self.rebalance()

    def wake(self, member: Member) -> None:
        """The zombie goes on where it was, with what it has read, and learns of the rebalance only then."""
        member.is_paused = False
        self._attempt(member, member.meter.finish)
        if member in self.members:
            member.consumer.wanted = frozenset()
            self._step(member)
        self.rebalance()

    def play(self, turns: int) -> None:
        for _ in range(turns):
            self.desks.play()
            draw = self.rng.random()
            awake = [member for member in self.members if not member.is_paused]
            asleep = [member for member in self.members if member.is_paused]
            if len(awake) < 2:
                self.join()
            elif draw < 0.20:
                self.publish(25)
            elif draw < 0.24:
                self.kill(self.rng.choice(awake))
                self.rebalance()
            elif draw < 0.27 and not asleep:
                self.pause(self.rng.choice(awake))
            elif draw < 0.32 and asleep:
                self.wake(asleep[0])
            elif draw < 0.36:
                self.rebalance()
            elif draw < 0.38:
                self.grow()
            else:
                self._step(self.rng.choice(awake))

    def start_anew(self, folder: Path) -> None:
        """Ends all meters and goes on with an empty lake: the log is read from its beginning."""
        for member in list(self.members):
            self.kill(member)
        folder.mkdir()
        self.lake = self._closing.enter_context(Lake.open(LakeConfig(folder / "lake.sqlite", folder / "data")))

    def books(self) -> list[Book]:
        with self.lake.read() as cursor:
            return [lake_book(cursor, table) for table in ("charges", "rollup_minute")]

    def end(self, *, more_events: bool = True) -> list[str]:
        """Lets the meters read to the end, and says what does not hold. `more_events`: the last of them come while a
        worker is paused."""
        for member in [each for each in self.members if each.is_paused]:
            self.wake(member)
        if more_events:
            self._pause_a_worker()
        for _ in range(IDLE_STEPS):
            if not self.members:
                self.join()
            read = [self._step(member) for member in list(self.members)]
            if any(read):
                continue
            ends = self.log.end_offsets(USAGE_EVENTS)
            for member in list(self.members):
                self._attempt(member, member.meter.finish)
            if self.log.end_offsets(USAGE_EVENTS) == ends:  # a commit may have forwarded events
                break
        restless = self.desks.settle()
        scene = Scene(self.log, self.lake, self.control.snapshot(), self.stream, self.desks.outbox)
        with self.lake.read() as cursor:
            charges = billed(cursor)
        return [
            *differences(scene),
            *restless,
            *budget_differences(scene, self.desks.now_us),
            *last_totals(self.log),
            *untrue_freshness(self.desks.said, charges, self.stream.control),
        ]

    def _pause_a_worker(self) -> None:
        """In the middle of saying what will not be true any more when it wakes; and another loses all that it had, and
        is to be silent about it."""
        self.publish(30)
        for member in list(self.members):
            self._step(member)
            self._attempt(member, member.meter.finish)
        self.desks.pause_one_that_speaks()
        self.desks.hand_over()
        self.publish(30)

    def _step(self, member: Member) -> bool:
        return bool(self._attempt(member, member.meter.step))

    def _attempt(self, member: Member, act: Any) -> Any:
        """None when the meter died of it, or before it: of a rebalance that another one's death was the reason of."""
        if member not in self.members:
            return None
        try:
            return act()
        except (Died, Fenced):
            self.kill(member)
            self.rebalance()
            return None


def _message(entry: Entry, partitions: int) -> Message:
    return Message(entry.key, entry.value, entry.all_headers, partition=entry.partition(partitions))
