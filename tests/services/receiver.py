"""A receiver of alerts for tests: an HTTP server on a free port of this machine, which keeps what came."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass
class Request:
    headers: dict[str, str]
    body: bytes
    at_us: int = field(default_factory=lambda: time.time_ns() // 1_000)  # when it came


@dataclass
class Receiver:
    """Answers with `answers` in turn, the last for ever; keeps what came."""

    url: str
    answers: list[int] = field(default_factory=lambda: [204])
    requests: list[Request] = field(default_factory=list)
    hold: threading.Event | None = None  # an answer waits for it

    def answer(self, request: Request) -> int:
        self.requests.append(request)
        if self.hold is not None:
            self.hold.wait(10)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(request.body) for request in self.requests]

    @property
    def ids(self) -> list[str]:
        return [body["id"] for body in self.bodies]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with own_receiver() as there:
        yield there


@contextmanager
def own_receiver() -> Iterator[Receiver]:
    """A second receiver for a test."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status = there.answer(Request(headers, body))
            try:
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()
            except OSError:
                pass  # the client gave up, as one of the tests wants

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    there = Receiver(f"http://127.0.0.1:{server.server_port}/alerts")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield there
    finally:
        if there.hold is not None:
            there.hold.set()
        server.shutdown()
        server.server_close()
        thread.join()
