"""How long a request's head may be, and how long it may take: uvicorn, with httptools, has no limit of either."""

from __future__ import annotations

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_S: Final = 15.0
"""Seconds for a whole head, from the connection or its first byte on: it fits into one packet."""
MAX_HEAD_BYTES: Final = 64 * 2**10
"""As h11 has it: eight times the longest token, and no path is long."""


class BoundedHeads(HttpToolsProtocol):
    """Closes a connection whose head is too long or too late, without an answer: such a client waits for none."""

    _slow: asyncio.TimerHandle | None = None
    _head_bytes: int | None = None  # of the head that is being read; None: none is

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_bytes is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.transport.close()

    def on_message_begin(self) -> None:
        if self._head_bytes is None:
            self._begin()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._end()
        super().on_headers_complete()

    def _begin(self) -> None:
        self._head_bytes = 0
        self._slow = self.loop.call_later(HEAD_S, self.transport.close)

    def _end(self) -> None:
        self._head_bytes = None
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None
