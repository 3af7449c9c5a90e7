"""A nurse's children are processes like any other: their codes, signals and environments are their own."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.nursery import Nursery
from tests.crash.rig import CLI
from tests.e2e.house import environment

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nursery") / "processes.log"


@pytest.fixture(scope="module")
def nursery(log: Path) -> Iterator[Nursery]:
    with Nursery(log) as made:
        yield made


def test_a_childs_exit_code_is_that_of_its_command(nursery: Nursery) -> None:
    done, refused = (nursery.start([CLI, *arguments], environment()) for arguments in (["--help"], ["no-such-command"]))
    assert (done.code(DEADLINE_S), refused.code(DEADLINE_S)) == (0, 2)


def test_a_killed_child_says_so_and_is_not_signalled_again(nursery: Nursery, tmp_path: Path) -> None:
    child = nursery.start([CLI, "work"], environment({"METERHOUSE_HOME": str(tmp_path)}))
    assert child.is_running
    assert child.resident_bytes() > 0
    child.kill()
    assert child.code(DEADLINE_S) == -signal.SIGKILL
    child.kill()
    assert child.resident_bytes() == 0


def test_an_environment_is_one_childs_alone(nursery: Nursery, tmp_path: Path) -> None:
    homes = [tmp_path / name for name in ("one", "two")]
    for home in homes:
        child = nursery.start([CLI, "work", "--until-idle"], environment({"METERHOUSE_HOME": str(home)}))
        assert child.code(DEADLINE_S) == 0
    assert all((home / "log.sqlite").exists() for home in homes)
