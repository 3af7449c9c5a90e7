"""Responses without an end: they hear of it when the server is to end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Streams:
    """The open streams of one application. Belongs to the server's event loop."""

    def __init__(self) -> None:
        self.ending = False
        self._waiting: set[asyncio.Event] = set()

    @contextmanager
    def ended_by(self, event: asyncio.Event) -> Iterator[None]:
        """While the context lasts, `event` is set when the server is to end."""
        self._waiting.add(event)
        try:
            yield
        finally:
            self._waiting.discard(event)

    def end(self) -> None:
        """Streams end at their next line; those that begin from now on have none."""
        self.ending = True
        for event in self._waiting:
            event.set()
