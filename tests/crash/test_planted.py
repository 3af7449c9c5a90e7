"""The checks are worth something: meters that are right pass them under all that chance does to them, and of meters
with a planted bug none does."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import structlog

from tests.crash.desks import Died
from tests.crash.planted import BUGS, planted
from tests.crash.stage import Stage

SEEDS = (1, 2, 3)
MORE_SEEDS = range(1, 9)
"""Threads of a meter and its ledger race as they like, so a seed is not the same run twice."""
PLANTED = int(os.environ.get("METERHOUSE_PLANTED", "0")) or len(BUGS)
"""How many of the planted bugs are tried; others each time."""
TURNS = 110
"""Some ten commits, deaths and rebalances each: three seconds."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Fences and deaths are what these runs are made of: nobody needs to read of them."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.reset_defaults()


def differences(folder: Path, seed: int) -> list[str]:
    with Stage(folder, seed, time.time_ns() // 1_000) as stage:
        stage.play(TURNS)
        return stage.end()


def die() -> NoReturn:
    raise Died


@pytest.mark.parametrize("seed", SEEDS)
def test_meters_that_are_right_lose_nothing_and_bill_nothing_twice(tmp_path: Path, seed: int) -> None:
    assert differences(tmp_path, seed) == []


def drawn() -> list[str]:
    """Some of the bugs, the same ones in all processes of one test run."""
    return random.Random(os.environ.get("PYTEST_XDIST_TESTRUNUID")).sample(sorted(BUGS), PLANTED)


@pytest.mark.parametrize("bug", drawn())
def test_a_planted_bug_is_caught(tmp_path: Path, bug: str) -> None:
    found: list[str] = []
    with planted(bug, die):
        for seed in MORE_SEEDS:  # a bug that needs a bad moment may not meet one in a run
            if found:
                break
            (tmp_path / str(seed)).mkdir()
            found = differences(tmp_path / str(seed), seed)
    print(f"\n{bug}:", *found, sep="\n  ")
    assert found
