"""A real `meterhouse serve` as a bench runs it, in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

COMMAND: Final = (sys.executable, "-m", "meterhouse")
LEAVE_S: Final = 120.0
"""For the last commit of what it has read."""


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that runs: where it listens (`host:port`), and its process."""

    address: str
    pid: int


def run_command(home: Path, *arguments: str) -> None:
    """Runs a command of Meterhouse's to its end."""
    subprocess.run([*COMMAND, "--home", str(home), *arguments], check=True, capture_output=True)


def apply_control(home: Path, control: str) -> None:
    """Puts a control file's text in force; the file stays beside the home."""
    file = home.with_name("control.yaml")
    file.write_text(control, encoding="utf-8")
    run_command(home, "apply", str(file))


@contextmanager
def serving(home: Path, settings: Mapping[str, str] | None = None) -> Iterator[Serving]:
    """A server over the home; ended as an operator would. `settings`: more of its environment. What it says after it
    has begun is in `serve.log` beside the home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("METERHOUSE_")}
    said = home.with_name("serve.log")
    with said.open("wb") as out:
        server = subprocess.Popen(
            [*COMMAND, "--home", str(home), "serve", "--port", "0"], stderr=out, env=kept | dict(settings or {})
        )
    try:
        yield Serving(_address(server, said), server.pid)
    finally:
        server.terminate()
        server.wait(LEAVE_S)


def _address(server: subprocess.Popen[bytes], said: Path) -> str:
    while server.poll() is None:
        if (found := re.search(r"serving http://(\S+)", said.read_text())) is not None:
            return found[1]
        try:
            server.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    raise SystemExit(f"the server did not start: {said.read_text()[-2_000:]}")
