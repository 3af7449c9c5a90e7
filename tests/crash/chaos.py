"""Chaos by seed: meters, publishers, brokers and the database are struck at random moments while a stream runs through.

What happens when is drawn from the seed; what that meets is up to the machine, so a run repeats in kind, not to the
microsecond. Its log says every stroke. `run` returns when so many kills were made or the time is over, everything
stands again, the stream is published to its end and metered to its end.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from threading import Thread
from typing import Final

from meterhouse.api.wiring import House
from meterhouse.ingest.log import USAGE_EVENTS
from tests.crash.checks import differences
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
GROWTHS: Final = 3
"""Of the topic's partitions, in one run: more would be many partitions and few events."""
SMALL_FILE: Final = 600
"""Bytes: no Parquet file is so small."""


class Chaos:
    """One run."""

    def __init__(self, rig: Rig, stream: Stream, seed: int) -> None:
        self.rig, self.stream, self.rng = rig, stream, random.Random(seed)
        self.outcome = Outcome(seed)
        self._meters: list[Child] = []
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
        self.outcome.seconds = time.monotonic() - self._begin_s
        self.outcome.events, self.outcome.records = self.stream.events, len(self.stream.records)
        return self.outcome

    # -- between strokes -----------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """Waits a drawn moment, short more often than long, and sees to what has ended meanwhile."""
        until = time.monotonic() + self.rng.choice((0.05, 0.2, 0.5, 1.0, 3.0)) * self.rng.uniform(0.5, 1.5)
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
        for child in [each for each in self._meters if not each.is_running]:
            self._meters.remove(child)
            code = child.code(1)
            self.outcome.left[code] += 1
            self._say("left by itself", child.pid, code)
        self.outcome.resident_bytes = max(
            [self.outcome.resident_bytes, *(child.resident_bytes() for child in self._meters)]
        )
        self._keep_publishing(new_segments=True)
        self._fill_up()

    def _fill_up(self) -> None:
        while len(self._meters) < self.rig.meters[0]:
            self._start_meter()

    def _start_meter(self) -> None:
        child = self._nursery.start([CLI, *self.rig.meter], self.rig.environment)
        self._meters.append(child)
        self._say("started", child.pid)

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
        strokes: dict[str, tuple[float, Callable[[], bool]]] = {
            "kill": (60, self._kill),
            "pause": (6, self._pause),
            "stop": (8, self._stop),
            "join": (4, self._join),
            "kill_publisher": (8, self._kill_publisher),
            "kill_broker": (4, self._kill_broker),
            "restart_database": (3, self._restart_database),
            "fill_disk": (4, self._fill_disk),
            "grow": (2, self._grow),
        }
        [name] = self.rng.choices(list(strokes), [weight for weight, _ in strokes.values()])
        if strokes[name][1]():
            self.outcome.strokes[name] += 1

    def _awake(self) -> list[Child]:
        paused = [child for _, child in self._asleep]
        return [child for child in self._meters if child not in paused]

    def _kill(self) -> bool:
        if not self._meters:
            return False
        child = self.rng.choice(self._meters)
        self._say("kill", child.pid, round(time.monotonic() - child.started_s, 2))
        child.kill()
        self._gone(child)
        return True

    def _gone(self, child: Child) -> None:
        child.code(GRACE_S)
        self._meters.remove(child)
        self._asleep = [each for each in self._asleep if each[1] is not child]
        self._starved = [each for each in self._starved if each[1] is not child]
        self._fill_up()

    def _pause(self) -> bool:
        """Beyond the session's end: the group gives its partitions away, and it will not know."""
        awake = self._awake()
        if not awake or len(self._asleep) > 1:
            return False
        child, pause_s = self.rng.choice(awake), self.rig.session_s + self.rng.uniform(0.5, 3.0)
        self._say("pause", child.pid, round(pause_s, 2))
        child.signal(signal.SIGSTOP)
        self._asleep.append((time.monotonic() + pause_s, child))
        if len(self._awake()) < self.rig.meters[0] and len(self._meters) < self.rig.meters[1]:
            self._start_meter()
        return True

    def _stop(self) -> bool:
        awake = [child for child in self._awake() if child not in [starved for _, starved in self._starved]]
        if not awake:
            return False
        child = self.rng.choice(awake)
        self._say("stop", child.pid)
        self._terminate(child)
        self._gone(child)
        return True

    def _terminate(self, child: Child) -> None:
        child.signal(signal.SIGTERM)
        code = child.code(GRACE_S)
        # Struck before it listens to signals, it ends as any program does.
        if code not in (0, -signal.SIGTERM):
            self.outcome.left[code] += 1
            self._say("stopped with", child.pid, code)

    def _join(self) -> bool:
        if len(self._meters) >= self.rig.meters[1]:
            return False
        self._start_meter()
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
        awake = self._awake()
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
        for child in list(self._meters):
            self._terminate(child)
            self._meters.remove(child)

    def _drain(self) -> None:
        """Reads the log to its end with a meter that nobody strikes."""
        deadline = time.monotonic() + DRAIN_S
        self._say("drain")
        while True:
            child = self._nursery.start([CLI, *self.rig.drain], self.rig.environment)
            code = child.code(max(1.0, deadline - time.monotonic()))
            self._say("drained", child.pid, code)
            assert code == 0, f"the last meter left with {code}: see {self.rig.folder / 'processes.log'}"
            if self._is_drained():
                return
            assert time.monotonic() < deadline, f"the log is not read to its end after {DRAIN_S} s"

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
        outcome.differences = differences(left)
    (rig.folder / "outcome.json").write_text(f"{outcome}\n", encoding="utf-8")
    return outcome
