"""The command line in this process: for commands that a start of Python would cost more than."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import structlog
from click.testing import Result
from typer.testing import CliRunner

from meterhouse.api.cli import app


def invoked(home: Path, *words: str, settings: Mapping[str, str] | None = None) -> Result:
    """What a command over a home, and with these settings, said and left."""
    try:
        return CliRunner().invoke(app, ["--home", str(home), *words], env={"COLUMNS": "200", **(settings or {})})
    finally:
        structlog.reset_defaults()  # the command set up its log for a stream that is closed now
