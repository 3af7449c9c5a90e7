"""Files over HTTP that are written while they are read: never half a file without a sign."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Final

from anyio import CapacityLimiter, from_thread, to_thread
from fastapi import Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from meterhouse.api.problems import Problem

AT_ONCE: Final = 4
"""Downloads of one server at a time: each holds a read of the lake, a thread and some tens of megabytes."""
STUCK_S: Final = 60.0
"""A reader that takes nothing for so long is gone: what it reads would keep old files of the lake alive."""


class Downloads:
    """How many downloads one application has under way. Belongs to the server's event loop."""

    def __init__(self) -> None:
        self.limiter = CapacityLimiter(AT_ONCE)

    def check_room(self) -> None:
        """Raises Problem (`unavailable`) when there are AT_ONCE already."""
        if self.limiter.borrowed_tokens >= AT_ONCE:
            raise Problem(
                "unavailable",
                f"This server has {AT_ONCE} downloads under way, as many as it may. Try again when one has ended.",
                headers={"Retry-After": "30"},
            )


class ReaderGone(Exception):
    """Whoever asked has closed the connection or takes nothing any more, or the server ends."""


class Download(Response):
    """Pieces as they come, written by one thread of their own.

    An error before the first piece is an answer like any other. After it the connection is cut before the end of the
    body, which every client of HTTP takes for an error: a file that came to its end is whole.
    """

    def __init__(
        self, request: Request, downloads: Downloads, pieces: Iterator[bytes], head: Callable[[], Mapping[str, str]]
    ) -> None:
        """`head` is asked for the headers when the first piece is there. Raises Problem (`unavailable`)."""
        downloads.check_room()
        super().__init__()
        del self.headers["content-length"]
        self._request = request
        self._downloads = downloads
        self._pieces = pieces
        self._head = head

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def pass_on(piece: bytes) -> None:
            nonlocal begun
            # A server that is to end does not wait for whole files.
            if self._request.app.state.streams.ending or await self._request.is_disconnected():
                raise ReaderGone
            if not begun:
                begun = True
                self.headers.update(self._head())
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                async with asyncio.timeout(STUCK_S):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            except TimeoutError:
                raise ReaderGone from None

        def write() -> None:
            with closing(self._pieces):  # type: ignore[type-var]  # a generator
                for piece in self._pieces:
                    from_thread.run(pass_on, piece)

        try:
            await to_thread.run_sync(write, limiter=self._downloads.limiter)
        except ReaderGone:
            return  # without an end of the body: the connection is cut
        await send({"type": "http.response.body", "body": b"", "more_body": False})
