"""A process that commits units to a lake until it is killed: `python -m tests.warehouse.committing FOLDER`.

It says "committed" after each commit.
"""

from __future__ import annotations

import sys
from pathlib import Path

from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.lake_ledger import LakeLedger
from tests.ledger_units import Shape, joined, unit

PARTITIONS = 2


def lake_config(folder: Path) -> LakeConfig:
    return LakeConfig(folder / "lake.sqlite", folder / "data")


def main(folder: Path) -> None:
    ledger = LakeLedger(Lake.open(lake_config(folder)))
    ledger.seed(PARTITIONS)
    while True:
        positions = ledger.positions()
        shapes = [Shape(partition=p, seed=2 * positions[p].next_offset + p) for p in range(PARTITIONS)]
        ledger.commit(joined([unit(shape, positions[shape.partition]) for shape in shapes]))
        print("committed", flush=True)  # what the test waits for


if __name__ == "__main__":
    main(Path(sys.argv[1]))
