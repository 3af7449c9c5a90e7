"""What all tests share."""

from __future__ import annotations

import gc
from collections import Counter
from typing import Final

import pytest

from tests.oracle.traces import which

pytest_plugins = [
    "tests.services.kafka",
    "tests.services.postgres",
    "tests.services.s3",
    "tests.services.lakes",
    "tests.services.databases",
    "tests.services.receiver",
]

LONG: Final = (
    "tests/fuzz/test_fuzz.py",
    "tests/crash/test_chaos.py",
    "tests/isolation/test_isolation.py",
    "tests/e2e/test_backup.py",
    "tests/crash/test_planted.py",
    "tests/crash/test_recovery.py",
    "tests/stack/test_stack.py",
    "tests/e2e/test_production.py",
    "tests/kafka/test_kafka_producer.py",
    "tests/crash/test_budget_group.py",
    "tests/test_readme.py",
    "tests/crash/test_kill.py",
    "tests/kafka/test_cluster.py",
    "tests/e2e/test_workers_alone.py",
    "tests/e2e/test_lookout.py",
    "tests/warehouse/test_lake_crash.py",
    "tests/notebooks/test_notebooks.py",
)
"""Files of a few tests that take minutes, the longest first. By its number of tests such a file would be begun last,
and end alone while other workers have nothing left."""


def pytest_report_header() -> list[str]:
    return [which()]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files in the order in which `--dist loadfile --no-loadscope-reorder` gives them out: long ones, then those of
    many tests first, as xdist would have them by itself. Within a file nothing moves."""
    tests = Counter(file_of(item) for item in items)
    places = {file: place for place, file in enumerate(LONG)}
    items.sort(key=lambda item: (places.get(file_of(item), len(LONG)), -tests[file_of(item)]))


def pytest_collection_finish() -> None:
    """What is loaded by now stays: the collector need not look through it again each time it looks at everything."""
    gc.collect()
    gc.freeze()


def file_of(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]
