"""Writes docs/openapi/v1.json anew: the document that every later one is held to.

python -m tools.openapi.release            refuses what breaks a program written to the last release
python -m tools.openapi.release --check    only says what would break
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from meterhouse.api.app import create_app
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from tools.openapi.compare import breaks

RELEASED: Final = Path(__file__).resolve().parents[2] / "docs" / "openapi" / "v1.json"
ADVICE: Final = """
`/v1` only adds. Keep what was released and add the new beside it; what is not to be used in new work is listed in
meterhouse/api/deprecation.py. What cannot be had so is a new version of the API, under a path of its own.
"""


def current() -> dict[str, Any]:
    """The document of the code that is here."""
    with tempfile.TemporaryDirectory() as folder, House(Settings(home=Path(folder)), writer=True) as house:
        return create_app(house).openapi()


def released() -> dict[str, Any]:
    document = json.loads(RELEASED.read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


def broken(was: dict[str, Any], now: dict[str, Any]) -> str:
    """What breaks and what to do, for whoever changed it; nothing: the change only adds."""
    found = breaks(was, now)
    return (
        "\n".join([f"{len(found)} changes break programs that use what was released:", *map(str, found), ADVICE])
        if found
        else ""
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args()
    document = current()
    if RELEASED.exists() and (said := broken(released(), document)):
        print(said, file=sys.stderr)
        return 1
    if not arguments.check:
        RELEASED.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        print(f"{RELEASED.name} has {len(document['paths'])} paths", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
