"""Real Kafka on this machine: consume → decode → validate → dedupe → rate → roll up → committed Parquet.

`make bench-kafka` (`ARGS=--long`: four times the events). Each meter is a process on a core of its own; its CPU counts
all its threads, the client library's too. The broker's CPU is reported apart. Two meters share a PostgreSQL catalogue.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

from bench.kafka_feed import arrow_messages, feed, json_messages
from bench.report import Row, show
from bench.town import cpu_s
from meterhouse.ingest.log import Message
from tests.services.postgres import own_postgres
from tools.kafka.cluster import KafkaCluster

LIMIT_S: Final = 300  # of one process; a hanging one is killed
COMMITS_AN_HOUR: Final = 3_600  # one a second, the meter's own pace where it keeps up
GOAL_FAUST: Final = 10
GOAL_BYTES: Final = 32
GOAL_TWO: Final = 1.8


@dataclass(frozen=True)
class Lane:
    """A form of records, how many events, and the goal in events per second and core."""

    name: str
    events: int
    goal: int
    messages: Callable[[int], Iterator[Message]]


LANES: Final = (
    Lane("1 event a record", 300_000, 250_000, lambda events: json_messages(events, 1)),
    Lane("100 events a record", 600_000, 400_000, lambda events: json_messages(events, 100)),
    Lane("Arrow, 2,000 events a record", 1_600_000, 900_000, lambda events: arrow_messages(events, 2_000)),
)
FAUST_EVENTS: Final = 60_000
FAUST_BOOKS: Final = {"memory": "its books lost with it", "tables": "its books in tables, so that they outlive it"}


@dataclass(frozen=True)
class Took:
    """What a process said of itself, and the broker's CPU meanwhile."""

    said: dict[str, Any]
    broker_s: float

    @property
    def per_core(self) -> float:
        return float(self.said["committed"] / self.said["cpu_s"])


def cores() -> list[int]:
    """Cores for measured processes, the last first; the broker's are the others."""
    return sorted(os.sched_getaffinity(0), reverse=True) if hasattr(os, "sched_getaffinity") else [0, 1]


