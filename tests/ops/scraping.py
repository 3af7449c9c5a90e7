"""What real processes say at `/metrics`: every worker in a process of its own on an embedded home, then its server."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

from meterhouse.ingest.log import USAGE_EVENTS, Message
from meterhouse.ingest.sqlite_log import SqliteLog
from tests.e2e.house import COMMAND, CONTROL, DEADLINE_S, House, environment
from tests.services.waiting import until

WORKERS: Final = ("meter", "budget-worker", "alert-sender")
ADMISSION: Final = {"tenant": "acme-retail", "application": "assistant", "model": "atlas-large", "max_cost": "0.01"}


@dataclass
class Scrape:
    """Samples of one process: (name, labels) → value."""

    text: str
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str) -> Self:
        families = text_string_to_metric_families(text)
        found = ((each.name, frozenset(each.labels.items()), each.value) for one in families for each in one.samples)
        return cls(text, {(name, labels): value for name, labels, value in found})

    def total(self, name: str, **labels: str) -> float:
        """Of all samples with these labels."""
        wanted = labels.items()
        return sum(value for (each, told), value in self.samples.items() if each == name and wanted <= set(told))

    def labels(self) -> dict[str, set[str]]:
        """By name of a sample: its labels."""
        found: dict[str, set[str]] = {}
        for name, told in self.samples:
            found.setdefault(name, set()).update(label for label, _ in told)
        return found


@dataclass(frozen=True)
class Running:
    """A process, and where it answers."""

    url: str

    def scrape(self) -> Scrape:
        return Scrape.of(httpx.get(f"{self.url}/metrics", timeout=60).text)

    def scraped_when(self, is_there: Callable[[Scrape], bool]) -> Scrape:
        """The first scrape of which this is so."""
        kept: list[Scrape] = []

        def look() -> bool:
            kept[:] = [self.scrape()]
            return is_there(kept[0])

        until(look, DEADLINE_S)
        return kept[0]


@contextmanager
def running(home: Path, *command: str, settings: Mapping[str, str]) -> Iterator[Running]:
    """A command that goes on, from when it says where it answers."""
    with subprocess.Popen(
        [*COMMAND, "--home", str(home), *command], stderr=subprocess.PIPE, text=True, env=environment(settings)
    ) as process:
        try:
            assert process.stderr is not None
            said = ""
            while (port := re.search(r'"port": ?(\d+)|127\.0\.0\.1:(\d+) ', said)) is None:
                line = process.stderr.readline()
                assert line, said
                said += line
            yield Running(f"http://127.0.0.1:{port[1] or port[2]}")
        finally:
            process.terminate()
            process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0


def scrapes(home: Path) -> dict[str, Scrape]:
    """Of each command, a scrape once it has done something of everything that it does."""
    house, found = House(home), dict[str, Scrape]()
    house.run("apply", str(CONTROL))
    house.run("simulate", "--events", "400", "--seed", "3")
    with closing(SqliteLog(home / "log.sqlite", clock=lambda: 1_700_000_000_000_000)) as log:
        log.append(USAGE_EVENTS, [Message(None, b"{rubbish")])
    with ExitStack() as open_:
        there = {
            name: open_.enter_context(running(home, name, settings={"METERHOUSE_METRICS_PORT": "0"}))
            for name in WORKERS
        }
        found["meter"] = there["meter"].scraped_when(lambda scrape: scrape.total("meterhouse_rejects_total") > 0)
        found["budget-worker"] = there["budget-worker"].scraped_when(
            lambda scrape: scrape.total("meterhouse_budget_states_said_total") > 0
        )
        found["alert-sender"] = there["alert-sender"].scraped_when(
            lambda scrape: "meterhouse_uncommitted_records" in scrape.labels()
        )
    with running(home, "serve", "--port", "0", settings={}) as server:
        assert httpx.post(f"{server.url}/v1/admissions", json=ADMISSION, timeout=60).status_code in (200, 429)
        found["serve"] = server.scraped_when(lambda scrape: "meterhouse_lag_records" in scrape.labels())
    return found
