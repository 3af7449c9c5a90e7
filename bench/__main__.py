"""`make bench`: every figure, each in a process of its own so that none warms another's caches.

`ARGS="decode chain"` runs only these.
"""

from __future__ import annotations

import subprocess
import sys

BENCHES = (
    "decode",
    "stages",
    "commit",
    "chain",
    "chargeback",
    "export",
    "reconciliation",
    "memory",
    "dedupe",
    "admit",
    "admissions",
    "authentication",
    "foreign",
    "quality",
    "keep",
)


def main() -> None:
    chosen = sys.argv[1:] or list(BENCHES)
    if unknown := [name for name in chosen if name not in BENCHES]:
        raise SystemExit(f"no such bench: {', '.join(unknown)}; there are {', '.join(BENCHES)}")
    failed = [
        name for name in chosen if subprocess.run([sys.executable, "-m", f"bench.{name}"], check=False).returncode
    ]
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
