"""A server of this machine that answers each connection with the next bytes of a script, whatever is asked."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

DROP = b""
"""The connection ends without an answer."""


@dataclass
class Scripted:
    url: str
    asked: list[bytes] = field(default_factory=list)  # what each connection sent

    @property
    def lines(self) -> list[str]:
        return [request.partition(b"\r\n")[0].decode() for request in self.asked]

    def values(self, name: str) -> list[str]:
        """Of a header field, of each request."""
        heads = [request.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:] for request in self.asked]
        fields = [dict(line.lower().split(": ", 1) for line in head) for head in heads]
        return [each.get(name, "") for each in fields]


def answer(status: int, body: bytes = b"", media_type: str = "application/json", **headers: str) -> bytes:
    said = {"content-type": media_type, "content-length": str(len(body)), "connection": "close"}
    said |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in said.items())
    return f"HTTP/1.1 {status} Said\r\n{head}\r\n".encode() + body


def problem(status: int, name: str, *, headers: dict[str, str] | None = None, **members: Any) -> bytes:
    document = {"type": f"/problems/{name}", "title": name, "status": status, "detail": f"about {name}", **members}
    return answer(status, json.dumps(document).encode(), "application/problem+json", **(headers or {}))


@contextmanager
def scripted(answers: Sequence[bytes]) -> Iterator[Scripted]:
    """The script's last answer is given for ever."""
    listening = socket.create_server(("127.0.0.1", 0))
    there = Scripted(f"http://127.0.0.1:{listening.getsockname()[1]}")

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return  # it was closed
            with connection:
                there.asked.append(_request(connection))
                connection.sendall(answers[min(len(there.asked), len(answers)) - 1])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield there
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def _request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65_536)
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    expected = int(lengths[0].split(b":")[1]) if lengths else 0
    while len(body) < expected:
        body += connection.recv(65_536)
    return head + b"\r\n\r\n" + body
