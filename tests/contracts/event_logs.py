"""The event logs that pass the contract. A twin is added here; `test_event_log.py` stays as it is."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from meterhouse.ingest.kafka_log import KafkaLog
from meterhouse.ingest.log import EventLog
from meterhouse.ingest.sqlite_log import SqliteLog

NOW_US = 1_790_000_000_000_000


class Store(Protocol):
    """Where a log keeps its records. Opening it again gives another instance on the same records."""

    def open(self, group: str = "a") -> EventLog:
        """Instances of different groups read independently of each other (with Kafka: consumer groups)."""
        ...

    def new_topic(self) -> str:
        """A name that no other test uses: a real broker outlives a test."""
        ...


class SqliteStore:
    def __init__(self, folder: Path) -> None:
        self._path = folder / "log.db"
        self._numbers = itertools.count()

    def open(self, group: str = "a") -> EventLog:
        return SqliteLog(self._path, clock=lambda: NOW_US)

    def new_topic(self) -> str:
        return f"topic-{next(self._numbers)}"


class KafkaStore:
    """On a real broker. `grouped`: instances are members of a group of the test's own, else in none."""

    def __init__(self, bootstrap: str, *, grouped: bool) -> None:
        self._bootstrap = bootstrap
        self._grouped = grouped
        self._name = uuid.uuid4().hex[:12]
        self._numbers = itertools.count()

    def open(self, group: str = "a") -> EventLog:
        return KafkaLog(self._bootstrap, group=f"{self._name}-{group}" if self._grouped else None)

    def new_topic(self) -> str:
        return f"{self._name}-{next(self._numbers)}"


def _kafka(request: pytest.FixtureRequest, *, grouped: bool) -> Store:
    return KafkaStore(request.getfixturevalue("kafka_bootstrap"), grouped=grouped)


STORES: dict[str, Callable[[Path, pytest.FixtureRequest], Store]] = {
    "sqlite": lambda folder, request: SqliteStore(folder),
    "kafka": lambda folder, request: _kafka(request, grouped=True),
    "kafka, no group": lambda folder, request: _kafka(request, grouped=False),
}
