"""A generated house for notebooks: the demo's control data and months of a seeded workload that grows, through the real
pipeline."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
COMMAND: Final = (sys.executable, "-m", "meterhouse")
SEED: Final = 7
PARTS: Final = (6_000, 7_000, 8_500)
"""Events in each third of the time, so that there is growth to be seen."""
PART_DAYS: Final = 32
"""Three of them hold two whole months, whatever day it is."""


def fill(home: Path) -> None:
    """Lays out a fresh home that ends now."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("METERHOUSE_")}
    for words in commands():
        subprocess.run([*COMMAND, "--home", str(home), *words], cwd=ROOT, env=environment, check=True)


def commands() -> Iterator[list[str]]:
    """What is typed for it."""
    yield ["apply", str(ROOT / "meterhouse" / "api" / "demo.yaml")]
    begin = datetime.now(UTC) - timedelta(days=PART_DAYS * len(PARTS))
    for number, events in enumerate(PARTS):
        start, rate = begin + timedelta(days=PART_DAYS * number), f"{events / (PART_DAYS * 86_400):.9f}"
        yield [
            *("simulate", "--events", str(events), "--seed", str(SEED + number), "--rate", rate),
            *("--start", f"{start:%Y-%m-%dT%H:%M:%SZ}"),
        ]
    yield ["work", "--until-idle"]
