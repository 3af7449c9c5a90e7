"""The HTTP server."""

from __future__ import annotations

import gc
import socket
from typing import Final

import uvicorn
from fastapi import FastAPI

from meterhouse.api.heads import BoundedHeads
from meterhouse.api.settings import Settings
from meterhouse.api.streams import Streams

GRACE_S: Final = 3
"""Requests that run when the server is to end have so long: a report takes less. A stream whose reader takes nothing is
cut off then."""


class Server(uvicorn.Server):
    """Ends without waiting for streams, which would not end by themselves."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                app, host=settings.host, port=settings.port, log_level="warning", lifespan="off",
                timeout_graceful_shutdown=GRACE_S, access_log=False, server_header=False,
                http=BoundedHeads,
                ssl_certfile=settings.tls_cert, ssl_keyfile=settings.tls_key,
            )
        )  # fmt: skip
        streams = app.state.streams
        assert isinstance(streams, Streams)
        self._streams = streams

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        # Connections inherit it; asyncio does not see that they are TCP. Without it an answer's body waits for the
        # acknowledgement of its head, 40 ms.
        for listening in sockets or ():
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        gc.freeze()  # routes and schemas stay to the end: see meterhouse.__main__
        super().run(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._streams.end()
        await super().shutdown(sockets)
