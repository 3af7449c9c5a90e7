"""How a meter comes back: at once after a kill, from the log alone, and after a long time off without eating memory."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from meterhouse.warehouse.lake import LakeError
from tests.crash.checks import differences, lake_book
from tests.crash.control_data import control_text
from tests.crash.nursery import Child, Nursery
from tests.crash.producer import publish
from tests.crash.rig import CLI, DEADLINE_S, Rig, awaited, prepared, run_command, scene
from tests.crash.stage import Stage
from tests.crash.stream import Stream, write_plan
from tests.e2e.house import environment
from tests.services.kafka import own_cluster

READY_S = 40.0
"""From SIGKILL to work, with whatever the broker needs to notice: six seconds of silence by default. It is to be ten on
a machine that does nothing else, which is for `python -m bench.recovery` to say."""
CATCH_UP_BYTES = 2 * 2**30
CATCH_UP_EVENTS = 60_000
"""Some hundred thousand with their repeats: small enough for every run of the tests, more than any buffer holds at
once with the settings below."""


@dataclass
class Town:
    """A broker, a home with a SQLite catalogue, a stream and a nursery."""

    rig: Rig
    stream: Stream
    nursery: Nursery
    pieces: int = 0

    def publish(self, events: int) -> None:
        """Publishes the next of the stream, to the end."""
        plan = self.rig.folder / f"plan-{self.pieces}.jsonl"
        self.pieces += 1
        write_plan(plan, self.stream.take(events))
        publish(self.rig.publish, plan, plan.with_suffix(".acknowledged"), 1e9)

    def meter(self, name: str = "") -> Child:
        named = {"METERHOUSE_KAFKA_INSTANCE": name} if name else {}
        return self.nursery.start([CLI, *self.rig.meter], {**self.rig.environment, **named})

    def events_read(self) -> int:
        """Events that the lake has counted; 0 where no meter has made it yet."""
        try:
            with scene(self.rig, self.stream) as left, left.lake.read() as cursor:
                [(read,)] = cursor.execute('SELECT coalesce(sum("read"), 0) FROM positions').fetchall()
                return int(read)
        except LakeError:  # it is being made
            return 0

    @property
    def events_published(self) -> int:
        return sum(read for read, _ in self.stream.records)


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    with own_cluster(steady=True) as cluster, Nursery(tmp_path / "processes.log") as nursery:
        rig = Rig(
            folder=tmp_path,
            environment=environment(
                {"METERHOUSE_HOME": str(tmp_path / "home"), "METERHOUSE_KAFKA_BOOTSTRAP": cluster.bootstrap}
            ),
            publish=cluster.bootstrap,
            meter=("meter",),
            meters=(1, 1),
            session_s=6.0,
        )
        now_us = time.time_ns() // 1_000
        control = prepared(rig, control_text(now_us), (("topics", "apply", "--yes"),))
        yield Town(rig, Stream(7, now_us, control), nursery)


@pytest.mark.parametrize("name", ["", "meter-1"], ids=["another", "itself, by its name"])
def test_a_meter_takes_over_from_one_that_was_killed(town: Town, name: str) -> None:
    town.publish(2_000)
    meter = town.meter(name)
    awaited("the first events are committed", lambda: town.events_read() >= town.events_published)
    meter.kill()
    killed_s = time.monotonic()
    meter.code(DEADLINE_S)
    town.publish(50)
    successor = town.meter(name)
    awaited("the next events are committed", lambda: town.events_read() >= town.events_published, READY_S)
    print(f"\nfrom SIGKILL to the next commit: {time.monotonic() - killed_s:.1f} s")
    successor.signal(signal.SIGTERM)
    assert successor.code(DEADLINE_S) == 0


def test_a_meter_that_was_off_catches_up_with_bounded_memory(town: Town) -> None:
    town.publish(CATCH_UP_EVENTS)
    begin = time.monotonic()
    meter, most = town.meter(), 0

    def is_done() -> bool:
        nonlocal most
        most = max(most, meter.resident_bytes())
        return town.events_read() >= town.events_published

    awaited("all that was published meanwhile is committed", is_done)
    print(f"\n{town.events_published:,} events in {time.monotonic() - begin:.1f} s, at most {most >> 20} MB resident")
    meter.signal(signal.SIGTERM)
    assert meter.code(DEADLINE_S) == 0
    assert most <= CATCH_UP_BYTES
    with scene(town.rig, town.stream) as left:
        assert differences(left) == []


def test_the_log_read_from_its_beginning_into_an_empty_lake_makes_the_same_books(town: Town, tmp_path: Path) -> None:
    town.publish(3_000)
    run_command(town.nursery, town.rig, town.rig.drain, DEADLINE_S)
    again = Rig(
        **{
            **vars(town.rig),
            "environment": {
                **town.rig.environment,
                "METERHOUSE_HOME": str(tmp_path / "again"),
                "METERHOUSE_KAFKA_GROUP": "meterhouse-again",
            },
        }
    )
    run_command(town.nursery, again, ("apply", str(tmp_path / "control.yaml")))
    run_command(town.nursery, again, again.drain, DEADLINE_S)
    assert books_of(again, town.stream) == books_of(town.rig, town.stream)


def books_of(rig: Rig, stream: Stream) -> Any:
    with scene(rig, stream) as left, left.lake.read() as cursor:
        return [lake_book(cursor, table) for table in ("charges", "rollup_minute")]


def test_an_embedded_log_read_from_its_beginning_makes_the_same_books(tmp_path: Path) -> None:
    with Stage(tmp_path, 4, time.time_ns() // 1_000) as stage:
        stage.play(80)
        assert stage.end() == []
        before = stage.books()
        stage.start_anew(tmp_path / "again")
        assert stage.end(more_events=False) == []
        assert stage.books() == before
