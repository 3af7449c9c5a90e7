"""An application behind a real socket of this machine."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from fastapi import FastAPI

from meterhouse.api.server import Server
from meterhouse.api.settings import Settings


@contextmanager
def served(app: FastAPI, port: int = 0, settings: Settings | None = None) -> Iterator[httpx.Client]:
    """A client of the application, which is served meanwhile."""
    listening = socket.create_server(("127.0.0.1", port))
    with httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}") as client:
        server = Server(app, settings or Settings())
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield client
        finally:
            server.should_exit = True
            thread.join()
