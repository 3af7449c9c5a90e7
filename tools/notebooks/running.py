"""Running the notebooks on a house, by nbmake."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from tools.notebooks import pairs

ROOT: Final = Path(__file__).resolve().parents[2]
CELL_S: Final = 120
"""The longest that a cell may take: on a generated house each is done within seconds."""


def run(home: Path, out: Path) -> int:
    """Runs a copy of each in `out`, which then has what it shows. Returns 0 when all ran to their end."""
    out.mkdir(parents=True, exist_ok=True)
    for source in pairs.sources():
        shutil.copy(source.with_suffix(".ipynb"), out)
    # They import what is beside their sources.
    paths = os.pathsep.join([str(pairs.FOLDER), str(ROOT)])
    command = [
        *(sys.executable, "-m", "pytest", "--nbmake", "--overwrite", f"--nbmake-timeout={CELL_S}"),
        *("-n", "0", "-p", "no:cacheprovider", "-q", "--rootdir", str(out), "-c", os.devnull),
        *(str(out / f"{source.stem}.ipynb") for source in pairs.sources()),
    ]
    settings = {"METERHOUSE_HOME": str(home), "PYTHONPATH": paths, "JUPYTER_PLATFORM_DIRS": "1"}
    return subprocess.run(command, cwd=out, env=os.environ | settings, check=False).returncode
