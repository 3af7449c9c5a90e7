"""Checks that read everything there is: made when someone asks for one, one at a time, and shown until the next."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter
from typing import Any

from meterhouse.api.pages.words import span
from meterhouse.api.problems import Problem


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check came to, of what is seen by who sees all."""

    found: Any
    at: datetime  # when it ended
    seconds: float


class Check:
    """Its last outcome is kept in this process alone: another server, and one that starts anew, knows of none."""

    def __init__(self, what: str) -> None:
        """`what`: `The laws are`."""
        self._what = what
        self._lock = threading.Lock()
        self.last: Checked | None = None

    def make(self, find: Callable[[], Any]) -> Checked:
        """Raises Problem (`conflict`: one is being made), and what `find` raises: the last outcome then stays."""
        if not self._lock.acquire(blocking=False):
            took = f" The last took {span(self.last.seconds)}." if self.last else ""
            raise Problem("conflict", f"{self._what} being checked already.{took} Load the page again after it.")
        try:
            begun_s = perf_counter()
            found = find()
            self.last = Checked(found, datetime.now(UTC), perf_counter() - begun_s)
            return self.last
        finally:
            self._lock.release()
