"""Makes each .ipynb from its source, and runs them all.

python -m tools.notebooks                    on a generated house, which is gone afterwards
python -m tools.notebooks --home DIR         on a house that is there
python -m tools.notebooks --out DIR          and leaves them there with what they show, to open or to print
python -m tools.notebooks --only-write       runs nothing
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tools.notebooks import house, pairs, running


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.notebooks", description="Makes and runs the notebooks.")
    parser.add_argument("--home", type=Path, help="run on this house instead of a generated one")
    parser.add_argument("--out", type=Path, help="leave the notebooks with what they show in this folder")
    parser.add_argument("--only-write", action="store_true", help="make each .ipynb from its source, run nothing")
    asked = parser.parse_args()
    for made in pairs.write():
        print(f"{made.name} is written", file=sys.stderr)
    if asked.only_write:
        return 0
    with tempfile.TemporaryDirectory(prefix="meterhouse-notebooks-") as folder:
        home = asked.home
        if home is None:
            home = Path(folder) / "home"
            house.fill(home)
        return running.run(home.resolve(), asked.out or Path(folder) / "run")


if __name__ == "__main__":
    sys.exit(main())
