"""A group of budget workers in one process, whose rebalances, deaths and pauses are steps of a script.

The desks are the product's. Ours is the shell that brings them records, as badly as a group does: from an offset that
was committed some time ago, so that many come twice; and two may believe for a while that a partition is theirs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from meterhouse.ingest.log import BUDGET_STATES, BUDGET_TOTALS, Message
from meterhouse.ingest.sqlite_log import SqliteLog
from meterhouse.streams.alert import Alert
from meterhouse.streams.alerts import AlertOutbox
from meterhouse.streams.budget_desk import LISTEN_EVERY_US, BudgetDesk
from meterhouse.streams.control import Snapshot
from tests.crash.budget_checks import Said

TICK_US: Final = 300_000
"""Between two turns of a desk: it listens at every fourth."""
READ_RECORDS: Final = 10_000
"""All that is there: the embedded log compacts at each append, so a part of it may hold a mark without the totals that
it speaks of, which were said again behind it."""
DEATH: Final = 0.04
"""Chance of a death at whatever a desk says."""
SETTLE_ROUNDS: Final = 60
"""A few are enough; desks that contradict each other for ever have no end."""


class Died(BaseException):
    """A process that is no more: what a planted bug raises where a kill would strike it."""


class _Voice:
    """The log and the outbox as one worker has them. It may die before, within and after whatever it says; and what it
    says while it is held comes later, as from a process that was stopped on its way."""

    def __init__(self, group: Desks) -> None:
        self._group = group
        self.held: list[tuple[str, Sequence[Message]]] | None = None

    def append(self, topic: str, messages: Sequence[Message]) -> list[tuple[int, int]]:
        if self.held is not None:
            self.held.append((topic, messages))
            return []
        cut = self._group.dies_after(len(messages))
        self._group.append(topic, messages if cut is None else messages[:cut])
        if cut is not None:
            raise Died
        return []

    def add(self, alerts: Sequence[Alert]) -> int:
        cut = self._group.dies_after(1)
        added = self._group.outbox.add(alerts) if cut != 0 else 0
        if cut is not None:
            raise Died
        return added

    def __getattr__(self, name: str) -> Any:
        return getattr(self._group.log, name)


@dataclass
class DeskMember:
    """A worker of the group. `assigned`: what it knows to be its own; `wanted`: what the group will tell it."""

    desk: BudgetDesk
    voice: _Voice
    wanted: frozenset[int] = frozenset()
    assigned: frozenset[int] | None = None
    next: dict[int, int] = field(default_factory=dict)
    is_paused: bool = False


class Desks:
    """The group. `said`: all records of states in their order, since the embedded log keeps the last of a key."""

    def __init__(self, log: SqliteLog, outbox: AlertOutbox, snapshots: Callable[[], Snapshot], *, seed: int) -> None:
        self.log, self.outbox, self._snapshots = log, outbox, snapshots
        self.rng = random.Random(seed)
        self.now_us = 0
        self.members: list[DeskMember] = []
        self.said: list[Said] = []
        self.deaths = 0
        self._committed: dict[int, int] = {}
        self._is_mortal = True

    # -- what a worker meets -------------------------------------------------------------------------------------------

    def dies_after(self, messages: int) -> int | None:
        """How many of them are still said; None: it lives."""
        if not self._is_mortal or self.rng.random() >= DEATH:
            return None
        return self.rng.randrange(messages + 1)

    def append(self, topic: str, messages: Sequence[Message]) -> None:
        self.log.append(topic, messages)
        if topic == BUDGET_STATES:
            self.said += [(each.partition or 0, each.key or b"", each.value) for each in messages]

    # -- what may happen -----------------------------------------------------------------------------------------------

    def play(self) -> None:
        """One step of chance."""
        draw = self.rng.random()
        awake = [member for member in self.members if not member.is_paused]
        asleep = [member for member in self.members if member.is_paused]
        if len(awake) < 2:
            self.join()
        elif draw < 0.05:
            self.kill(self.rng.choice(awake))
        elif draw < 0.10 and not asleep:
            self.pause(self.rng.choice(awake))
        elif draw < 0.18 and asleep:
            self.wake(asleep[0])
        elif draw < 0.24:
            self.rebalance()
        else:
            self.step(self.rng.choice(awake))

    def join(self) -> None:
        voice = _Voice(self)
        desk = BudgetDesk(voice, self._snapshots, voice, lambda: self.now_us)
        self.members.append(DeskMember(desk, voice))
        self.rebalance()

    def rebalance(self) -> None:
        """Partitions anew, at random, among those that answer: each hears of it at its next step."""
        awake = [member for member in self.members if not member.is_paused]
        owners = {p: self.rng.choice(awake) for p in range(self.log.partitions(BUDGET_TOTALS))} if awake else {}
        for member in awake:
            member.wanted = frozenset(p for p, owner in owners.items() if owner is member)

    def kill(self, member: DeskMember) -> None:
        self.members.remove(member)
        self.deaths += 1
        self.rebalance()

    def pause(self, member: DeskMember) -> None:
        """As SIGSTOP on its way to say something: it is said when it wakes."""
        member.voice.held = []
        self.step(member)
        member.is_paused = member in self.members
        self.rebalance()

    def hand_over(self) -> None:
        """All partitions to one, and then to another, as when a worker leaves a group that goes on. From here on nobody
        dies."""
        self._is_mortal = False
        while sum(not member.is_paused for member in self.members) < 2:
            self.join()
        awake = [member for member in self.members if not member.is_paused]
        for owner in awake[:2]:
            for member in awake:
                member.wanted = frozenset(range(self.log.partitions(BUDGET_TOTALS)) if member is owner else ())
            for member in [each for each in awake if each in self.members]:  # a planted bug may kill
                self.step(member)

    def pause_one_that_speaks(self) -> None:
        """Pauses a worker that has a state to say, if there is one."""
        for member in [each for each in self.members if not each.is_paused]:
            self.pause(member)
            if member not in self.members:  # it died of what it was to say
                continue
            if any(topic == BUDGET_STATES and messages for topic, messages in member.voice.held or []):
                return
            self.wake(member)

    def wake(self, member: DeskMember) -> None:
        """It goes on where it was, and makes another turn before it learns of the rebalance. What it was about to say
        may come after the others have heard of that."""
        held, member.voice.held, member.is_paused = member.voice.held or [], None, False
        if self.rng.random() < 0.5:
            self._let_others_step(member)
        for topic, messages in held:
            self.append(topic, messages)
        self._attempt(member, member.desk.turn)
        self.rebalance()

    def _let_others_step(self, member: DeskMember) -> None:
        for other in [each for each in self.members if each is not member and not each.is_paused]:
            self.step(other)

    def step(self, member: DeskMember) -> None:
        self.now_us += TICK_US
        self._attempt(member, lambda: self._turn(member))

    def settle(self) -> list[str]:
        """Lets the group come to rest, with nobody struck any more; says so if it does not."""
        self._is_mortal = False
        restless = self._come_to_rest()
        for member in [each for each in self.members if each.is_paused]:
            self._wake_last(member)
        return restless or self._come_to_rest()

    def _wake_last(self, member: DeskMember) -> None:
        """It says what it was about to when the others have long heard that it is back, and is not heard again."""
        self.members.remove(member)
        for topic, messages in member.voice.held or []:
            self.append(topic, messages)

    def _come_to_rest(self) -> list[str]:
        for _ in range(SETTLE_ROUNDS):
            if all(member.is_paused for member in self.members):
                self.join()
            before = len(self.said)
            awake = [member for member in self.members if not member.is_paused]
            for member in awake:
                self.now_us += LISTEN_EVERY_US
                self.step(member)
            fresh_only = all(key.startswith(b"|fresh|") for _, key, _ in self.said[before:])
            if fresh_only and all(member.desk.idle() for member in awake):
                return []
        return [f"the budget workers say something new after {SETTLE_ROUNDS} rounds"]

    def _turn(self, member: DeskMember) -> None:
        read = 0
        for partition, at in list(member.next.items()):
            if records := self.log.read(BUDGET_TOTALS, partition, at, READ_RECORDS):
                member.desk.take(records)
                member.next[partition] = records.next_offset
                read += len(records)
        if member.assigned != member.wanted:
            member.desk.assign(member.wanted)
            member.next = {p: at for p, at in member.next.items() if p in member.wanted}
            for partition in member.wanted - member.next.keys():
                member.next[partition] = self._committed.get(partition, 0)
            member.assigned = member.wanted
        member.desk.turn(read)
        if self.rng.random() < 0.3:
            self._committed.update(member.next)

    def _attempt(self, member: DeskMember, act: Callable[[], None]) -> None:
        try:
            act()
        except Died:
            self.kill(member)
