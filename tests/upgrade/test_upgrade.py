"""Today's code over what the last release left.

The home and what the release said of it are made by `python -m tools.last_release REF`.
"""

from __future__ import annotations

import json
import shlex
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from meterhouse.ingest.sqlite_log import SqliteLog
from meterhouse.ingest.topics import DAY_US, embedded
from meterhouse.warehouse.migrations import HEAD
from tests.blocks import blocks
from tests.commands import invoked
from tools.last_release.__main__ import FOLDER, REPORTS

TOLD = json.loads((FOLDER / "told.json").read_text(encoding="utf-8"))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home as the release left it."""
    with tarfile.open(FOLDER / "home.tar.xz") as packed:
        packed.extractall(tmp_path / "home", filter="data")
    return tmp_path / "home"


def run(home: Path, *words: str, code: int = 0) -> str:
    done = invoked(home, *words)
    assert done.exit_code == code, f"{' '.join(words)} left {done.exit_code}\n{done.output}"
    return done.stdout if code == 0 else done.output


def run_all(home: Path, *words: str) -> list[str]:
    """What a command said, word by word, on stdout and stderr."""
    done = invoked(home, *words)
    assert done.exit_code == 0, done.output
    return done.output.split()


def told(home: Path) -> dict[str, Any]:
    """What today's code says of it, as far as the release said anything."""
    reports = {name: json.loads(run(home, *words)) for name, words in REPORTS.items()}
    return {name: {key: report[key] for key in TOLD["before"][name]} for name, report in reports.items()}


def revision(home: Path) -> str:
    with closing(sqlite3.connect(home / "control.sqlite")) as database:
        return str(database.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def test_the_last_releases_home_is_opened_migrated_metered_on_and_verified(home: Path) -> None:
    kept = run(home, "keys", "list")  # control data is brought up to date by whoever opens it first
    assert "ann" in kept
    assert revision(home) == HEAD
    run(home, "work", "--until-idle")  # the lake by its writer; what was in the log is metered
    assert told(home) == TOLD["after"]
    assert json.loads(run(home, "verify", "--format", "json"))["balanced"]
    assert json.loads(run(home, "audit", "verify", "--format", "json"))["whole"]


def test_a_lake_that_no_writer_of_today_has_opened_is_not_read_yet(home: Path) -> None:
    assert "or an older one: run `meterhouse work` once" in run(home, "chargeback", code=1)


def test_what_was_upgraded_is_backed_up_and_restored(home: Path, tmp_path: Path) -> None:
    backup, there = tmp_path / "backup", tmp_path / "there"
    run(home, "work", "--until-idle")
    run(home, "backup", "create", str(backup))
    run(there, "backup", "restore", str(backup))
    assert told(there) == TOLD["after"]


def test_a_log_that_is_not_the_one_that_was_metered_is_told_at_once_and_refused_by_the_meter(
    home: Path, tmp_path: Path
) -> None:
    there, backup = tmp_path / "there", tmp_path / "backup"
    run(home, "work", "--until-idle")
    run(home, "backup", "create", str(backup), "--without-log")
    there.mkdir()
    with closing(SqliteLog(there / "log.sqlite", clock=lambda: 0)) as log:
        log.create_topics(embedded(partitions=4, retention_us=DAY_US))
    assert "it is not the log that was metered" in " ".join(
        run_all(there, "backup", "restore", str(backup), "--keep-log")
    )
    assert told(there) == TOLD["after"]
    assert "is wanted, but the log ends at 0" in run(there, "work", "--until-idle", code=1)


def test_the_commands_of_the_page_work_in_their_order(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(home, "work", "--until-idle")
    page = Path(__file__).parents[2] / "docs" / "upgrade.md"
    lines = [line for block in blocks(page) if block.language == "sh" for line in block.text.splitlines()]
    assert len(lines) == 8
    for line in lines:
        run(home, *shlex.split(line)[1:])


def test_control_data_of_a_later_version_is_refused_and_left_as_it_is(home: Path) -> None:
    run(home, "keys", "list")
    with closing(sqlite3.connect(home / "control.sqlite")) as database:
        database.execute("UPDATE alembic_version SET version_num = 'r9999'")
        database.commit()
    before = (home / "control.sqlite").read_bytes()
    said = run(home, "keys", "list", code=1)
    assert "run the version that wrote it, or a newer one" in said
    assert (home / "control.sqlite").read_bytes() == before
