"""What all tests share."""

from __future__ import annotations

from tests.oracle.traces import which

pytest_plugins = ["tests.services.kafka", "tests.services.postgres"]


def pytest_report_header() -> list[str]:
    return [which()]
