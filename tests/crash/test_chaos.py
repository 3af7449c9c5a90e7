"""Meters, budget workers, publishers, brokers and the database are struck at random while a stream runs through, and
the books are the oracle's: nothing lost, nothing billed twice, every ledger balanced, every budget total true, every
budget's last state exact, every threshold's alert there and once.

METERHOUSE_KILLS says how often something is killed (METERHOUSE_EMBEDDED_KILLS: of an embedded home),
METERHOUSE_CRASH_MINUTES how long it may take, whichever is first; METERHOUSE_KILL_SEED repeats a run in kind. `make
crash` does the long one. A run that fails keeps its folder: all logs,
all plans, the lake.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.crash.chaos import struck
from tests.crash.control_data import control_text
from tests.crash.rig import Outcome, Rig, prepared
from tests.crash.stream import Stream
from tests.e2e.house import environment
from tests.services.kafka import own_cluster

SEED = int(os.environ.get("METERHOUSE_KILL_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
KILLS = int(os.environ.get("METERHOUSE_KILLS", "20"))
EMBEDDED_KILLS = int(os.environ.get("METERHOUSE_EMBEDDED_KILLS", "15"))
MINUTES = float(os.environ.get("METERHOUSE_CRASH_MINUTES", "1"))
SETTINGS = {"METERHOUSE_COMMIT_EVERY_S": "0.25", "METERHOUSE_MAINTAIN_EVERY_S": "1"}
SESSION_S = 2.0
"""A member that is silent for so long has left the group: short, so that much happens in a minute."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Kept when the test fails."""
    made = Path(tempfile.mkdtemp(prefix="meterhouse-crash-"))
    yield made
    if not made.exists():
        return
    outcome = made / "outcome.json"
    if outcome.exists() and '"differences": []' in outcome.read_text(encoding="utf-8"):
        shutil.rmtree(made)


def run(rig: Rig, kills: int, commands: tuple[tuple[str, ...], ...], seed: int = SEED) -> Outcome:
    print(f"\n{kills} kills or {MINUTES:g} minutes, METERHOUSE_KILL_SEED={seed}, logs in {rig.folder}")
    now_us = time.time_ns() // 1_000
    stream = Stream(seed, now_us, prepared(rig, control_text(now_us), commands))
    outcome = struck(rig, stream, seed=seed, kills=kills, seconds=60 * MINUTES)
    print(outcome)
    return outcome


def embedded(folder: Path) -> Rig:
    home = folder / "home"
    return Rig(
        folder=folder,
        environment=environment({**SETTINGS, "METERHOUSE_HOME": str(home)}),
        publish=f"sqlite:{home / 'log.sqlite'}",
        meter=("work",),
        meters=(1, 1),
        session_s=SESSION_S,
    )


@pytest.mark.crash
@pytest.mark.timeout(36_000)
def test_an_embedded_home_survives_what_chance_does_to_it(folder: Path) -> None:
    assert run(embedded(folder), EMBEDDED_KILLS, (("work", "--until-idle"),)).differences == []


@pytest.mark.crash
@pytest.mark.timeout(36_000)
def test_groups_of_meters_and_budget_workers_survive_what_chance_does_to_them(folder: Path) -> None:
    postgres = pytest.importorskip("tests.services.postgres")
    with own_cluster(brokers=3) as cluster, postgres.own_postgres() as database:
        rig = Rig(
            folder=folder,
            environment=environment(
                {
                    **SETTINGS,
                    "METERHOUSE_HOME": str(folder / "home"),
                    "METERHOUSE_KAFKA_BOOTSTRAP": cluster.bootstrap,
                    "METERHOUSE_KAFKA_SESSION_TIMEOUT_S": str(SESSION_S),
                    "METERHOUSE_REPLICATION": "3",
                    "METERHOUSE_PARTITIONS": "6",
                    "METERHOUSE_CATALOGUE": database.url("lake"),
                    "METERHOUSE_CONTROL": database.url("control"),
                }
            ),
            publish=cluster.bootstrap,
            meter=("meter",),
            meters=(2, 4),
            session_s=SESSION_S,
            budget_worker=("budget-worker",),
            budget_workers=(2, 3),
            drain=("meter", "--until-idle"),
            judge=("budget-worker", "--until-idle"),
            cluster=cluster,
            database=database,
            topics=("topics", "apply", "--yes"),
        )
        assert run(rig, KILLS, (("topics", "apply"),)).differences == []


@pytest.mark.crash
@pytest.mark.parametrize("bug", ["index_not_rebuilt_on_assignment", "offset_before_rows"])
def test_a_bug_planted_in_real_processes_is_caught(folder: Path, bug: str) -> None:
    """By one run of three: by chance a process may be killed each time before it comes to its bug."""

    def caught(attempt: int) -> bool:
        place = folder / f"run-{attempt}"
        place.mkdir()
        rig = replace(embedded(place), plant=bug)
        return run(rig, 8, (("work", "--until-idle"),), SEED + attempt).differences != []

    assert any(caught(attempt) for attempt in range(3))
    shutil.rmtree(folder)
