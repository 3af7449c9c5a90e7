"""A back-up taken under load, restored into an empty place: the log replayed, the totals are those of the original."""

from __future__ import annotations

import json
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from meterhouse.api.cli_feed import publish_workload
from meterhouse.api.clock import now_us
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House as Wired
from tests.commands import invoked
from tests.e2e.house import CONTROL, House
from tests.services.kafka import own_cluster
from tests.services.postgres import Postgres
from tests.services.s3 import S3

SPAN = ("--from", "2020-01-01T00:00:00Z", "--to", "2100-01-01T00:00:00Z")
REPORTS = (("chargeback", "--group-by", "tenant,application,model,day"), ("usage",), ("slo",))
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Site:
    """A house and what tells it where things are."""

    house: House
    settings: Mapping[str, str]

    def run(self, *words: str, code: int = 0) -> str:
        done = self.house.run(*words, code=code, settings=self.settings)
        return done.stdout if code == 0 else done.stderr

    def asked(self, *words: str) -> dict[str, Any]:
        """A report, in this process: a start of Python costs more than it."""
        done = invoked(self.house.home, *words, "--format", "json", settings=self.settings)
        assert done.exit_code == 0, done.output
        return dict(json.loads(done.stdout))

    def books(self) -> list[Any]:
        """What must be the same to the last digit, and that it balances."""
        assert self.asked("verify")["balanced"]
        assert self.asked("audit", "verify")["whole"]
        figures = [self.asked(*report, *SPAN) for report in REPORTS]
        return [{name: value for name, value in each.items() if name != "as_of"} for each in figures]

    def backed_up_under_load(self, place: str) -> dict[str, Any]:
        """A back-up while a meter commits what is published meanwhile, all of which is metered in the end."""
        self.run("simulate", "--events", "1000")
        self.run("work", "--until-idle")
        before = self._metered()
        busy = {**self.settings, "METERHOUSE_COMMIT_EVERY_S": "0.1", "METERHOUSE_MAINTAIN_EVERY_S": "0.5"}
        worker = self.house.start("work", settings=busy)
        try:
            with self._published_meanwhile():
                self._await_commits(before)
                report = json.loads(self.run("backup", "create", place, "--format", "json"))
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(PATIENCE_S)
        self.run("work", "--until-idle")
        return dict(report)

    @contextmanager
    def _published_meanwhile(self) -> Iterator[None]:
        """Some hundred events a second."""
        stop = threading.Event()
        told = {name.removeprefix("METERHOUSE_").lower(): value for name, value in self.settings.items()}

        def publish() -> None:
            with Wired(Settings(home=self.house.home, **told)) as opened:  # type: ignore[arg-type]
                for seed in count():
                    start_us = now_us() - 10_000_000
                    publish_workload(opened, events=100, seed=seed, rate=100, start_us=start_us)
                    if stop.wait(0.2):
                        return

        with ThreadPoolExecutor(1) as pool:
            publishing = pool.submit(publish)
            try:
                yield
                assert not publishing.done(), "the load ended before the back-up did"
            finally:
                stop.set()
            publishing.result(PATIENCE_S)

    def _await_commits(self, before: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self._metered() <= before:
            assert time.monotonic() < deadline, "nothing is metered"

    def _metered(self) -> int:
        return int(self.asked("usage", *SPAN)["total"]["requests"])


def test_a_home_restored_from_a_back_up_under_load_replays_the_log_to_identical_totals(tmp_path: Path) -> None:
    here, place = Site(House(tmp_path / "home"), {}), tmp_path / "backup"
    here.run("apply", str(CONTROL))
    report = here.backed_up_under_load(str(place))
    wanted = here.books()
    metered_then = sum(report["positions"].values())

    there = Site(House(tmp_path / "restored"), {})
    there.house.home.mkdir()
    for file in here.house.home.glob("log.sqlite*"):  # the log outlived the rest
        (there.house.home / file.name).write_bytes(file.read_bytes())
    assert "give --keep-log" in there.run("backup", "restore", str(place), code=1)
    there.run("backup", "restore", str(place), "--keep-log")
    assert "into an empty place only" in there.run("backup", "restore", str(place), "--keep-log", code=1)
    ends = _ends(there.house.home / "log.sqlite")
    assert 0 < metered_then < sum(ends.values())
    there.run("work", "--until-idle")
    assert there.books() == wanted

    alone = Site(House(tmp_path / "alone"), {})  # the log was lost too: what the back-up has of it is metered
    alone.run("backup", "restore", str(place))
    alone.run("work", "--until-idle")
    alone.books()
    assert metered_then <= sum(_ends(alone.house.home / "log.sqlite").values()) < sum(ends.values())


def _ends(log: Path) -> dict[int, int]:
    with closing(sqlite3.connect(log)) as connection:
        sql = "SELECT partition, next_offset FROM partitions JOIN topics ON id = topic WHERE name = 'usage.events'"
        return dict(connection.execute(sql).fetchall())


@pytest.mark.timeout(600)
def test_production_restored_from_a_back_up_under_load_replays_the_log_to_identical_totals(
    tmp_path: Path, postgres: Postgres, s3: S3
) -> None:
    with own_cluster(steady=True) as kafka:

        def site(name: str) -> Site:
            place = s3.new_place()
            return Site(
                House(tmp_path / name),
                {
                    "METERHOUSE_KAFKA_BOOTSTRAP": kafka.bootstrap,
                    "METERHOUSE_CATALOGUE": postgres.new_database(),
                    "METERHOUSE_CONTROL": postgres.new_database(),
                    **s3.settings(place),
                },
            )

        here = site("home")
        here.run("topics", "apply", "--yes")
        here.run("apply", str(CONTROL))
        place = f"{s3.new_place().url}-backup"
        here.backed_up_under_load(place)
        wanted = here.books()
        there = site("restored")
        there.run("backup", "verify", place)
        there.run("backup", "restore", place)
        there.run("work", "--until-idle")
        assert there.books() == wanted
    assert sorted(path.name for path in (tmp_path / "restored").iterdir()) == ["dedupe"]
