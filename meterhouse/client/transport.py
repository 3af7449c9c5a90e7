"""One call: asked, asked again where that may help, and read within its limits."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import BinaryIO, Final, TypeVar

import httpx

from meterhouse.client.errors import BadAnswer, MeterhouseError, Problem, Unreachable, problem_of
from meterhouse.client.retries import Patience, may_help

MAX_ANSWER_BYTES: Final = 64 * 2**20
"""Of what is kept in memory: ten of the largest pages."""
_NEVER_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)

Answer = TypeVar("Answer")
Read = Callable[[httpx.Response, float], Answer]
Params = Mapping[str, str | int | bool | Sequence[str] | None]


@dataclass(frozen=True, slots=True)
class Call:
    """`repeatable`: doing it twice is as good as once."""

    method: str
    path: str
    params: Params = field(default_factory=dict)
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a test replaces: seconds that only grow, a wait of so many, a number between 0 and 1."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    draw: Callable[[], float] = random.random


class Transport:
    """`timeout_s`: without a byte from the server for so long, an attempt ends."""

    def __init__(self, http: httpx.Client, timeout_s: float, patience: Patience, around: Surroundings) -> None:
        self._http = http
        self._timeout_s = timeout_s
        self._patience = patience
        self._around = around

    def ask(self, call: Call) -> bytes:
        """The answer's body. Raises MeterhouseError."""

        def read(response: httpx.Response, ends_s: float) -> bytes:
            return b"".join(self._chunks(response, ends_s, MAX_ANSWER_BYTES))

        return self._patiently(call, read)

    def save(self, call: Call, file: BinaryIO) -> int:
        """Writes the answer's body to `file` as it comes, however long it is and takes, and returns its length. What is
        cut off on the way is not asked for again. Raises MeterhouseError."""

        def write(response: httpx.Response, ends_s: float) -> int:
            try:
                return sum(file.write(chunk) for chunk in response.iter_bytes())
            except httpx.TransportError as trouble:
                raise BadAnswer(f"the file was cut off: {trouble}. Ask for it again") from trouble

        return self._patiently(call, write)

    def _patiently(self, call: Call, read: Read[Answer]) -> Answer:
        around, patience = self._around, self._patience
        ends_s = around.clock() + patience.total_s
        may_be_done = False
        for attempt in count():
            try:
                return self._once(call, read, ends_s, may_be_done=may_be_done)
            except MeterhouseError as failure:
                if not may_help(failure, repeatable=call.repeatable):
                    raise
                may_be_done = may_be_done or (isinstance(failure, Unreachable) and failure.may_be_done)
                after_s = failure.retry_after_s if isinstance(failure, Problem) else None
                wait_s = patience.wait_s(attempt, after_s, around.draw())
                if wait_s is None or around.clock() + wait_s >= ends_s:
                    raise
                around.sleep(wait_s)
        raise AssertionError  # attempts are counted without end

    def _once(self, call: Call, read: Read[Answer], ends_s: float, *, may_be_done: bool) -> Answer:
        """`may_be_done`: an attempt before this one may have arrived, so what was to be deleted may be gone by it."""
        asked = f"{call.method} {call.path}"
        timeout_s = max(0.0, min(self._timeout_s, ends_s - self._around.clock()))
        params = {name: value for name, value in call.params.items() if value is not None}
        try:
            with self._http.stream(
                call.method, call.path, params=params, content=call.body, headers=call.headers, timeout=timeout_s
            ) as response:
                _tell_of_deprecation(asked, response)
                gone = response.status_code == httpx.codes.NOT_FOUND and call.method == "DELETE"
                if response.is_success or (gone and may_be_done):
                    return read(response, ends_s)
                body = b"".join(self._chunks(response, ends_s, MAX_ANSWER_BYTES))
                raise problem_of(response.status_code, response.headers, body)
        except httpx.TransportError as trouble:
            said = f"{asked}: {type(trouble).__name__} {trouble}".rstrip()
            raise Unreachable(said, may_be_done=not isinstance(trouble, _NEVER_SENT)) from trouble
        except httpx.DecodingError as trouble:
            raise BadAnswer(f"{asked}: {trouble}") from trouble

    def _chunks(self, response: httpx.Response, ends_s: float, most: int) -> Iterator[bytes]:
        size = 0
        for chunk in response.iter_bytes():
            size += len(chunk)
            if size > most:
                raise BadAnswer(f"an answer of more than {most:,} bytes: ask for a page of less, or save it to a file")
            if self._around.clock() >= ends_s:
                raise Unreachable("the answer took too long", may_be_done=True)
            yield chunk


def _tell_of_deprecation(asked: str, response: httpx.Response) -> None:
    """Once per place that asks, as Python shows warnings."""
    if (since := response.headers.get("deprecation")) is not None:
        sunset, link = response.headers.get("sunset", "not said"), response.headers.get("link", "")
        warnings.warn(
            f"{asked} is deprecated ({since}), its sunset is {sunset}: {link}", DeprecationWarning, stacklevel=6
        )
