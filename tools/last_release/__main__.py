"""Makes the data that today's code must open: a small home as a release left it, and what that release said of it.

    python -m tools.last_release REF

Run it when a release is made, with its tag or commit. Its code is taken from Git and run as it is. The home holds
metered events, rejects, a key and an audit log, and events in the log that were not metered yet: `after` has them too.
"""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parents[2] / "tests" / "upgrade"
START: Final = "2026-11-20T08:00:00Z"
SPAN: Final = ("--from", "2026-11-01", "--to", "2026-12-01", "--format", "json")
REPORTS: Final = {
    "chargeback": ("chargeback", "--group-by", "tenant,application,model", *SPAN),
    "usage": ("usage", *SPAN),
    "slo": ("slo", *SPAN),
    "rejects": ("rejects", "--limit", "100", "--format", "json"),
}


class Release:
    """The code of a release, run over a home."""

    def __init__(self, tree: Path, home: Path) -> None:
        self.tree, self.home = tree, home

    def run(self, *words: str) -> str:
        command = [sys.executable, "-m", "meterhouse.api.cli", "--home", str(self.home), *words]
        return subprocess.run(command, cwd=self.tree, check=True, capture_output=True, text=True).stdout

    def told(self) -> dict[str, Any]:
        reports = {name: json.loads(self.run(*words)) for name, words in REPORTS.items()}
        return {name: {key: part for key, part in each.items() if key != "as_of"} for name, each in reports.items()}


def main(ref: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tree, home = Path(folder) / "tree", Path(folder) / "home"
        archive = subprocess.run(["git", "archive", ref], check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as code:
            code.extractall(tree, filter="data")
        release = Release(tree, home)
        release.run("apply", "tests/e2e/control.yaml")
        release.run("keys", "create", "--role", "admin", "--name", "ann")
        for seed in range(2):
            release.run("simulate", "--events", "150", "--seed", str(seed), "--start", START, "--batch", "20")
            release.run("work", "--until-idle")
        release.run("simulate", "--events", "100", "--seed", "9", "--start", START, "--batch", "20")
        before = release.told()
        copy = Release(tree, Path(folder) / "copy")
        shutil.copytree(home, copy.home)
        copy.run("work", "--until-idle")
        commit = subprocess.run(["git", "rev-parse", ref], check=True, capture_output=True, text=True).stdout.strip()
        told = {"release": commit, "before": before, "after": copy.told()}
        (FOLDER / "told.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        _pack(home)


def _pack(home: Path) -> None:
    """Of the home what a release leaves: no caches, no locks, each database one file."""
    for name in ("control.sqlite", "log.sqlite", "lake/catalogue.sqlite"):
        with closing(sqlite3.connect(home / name, isolation_level=None)) as database:
            if name == "lake/catalogue.sqlite":  # where it was made is nobody's to know, and says nothing
                database.execute("UPDATE ducklake_metadata SET value = '/home/lake/data/' WHERE key = 'data_path'")
            database.execute("VACUUM")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with tarfile.open(FOLDER / "home.tar.xz", "w:xz") as packed:
        for path in sorted(home.rglob("*")):
            name = path.relative_to(home)
            if path.is_file() and name.parts[0] != "dedupe" and path.suffix in (".sqlite", ".parquet"):
                packed.add(path, arcname=str(name), filter=_anonymous)


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o600
    return entry


if __name__ == "__main__":
    main(sys.argv[1])
