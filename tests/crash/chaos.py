"""Chaos by seed: meters, budget workers, publishers, brokers and the database are struck at random moments while a
stream runs through.

What happens when is drawn from the seed; what that meets is up to the machine, so a run repeats in kind, not to the
microsecond. Its log says every stroke. `run` returns when so many kills were made or the time is over, everything
stands again, the stream is published to its end and metered to its end, and its budgets are judged: first by the
workers that survived, then by one that is started anew.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from threading import Thread
from typing import Final

from meterhouse.api.wiring import House
from meterhouse.ingest.log import BUDGET_STATES, USAGE_EVENTS
from tests.crash.budget_checks import budget_differences, last_totals, records, untrue_freshness
from tests.crash.checks import billed, differences
from tests.crash.nursery import Child, Nursery
from tests.crash.rig import CLI, Outcome, Rig, run_command, scene
from tests.crash.stream import Stream, write_plan

SEGMENT_EVENTS: Final = 4_000
"""Published by one process: a few seconds, so that a killed publisher sends a piece again and not the whole stream."""
RATE: Final = 600.0
"""Records a second: two meters take many times that, so they stand at the log's end when they are not struck."""
GRACE_S: Final = 60.0
"""For a graceful end: what is buffered is committed first, and the catalogue may be away for some seconds."""
DRAIN_S: Final = 300.0
SETTLE_S: Final = 60.0
"""For the budget workers that survived: a rebalance, all that waits, and a second for what a woken one had said."""
GROWTHS: Final = 3
"""Of the topic's partitions, in one run: more would be many partitions and few events."""
SMALL_FILE: Final = 600
"""Bytes: no Parquet file is so small."""


@dataclass
class Crew:
    """Children that do the same: at least `sizes[0]` of them, at most `sizes[1]`."""

    name: str
    command: tuple[str, ...]
    sizes: tuple[int, int]
    children: list[Child] = field(default_factory=list)


