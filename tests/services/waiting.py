"""Waiting for what other threads and processes do."""

from __future__ import annotations

import threading
from collections.abc import Callable


def until(condition: Callable[[], bool], deadline_s: float = 10.0) -> None:
    """Waits for a condition, looking every few milliseconds; fails at the deadline."""
    tick = threading.Event()
    for _ in range(int(deadline_s / 0.005)):
        if condition():
            return
        tick.wait(0.005)
    raise AssertionError(f"not so within {deadline_s} s")
