"""The feed of a gate that does not reach the log: budget states over HTTP."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any, Final

import httpx
import structlog

from meterhouse.ingest.log_limits import MAX_RECORD_BYTES
from meterhouse.streams.gate import Taker
from meterhouse.streams.gate_feed import Feed, Interrupted
from meterhouse.streams.gate_wire import LINE_EVERY_S, read_line

PATH: Final = "/v1/budget-states"
TIMEOUT: Final = httpx.Timeout(5.0, read=3 * LINE_EVERY_S)
MAX_LINE_BYTES: Final = MAX_RECORD_BYTES + 64 * 1024
"""A record of the largest size, its key, and what is around them."""

_log = structlog.get_logger("meterhouse.gate")


class HttpFeed(Feed):
    """Reads from Meterhouse's HTTP API at `url` ("https://meterhouse.example"). Each connection begins with all there
    is, which replaces what was known before.

    `client` makes the HTTP client of a connection: the place for a certificate or a token.
    """

    def __init__(self, url: str, gate: Taker, *, client: Callable[[], httpx.Client] = httpx.Client) -> None:
        super().__init__(gate)
        self._url = url.rstrip("/") + PATH
        self._client = client
        self._response: httpx.Response | None = None

    def _turn(self) -> None:
        try:
            with self._client() as client, client.stream("GET", self._url, timeout=TIMEOUT) as response:
                if response.status_code != httpx.codes.OK:
                    raise Interrupted(f"{self._url} answers {response.status_code}")
                self._response = response
                self._gate.starts_over()
                for line in _lines(response):
                    if self._stop.is_set():
                        return
                    self._take(line)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as trouble:
            raise Interrupted(f"{self._url}: {type(trouble).__name__} {trouble}") from trouble
        finally:
            self._response = None
        raise Interrupted(f"{self._url}: the stream ended")

    def _take(self, line: bytes) -> None:
        """A line that makes no sense costs only itself."""
        try:
            said = read_line(line)
        except ValueError as wrong:
            _log.error("line skipped", reason=str(wrong))
            return
        if said.record is not None:
            self._gate.take(*said.record)
        if said.caught_up:
            self._all_taken()

    def _interrupt(self) -> None:
        """Wakes the thread from its read: closing the response would not."""
        response = self._response
        stream: Any = None if response is None else response.extensions.get("network_stream")
        connection = None if stream is None else stream.get_extra_info("socket")
        if connection is not None:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                _log.debug("the stream had ended")

    def _end(self) -> None:
        pass  # a connection ends with its turn


def _lines(response: httpx.Response) -> Iterator[bytes]:
    """The lines of a stream as they come. Raises Interrupted for one that is too long."""
    rest = b""
    for chunk in response.iter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        yield from filter(None, lines)
        if len(rest) > MAX_LINE_BYTES:
            raise Interrupted(f"a line of more than {MAX_LINE_BYTES} bytes: not a stream of budget states")