class Chaos:
    """One run."""

    def __init__(self, rig: Rig, stream: Stream, seed: int) -> None:
        self.rig, self.stream, self.rng = rig, stream, random.Random(seed)
        self.outcome = Outcome(seed)
        self._meters = Crew("meter", rig.meter, rig.meters)
        self._workers = Crew("worker", rig.budget_worker, rig.budget_workers)
        self._crews = (self._meters, self._workers)
        self._asleep: list[tuple[float, Child]] = []  # until when
        self._starved: list[tuple[float, Child]] = []
        self._mending: list[Thread] = []
        self._segment = 0
        self._publisher: Child | None = None
        self._journal = (rig.folder / "chaos.log").open("a", encoding="utf-8")
        self._begin_s = time.monotonic()

    def run(self, kills: int, seconds: float) -> Outcome:
        """Strikes until there were so many kills or the time is over, then lets everything come to its end."""
        with ExitStack() as closing:
            closing.callback(self._journal.close)
            self._nursery = closing.enter_context(Nursery(self.rig.folder / "processes.log", self.rig.plant))
            closing.callback(self._end_all)
            self._keep_publishing(new_segments=True)
            self._fill_up()
            deadline = time.monotonic() + seconds
            while self.outcome.kills < kills and time.monotonic() < deadline:
                self._turn()
                self._strike()
            self._heal()
            self._drain()
            self._settle()
        self.outcome.seconds = time.monotonic() - self._begin_s
        self.outcome.events, self.outcome.records = self.stream.events, len(self.stream.records)
        return self.outcome

    # -- between strokes -----------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Waits a drawn moment, short more often than long, and sees to what has ended meanwhile."""
        until = time.monotonic() + self.rng.choice((0.05, 0.1, 0.2, 0.5, 1.0, 3.0)) * self.rng.uniform(0.5, 1.5)
        while True:
            self._look()
            left_s = until - time.monotonic()
            if left_s <= 0:
                return
            time.sleep(min(left_s, 0.1))

    def _look(self) -> None:
        now_s = time.monotonic()
        for until_s, child in [each for each in self._asleep if each[0] <= now_s]:
            self._asleep.remove((until_s, child))
            self._say("wake", child.pid)
            child.signal(signal.SIGCONT)
        for until_s, child in [each for each in self._starved if each[0] <= now_s]:
            self._starved.remove((until_s, child))
            self._say("disk is free", child.pid)
            child.limit_files(None)
        for crew in self._crews:
            for child in [each for each in crew.children if not each.is_running]:
                crew.children.remove(child)
                self._left(crew, "left by itself", child)
        held = (child.resident_bytes() for crew in self._crews for child in crew.children)
        self.outcome.resident_bytes = max([self.outcome.resident_bytes, *held])
        self._keep_publishing(new_segments=True)
        self._fill_up()

    def _left(self, crew: Crew, how: str, child: Child) -> None:
        code = child.code(1)
        self.outcome.left[f"{crew.name} {code}"] += 1
        self._say(crew.name, how, child.pid, code)

    def _fill_up(self) -> None:
        for crew in self._crews:
            while len(crew.children) < crew.sizes[0]:
                self._start(crew)

    def _start(self, crew: Crew) -> None:
        child = self._nursery.start([CLI, *crew.command], self.rig.environment)
        crew.children.append(child)
        self._say(crew.name, "started", child.pid)

    def _keep_publishing(self, *, new_segments: bool) -> None:
        if self._publisher is not None and self._publisher.is_running:
            return
        if self._publisher is not None and self._publisher.code(1) == 0:
            self._publisher = None
            self._segment += 1
        if self._publisher is None and not new_segments:
            return
        plan = self.rig.folder / f"plan-{self._segment}.jsonl"
        if not plan.exists():
            write_plan(plan, self.stream.take(SEGMENT_EVENTS))
        acknowledged = plan.with_suffix(".acknowledged")
        command = ["tests.crash.producer", self.rig.publish, str(plan), str(acknowledged), str(RATE)]
        self._publisher = self._nursery.start(command, self.rig.environment)

    # -- strokes -------------------------------------------------------------------------------------------------------

    def _strike(self) -> None:
        meters, workers = self._meters, self._workers
        strokes: dict[str, tuple[float, Callable[[], bool]]] = {
            "kill": (60, partial(self._kill, meters)),
            "pause": (6, partial(self._pause, meters)),
            "stop": (8, partial(self._stop, meters)),
            "join": (4, partial(self._join, meters)),
            "kill_worker": (18, partial(self._kill, workers)),
            "pause_worker": (5, partial(self._pause, workers)),
            "stop_worker": (3, partial(self._stop, workers)),
            "join_worker": (2, partial(self._join, workers)),
            "kill_publisher": (8, self._kill_publisher),
            "kill_broker": (4, self._kill_broker),
            "restart_database": (3, self._restart_database),
            "fill_disk": (4, self._fill_disk),
            "grow": (2, self._grow),
        }
        [name] = self.rng.choices(list(strokes), [weight for weight, _ in strokes.values()])
        if strokes[name][1]():
            self.outcome.strokes[name] += 1

    def _awake(self, crew: Crew) -> list[Child]:
        paused = [child for _, child in self._asleep]
        return [child for child in crew.children if child not in paused]

    def _kill(self, crew: Crew) -> bool:
        if not crew.children:
            return False
        child = self.rng.choice(crew.children)
        self._say("kill", crew.name, child.pid, round(time.monotonic() - child.started_s, 2))
        child.kill()
        self._gone(crew, child)
        return True

    def _gone(self, crew: Crew, child: Child) -> None:
        child.code(GRACE_S)
        crew.children.remove(child)
        self._asleep = [each for each in self._asleep if each[1] is not child]
        self._starved = [each for each in self._starved if each[1] is not child]
        self._fill_up()

    def _pause(self, crew: Crew) -> bool:
        """Beyond the session's end: the group gives its partitions away, and it will not know."""
        awake = self._awake(crew)
        if not awake or len(self._asleep) > 1:
            return False
        child, pause_s = self.rng.choice(awake), self.rig.session_s + self.rng.uniform(0.5, 3.0)
        self._say("pause", crew.name, child.pid, round(pause_s, 2))
        child.signal(signal.SIGSTOP)
        self._asleep.append((time.monotonic() + pause_s, child))
        if len(self._awake(crew)) < crew.sizes[0]:
            self._join(crew)
        return True

    def _stop(self, crew: Crew) -> bool:
        awake = [child for child in self._awake(crew) if child not in [starved for _, starved in self._starved]]
        if not awake:
            return False
        child = self.rng.choice(awake)
        self._say("stop", crew.name, child.pid)
        self._terminate(crew, child)
        self._gone(crew, child)
        return True

    def _terminate(self, crew: Crew, child: Child) -> None:
        child.signal(signal.SIGTERM)
        # Struck before it listens to signals, it ends as any program does.
        if child.code(GRACE_S) not in (0, -signal.SIGTERM):
            self._left(crew, "stopped with", child)

    def _join(self, crew: Crew) -> bool:
        if len(crew.children) >= crew.sizes[1]:
            return False
        self._start(crew)
        return True

    def _kill_publisher(self) -> bool:
        if self._publisher is None:
            return False
        self._say("kill publisher", self._publisher.pid)
        self._publisher.kill()
        return True

    def _kill_broker(self) -> bool:
        cluster = self.rig.cluster
        if cluster is None or cluster.brokers < 3 or any(thread.is_alive() for thread in self._mending):
            return False
        number, away_s = self.rng.randrange(cluster.brokers), self.rng.uniform(0.5, 6.0)
        self._say("kill broker", number, round(away_s, 1))

        def strike() -> None:
            cluster.kill(number)
            time.sleep(away_s)
            cluster.start(number)

        self._mend(strike)
        return True

    def _restart_database(self) -> bool:
        database = self.rig.database
        if database is None or any(thread.is_alive() for thread in self._mending):
            return False
        self._say("restart database")
        self._mend(database.restart)
        return True

    def _mend(self, strike: Callable[[], None]) -> None:
        self._mending = [thread for thread in self._mending if thread.is_alive()]
        thread = Thread(target=strike)
        thread.start()
        self._mending.append(thread)

    def _fill_disk(self) -> bool:
        awake = self._awake(self._meters)
        if not awake:
            return False
        child, full_s = self.rng.choice(awake), self.rng.uniform(0.5, 4.0)
        self._say("disk is full", child.pid, round(full_s, 1))
        child.limit_files(SMALL_FILE)
        self._starved.append((time.monotonic() + full_s, child))
        return True

    def _grow(self) -> bool:
        """One partition more: tenants move, and publishers learn of it when they are started again."""
        if not self.rig.topics or self.outcome.strokes["grow"] >= GROWTHS:
            return False
        if any(thread.is_alive() for thread in self._mending):
            return False  # a topic is not changed while brokers are away
        partitions = int(self.rig.environment["METERHOUSE_PARTITIONS"]) + 1
        self.rig = replace(self.rig, environment={**self.rig.environment, "METERHOUSE_PARTITIONS": str(partitions)})
        self._say("grow", partitions)
        run_command(self._nursery, self.rig, self.rig.topics)
        return True

    # -- the end -------------------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        self._say("heal")
        for thread in self._mending:
            thread.join()
        for _, child in self._starved:
            child.limit_files(None)
        for _, child in self._asleep:
            child.signal(signal.SIGCONT)
        self._starved, self._asleep = [], []
        deadline = time.monotonic() + DRAIN_S
        while self._publisher is not None:
            assert time.monotonic() < deadline, f"the stream is not published after {DRAIN_S} s"
            self._keep_publishing(new_segments=False)
            time.sleep(0.05)
        self._end(self._meters)

    def _end(self, crew: Crew) -> None:
        for child in crew.children:
            self._terminate(crew, child)
        crew.children = []

    def _drain(self) -> None:
        """Reads the log to its end with a meter that nobody strikes."""
        deadline = time.monotonic() + DRAIN_S
        self._say("drain")
        while True:
            run_command(self._nursery, self.rig, self.rig.drain, max(1.0, deadline - time.monotonic()))
            if self._is_drained():
                return
            assert time.monotonic() < deadline, f"the log is not read to its end after {DRAIN_S} s"

    def _settle(self) -> None:
        """The workers that survived come to the oracle's states and alerts by themselves: one that is started reads all
        that was said, and would put right what they left wrong. Then one is started, and must find nothing wrong."""
        self._say("settle")
        if self._workers.command:
            deadline = time.monotonic() + SETTLE_S
            with scene(self.rig, self.stream) as left:
                while (wrong := budget_differences(left, now_us())) and time.monotonic() < deadline:
                    self._say("settling", len(wrong), "differences")
                    time.sleep(0.5)
            self.outcome.differences = [f"by the workers that survived: {each}" for each in wrong]
            self._say("settled", len(wrong), "differences")
            self._end(self._workers)
        run_command(self._nursery, self.rig, self.rig.judge, DRAIN_S)

    def _is_drained(self) -> bool:
        with House(self.rig.settings) as house, house.lake.read() as cursor:
            stored = dict(cursor.execute('SELECT "partition", next_offset FROM positions').fetchall())
            return all(stored.get(p, 0) == end for p, end in house.log.end_offsets(USAGE_EVENTS).items())

    def _end_all(self) -> None:
        for thread in self._mending:
            thread.join()

    def _say(self, *what: object) -> None:
        at_s = time.monotonic() - self._begin_s
        self._journal.write(f"{at_s:9.3f} {' '.join(map(str, what))}\n")
        self._journal.flush()


def struck(rig: Rig, stream: Stream, *, seed: int, kills: int, seconds: float) -> Outcome:
    """Runs chaos, then all checks; the outcome lies beside the logs as `outcome.json`."""
    outcome = Chaos(rig, stream, seed).run(kills, seconds)
    with scene(rig, stream) as left:
        outcome.differences += [*differences(left), *budget_differences(left, now_us()), *last_totals(left.log)]
        if rig.cluster is not None:  # the embedded log keeps the last record of a key alone
            with left.lake.read() as cursor:
                charges = billed(cursor)
            outcome.differences += untrue_freshness(records(left.log, BUDGET_STATES), charges, stream.control)
    (rig.folder / "outcome.json").write_text(f"{outcome}\n", encoding="utf-8")
    return outcome


def now_us() -> int:
    return time.time_ns() // 1_000