def started(kafka: KafkaCluster, module: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", module, kafka.bootstrap, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a process prints last, when it has ended."""
    try:
        out, _ = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
    if process.returncode:
        raise SystemExit(f"{process.args} failed")
    line: dict[str, Any] = json.loads(out.splitlines()[-1])
    return line


def child(kafka: KafkaCluster, module: str, *arguments: str) -> Took:
    before = cpu_s(kafka.pids)
    done = said(started(kafka, module, *arguments))
    return Took(done, cpu_s(kafka.pids) - before)


def meter(kafka: KafkaCluster, folder: Path) -> Took:
    return child(
        kafka, "bench.kafka_meter", str(folder / "catalogue.sqlite"), str(folder / "data"), str(cores()[0]), "bench"
    )


def two_meters(lane: Lane, factor: int, folder: Path) -> list[Row]:
    """One meter and two on the same records, with a PostgreSQL catalogue, by the clock."""
    events = lane.events * factor
    seconds = []
    with KafkaCluster() as kafka, own_postgres() as postgres:
        feed(kafka.bootstrap, lane.messages(events))
        for count in (1, 2):
            catalogue = postgres.url(f"meters_{count}")
            took = [
                started(
                    kafka, "bench.kafka_meter", catalogue, str(folder / f"data-{count}"),
                    str(cores()[n % len(cores())]), f"bench-{count}",
                )
                for n in range(count)
            ]  # fmt: skip
            done = [said(process) for process in took]
            assert sum(one["committed"] for one in done) == events, [one["committed"] for one in done]
            seconds.append(max(one["ended_at"] for one in done) - min(one["began_at"] for one in done))
    enough = len(cores()) > 3
    note = "" if enough else f"{len(cores())} cores for both meters, broker and PostgreSQL: too few to tell"
    return [
        Row(f"two meters, {lane.name}", f"{events / seconds[1] / 1e3:,.0f} k/s by the clock",
            f"{events / seconds[0] / 1e3:,.0f} k/s with one", f"{seconds[0] / seconds[1]:.1f} ×", f"≥ {GOAL_TWO} ×"),
        *([Row(f"  {note}", "")] if note else []),
    ]  # fmt: skip


def profile(took: Took, events: int) -> Row:
    """Where the meter's CPU goes."""
    stages: dict[str, float] = took.said["stages_s"]
    each = ", ".join(f"{name} {1e6 * spent / events:.2f}" for name, spent in stages.items())
    return Row(f"  µs an event: {each}", f"{1e6 * took.said['cpu_s'] / events:.2f} µs")


def rows_of(lane: Lane, took: Took, bytes_: int, events: int) -> list[Row]:
    commits_ms = [1_000 * one for one in took.said["commits_s"]]
    cuts = quantiles(commits_ms, n=100) if len(commits_ms) > 1 else commits_ms * 99
    (files, size), (files_after, size_after) = took.said["files"], took.said["files_after"]
    hourly = files / len(commits_ms) * COMMITS_AN_HOUR
    return [
        Row(
            f"broker → committed lake, {lane.name} ({bytes_ / events:,.0f} bytes an event)",
            f"{took.per_core / 1e3:,.0f} k/s of CPU, {events / took.said['wall_s'] / 1e3:,.0f} k/s by the clock",
            "",
            f"{took.per_core / lane.goal:.0%}",
            f"≥ {lane.goal / 1e3:,.0f} k/s",
        ),
        profile(took, events),
        Row("  the broker's CPU", f"{1e6 * took.broker_s / events:.2f} µs an event"),
        Row(
            f"  {len(commits_ms)} commits, p50 / p99 by the clock", f"{cuts[49]:,.0f} / {cuts[98]:,.0f} ms"
        ),
        Row(
            "  bytes an event in the lake, before / after maintenance",
            f"{size / events:.1f} / {size_after / events:.1f}",
            "16 are the key", "", f"≤ {GOAL_BYTES}",
        ),
        Row(
            "  files, before / after maintenance", f"{files} / {files_after}", f"{hourly:,.0f} an hour, a commit/s"
        ),
    ]  # fmt: skip


def measured(lane: Lane, factor: int, folder: Path) -> list[Row]:
    """The lane's rows: a meter's and, for JSON, those of a plain Faust agent with the same records."""
    events = lane.events * factor
    with KafkaCluster() as kafka:
        if hasattr(os, "sched_setaffinity"):
            for pid in kafka.pids:
                os.sched_setaffinity(pid, set(cores()[1:]))
        bytes_ = feed(kafka.bootstrap, lane.messages(events))
        runs = []
        for name in ("first", "again"):  # the first is slowed by what the feed left the disk to do
            (folder / name).mkdir()
            runs.append(meter(kafka, folder / name))
        took = max(runs, key=lambda run: run.per_core)
        assert took.said["committed"] == events, f"{took.said['committed']} of {events} events were committed"
        rows = rows_of(lane, took, bytes_, events)
        for where, told in FAUST_BOOKS.items() if "Arrow" not in lane.name else ():
            agent = child(kafka, "bench.faust_agent", str(FAUST_EVENTS), str(folder), str(cores()[0]), where)
            ratio, speed = took.per_core / agent.per_core, f"{agent.per_core / 1e3:,.1f} k/s of CPU"
            goal = f"≥ {GOAL_FAUST} ×" if where == "tables" else ""
            rows.append(Row(f"  a plain Faust agent, {told}", speed, "", f"{ratio:.1f} ×", goal))
    return rows


def main() -> None:
    factor = 4 if "--long" in sys.argv else 1
    rows: list[Row] = []
    for lane in LANES:
        with tempfile.TemporaryDirectory() as folder:
            rows += measured(lane, factor, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        rows += two_meters(LANES[1], factor, Path(folder))
    show("Real Kafka, per core of the meter's CPU", rows)


if __name__ == "__main__":
    main()
