"""What the README tells a newcomer to type works."""

from __future__ import annotations

import re
import shlex
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

from meterhouse.api.settings import Settings
from meterhouse.ingest.sqlite_log import SqliteLog
from meterhouse.ingest.topics import budget_topics
from tests.blocks import ROOT, blocks
from tests.e2e.house import COMMAND, environment

README = ROOT / "README.md"
STAYS = {"demo", "serve", "meter", "budget-worker", "alert-sender"}  # they work until Ctrl-C


def typed() -> list[list[str]]:
    """Each line of the README's shell blocks, without its comment, as words."""
    lines = [line for block in blocks(README) if block.language == "sh" for line in block.text.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def test_every_setting_is_in_the_readme() -> None:
    told = set(re.findall(r"METERHOUSE_([A-Z0-9_]+)", README.read_text(encoding="utf-8")))
    assert {name.lower() for name in told} == set(Settings.model_fields)


def test_the_commands_of_the_readme_work_in_their_order(tmp_path: Path) -> None:
    commands = [words[1:] for words in typed() if words[0] == "meterhouse" and words[1] not in STAYS]
    assert len(commands) > 5
    for words in commands:
        done = subprocess.run(
            [*COMMAND, *words],
            cwd=ROOT,
            env=environment({"METERHOUSE_HOME": str(tmp_path / "home")}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"meterhouse {shlex.join(words)}\n{done.stderr[-2000:]}"


def test_the_code_of_the_readme_runs(tmp_path: Path) -> None:
    (code,) = (block.text for block in blocks(README) if block.language == "python")
    with closing(SqliteLog(tmp_path / "log.db", clock=lambda: 0)) as log:
        log.create_topics(budget_topics(1))
        names: dict[str, Any] = {"log": log}
        exec(compile(code, "README.md", "exec"), names)
    assert names["gate"].ready
    assert names["decision"].admitted


def test_every_decision_is_in_the_list() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = re.findall(r"\((\d{4}-[^)]+)\)", (folder / "README.md").read_text(encoding="utf-8"))
    assert listed == sorted(page.name for page in folder.glob("[0-9]*.md"))
