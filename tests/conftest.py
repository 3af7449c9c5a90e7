"""What all tests share."""

from __future__ import annotations

from tests.oracle.traces import which

pytest_plugins = [
    "tests.services.kafka",
    "tests.services.postgres",
    "tests.services.s3",
    "tests.services.lakes",
    "tests.services.databases",
    "tests.services.receiver",
]


def pytest_report_header() -> list[str]:
    return [which()]
