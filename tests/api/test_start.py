"""How the program begins."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import gc, sys
sys.argv = ["meterhouse", "--help"]
from meterhouse.__main__ import main
try:
    main()
finally:
    print(gc.isenabled(), gc.get_freeze_count() > 50_000, file=sys.stderr)
"""


def test_what_modules_made_is_not_looked_through_again_and_what_comes_after_them_is() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "True True\n")
    assert "chargeback" in done.stdout
