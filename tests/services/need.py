"""What a test does on a machine that lacks a service's program."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def skip_or_fail(reason: str) -> NoReturn:
    """Skips with one line; where METERHOUSE_REQUIRE_KAFKA is set (CI), fails."""
    if os.environ.get("METERHOUSE_REQUIRE_KAFKA"):
        pytest.fail(f"METERHOUSE_REQUIRE_KAFKA is set, and {reason}", pytrace=False)
    pytest.skip(reason)
