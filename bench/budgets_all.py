"""`make bench-budgets`: budgets in real time, on a real Kafka; each bench in a process and on a broker of its own.

`ARGS="freshness alerts"` runs only these; `--long` runs longer ones. Needs Java and Maven.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Final

BENCHES: Final = {
    "freshness": ("bench.budgets_freshness", ["45"]),
    "alerts": ("bench.budgets_alerts", ["400"]),
    "worker": ("bench.budgets_worker", ["20"]),
    "control": ("bench.budgets_control", ["20"]),
    "overspend": ("bench.budgets_overspend", ["--long"]),
    "admit": ("bench.admit", []),
    "admissions": ("bench.admissions", ["--requests", "20000"]),
}
"""By name: the module, and its arguments for longer."""


def main() -> None:
    chosen = [name for name in sys.argv[1:] if name != "--long"] or list(BENCHES)
    if unknown := [name for name in chosen if name not in BENCHES]:
        raise SystemExit(f"no such bench: {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    failed = []
    for name in chosen:
        module, longer = BENCHES[name]
        command = [sys.executable, "-m", module, *(longer if "--long" in sys.argv[1:] else [])]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
