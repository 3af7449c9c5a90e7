"""The event logs that pass the contract. A twin is added here; `test_event_log.py` stays as it is."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

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


STORES: dict[str, Callable[[Path], Store]] = {"sqlite": SqliteStore}
