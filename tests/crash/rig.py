"""What chaos strikes: where it is, how its processes are started, what came of it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from tests.crash.checks import Scene
from tests.crash.nursery import Nursery
from tests.crash.stream import Stream
from tests.oracle import books

CLI: Final = "meterhouse.api.cli"
DEADLINE_S: Final = 120.0


class Cluster(Protocol):
    """Brokers that can be struck (`tools.kafka.cluster`)."""

    brokers: int

    def kill(self, number: int) -> None: ...
    def start(self, number: int) -> None: ...


class Database(Protocol):
    def restart(self) -> None:
        """Ends it as a crash does and starts it again."""
        ...


@dataclass(frozen=True)
class Rig:
    """What is to be struck. `environment` has the METERHOUSE_* settings of every process, `publish` the address that
    the publisher takes."""

    folder: Path
    environment: Mapping[str, str]
    publish: str
    meter: tuple[str, ...]
    meters: tuple[int, int]  # at least, at most
    session_s: float
    cluster: Cluster | None = None
    database: Database | None = None
    budget_worker: tuple[str, ...] = ()  # none: the meter's process judges budgets too
    budget_workers: tuple[int, int] = (0, 0)
    drain: tuple[str, ...] = ("work", "--until-idle")
    judge: tuple[str, ...] = ("work", "--until-idle")
    topics: tuple[str, ...] = ()  # creates the topics, or more partitions of them; none: they do not grow
    plant: str = ""  # a bug that its processes have

    @property
    def settings(self) -> Settings:
        told = {name.removeprefix("METERHOUSE_").lower(): value for name, value in self.environment.items()}
        return Settings(**{name: value for name, value in told.items() if name in Settings.model_fields})  # type: ignore[arg-type]


@dataclass
class Outcome:
    """What was done and what came of it."""

    seed: int
    strokes: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(
        default_factory=Counter
    )  # exit codes of those that went by themselves, by what they were
    events: int = 0
    records: int = 0
    seconds: float = 0.0
    resident_bytes: int = 0  # the most that one of them held
    differences: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return sum(count for name, count in self.strokes.items() if name.startswith("kill"))

    def __str__(self) -> str:
        told = {
            "seed": self.seed, "kills": self.kills, "strokes": dict(self.strokes), "left": dict(self.left),
            "events": self.events, "records": self.records, "seconds": round(self.seconds, 1),
            "resident MB": self.resident_bytes >> 20, "differences": self.differences,
        }  # fmt: skip
        return json.dumps(told, indent=2)


def awaited(what: str, is_so: Callable[[], bool], deadline_s: float = DEADLINE_S) -> float:
    """Seconds until `is_so`; fails when it takes too long."""
    begin = time.monotonic()
    while not is_so():
        assert time.monotonic() - begin < deadline_s, f"{what}: not within {deadline_s} s"
        time.sleep(0.05)
    return time.monotonic() - begin


@contextmanager
def scene(rig: Rig, stream: Stream) -> Iterator[Scene]:
    """What a run left behind, opened for checks."""
    with House(rig.settings) as house:
        yield Scene(house.log, house.lake, house.control.snapshot(), stream, house.outbox)


def run_command(nursery: Nursery, rig: Rig, arguments: Sequence[str], timeout_s: float = 60.0) -> None:
    """A command of the product that must succeed."""
    code = nursery.start([CLI, *arguments], rig.environment).code(timeout_s)
    assert code == 0, f"{' '.join(arguments)} left with {code}: see {rig.folder / 'processes.log'}"


def prepared(rig: Rig, control: str, commands: Sequence[Sequence[str]] = ()) -> books.Control:
    """Runs `commands` (topics) and applies the control file, before anything is struck, and reads it."""
    path = rig.folder / "control.yaml"
    path.write_text(control, encoding="utf-8")
    with Nursery(rig.folder / "processes.log") as nursery:
        for command in (*commands, ("apply", str(path))):
            run_command(nursery, rig, command)
    return books.read_control(path)
