"""Meterhouse as its users have it: the command line over a home folder.

What works on a home runs in a process of its own. What only reads, or publishes and leaves, is asked in this process,
through the same command line: a start of Python costs more. README's test and production's start a process for each.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.commands import invoked

CONTROL = Path(__file__).with_name("control.yaml")
START = "2026-03-28T22:40:00Z"
"""Where the traces are laid: long past, so that a test that would need today's date fails today. An hour from here
crosses midnight in Berlin, and the moments of control.yaml at which prices change."""
SPAN = ("--from", "2026-03-01T00:00:00Z", "--to", "2026-04-01T00:00:00Z")
DEADLINE_S = 240
SHORT = frozenset({"apply", "replay", "simulate"})
"""Commands that keep nothing running."""
COMMAND = (sys.executable, "-m", "meterhouse")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without settings that the developer at the keyboard may have."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("METERHOUSE_")}
    return kept | {"COLUMNS": "200", "NO_COLOR": "1"} | dict(extra or {})


@dataclass(frozen=True)
class House:
    home: Path

    def run(
        self, *arguments: str, code: int = 0, settings: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs one command and insists on its exit code."""
        if arguments[0] in SHORT:
            inside = invoked(self.home, *arguments, settings=settings)
            done = subprocess.CompletedProcess([*arguments], inside.exit_code, inside.stdout, inside.stderr)
        else:
            done = self._alone(arguments, settings)
        said = f"{' '.join(arguments)} left {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert done.returncode == code, said
        return done

    def _alone(self, arguments: Sequence[str], settings: Mapping[str, str] | None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, "--home", str(self.home), *arguments],
            capture_output=True,
            text=True,
            env=environment(settings),
            stdin=subprocess.DEVNULL,
            timeout=DEADLINE_S,
            check=False,
        )

    def start(self, *arguments: str, settings: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Starts one command and leaves it running, silent."""
        return subprocess.Popen(
            [*COMMAND, "--home", str(self.home), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(settings),
        )

    def ask(self, *arguments: str, code: int = 0) -> str:
        """Runs a command that only reads in this process, and returns what it printed to stdout."""
        done = invoked(self.home, *arguments)
        assert done.exit_code == code, f"{' '.join(arguments)} left {done.exit_code}\n{done.output[-3000:]}"
        return done.stdout

    def report(self, *arguments: str, span: Sequence[str] = SPAN) -> dict[str, Any]:
        """A report as JSON, of March 2026 unless said otherwise."""
        document = json.loads(self.ask(*arguments, *span, "--format", "json"))
        assert isinstance(document, dict)
        return document

    def bill(self, group_by: Sequence[str]) -> dict[str, Any]:
        """Lines and total of the chargeback: what must not depend on how the events came in."""
        report = self.report("chargeback", "--group-by", ",".join(group_by))
        return {"lines": report["lines"], "total": report["total"]}

    def listing(self, name: str, *arguments: str, span: Sequence[str] = SPAN) -> list[dict[str, Any]]:
        """The list that stands under the report's own name."""
        listed = self.report(name, *arguments, span=span)[name]
        assert isinstance(listed, list)
        return listed

    def copy(self, to: Path) -> House:
        shutil.copytree(self.home, to)
        return House(to)

    def control_rows(self) -> list[str]:
        """Every row of the control data."""
        with closing(sqlite3.connect(self.home / "control.sqlite")) as connection:
            return list(connection.iterdump())
