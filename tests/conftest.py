"""What all tests share."""

from __future__ import annotations

from tests.oracle.traces import which


def pytest_report_header() -> list[str]:
    return [which()]
