"""Budget states as a stream, for gates that do not reach the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import suppress
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from meterhouse.api.auth.caller import Permission
from meterhouse.api.auth.guard import CallerOf, only
from meterhouse.api.dependencies import HouseOf
from meterhouse.api.problems import Problem, responses
from meterhouse.api.streams import Streams
from meterhouse.streams.gate_hub import StateHub, Subscription, TooManySubscriptions
from meterhouse.streams.gate_wire import ALIVE, CAUGHT_UP, LINE_EVERY_S, record_line, write_line

router = APIRouter(prefix="/v1", tags=["admissions"], dependencies=only(Permission.read_budget_states))

MEDIA_TYPE: Final = "application/x-ndjson"
CHUNK_BYTES: Final = 64 * 1024  # written at a time, and one line more: what a socket takes in one go
ALIVE_S: Final = 0.8 * LINE_EVERY_S  # a promise of 5 s has room for a busy moment
STUCK_S: Final = 30.0
"""A reader that takes nothing for so long is gone, or of no use: its states would be staler than most budgets allow."""

_LINES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Lines of JSON, without end.",
        "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
    }
}


class StateStream(StreamingResponse):
    """The lines of one subscription, which it closes, until the reader goes, gets stuck, or the server ends."""

    def __init__(self, hub: StateHub, streams: Streams) -> None:
        """Raises TooManySubscriptions."""
        loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._streams = streams
        self._subscription = hub.subscribe(lambda: self._wake(loop))
        super().__init__(self._lines(), media_type=MEDIA_TYPE, headers={"cache-control": "no-store"})

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        with suppress(RuntimeError):  # the server has ended
            loop.call_soon_threadsafe(self._changed.set)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_or_give_up(message: Any) -> None:
            async with asyncio.timeout(STUCK_S):
                await send(message)

        # After a timeout the connection ends with the response.
        with self._subscription, self._streams.ended_by(self._changed), suppress(TimeoutError):
            await super().__call__(scope, receive, send_or_give_up)

    async def _lines(self) -> AsyncIterator[bytes]:
        while not self._streams.ending:
            self._changed.clear()
            for chunk in _chunks(self._subscription):
                yield chunk
            try:
                async with asyncio.timeout(ALIVE_S):
                    await self._changed.wait()
            except TimeoutError:
                yield write_line(ALIVE)


def _chunks(subscription: Subscription) -> Iterator[bytes]:
    """What is to be told, in pieces of some CHUNK_BYTES."""
    batch = subscription.drain()
    yield from _joined(write_line(record_line(*record)) for record in batch.records)
    if batch.caught_up:
        yield write_line(CAUGHT_UP)


def _joined(lines: Iterable[bytes]) -> Iterator[bytes]:
    waiting = bytearray()
    for line in lines:
        waiting += line
        if len(waiting) >= CHUNK_BYTES:
            yield bytes(waiting)
            waiting.clear()
    if waiting:
        yield bytes(waiting)


@router.get(
    "/budget-states",
    summary="Budget states as they change",
    response_class=StreamingResponse,
    responses=_LINES | responses("unauthenticated", "forbidden", "rate-limited", "unavailable"),
)
async def budget_states(request: Request, house: HouseOf, who: CallerOf) -> StreamingResponse:
    """For gates. First a line `{"partition", "key", "value"}` for all there is, then `{"caught_up": true}`, then a line
    for each change; `value` null: the key is gone. At least every five seconds there is a line, if only `{}`.

    A slow reader gets the newest value of each key; one that takes nothing for half a minute is cut off. A server has a
    hundred such streams at most: beyond them the answer is 503.

    The states of all budgets are told, so the caller must see all tenants.
    """
    if not who.view.is_whole:
        raise Problem(
            "forbidden",
            "Budget states are of all tenants, and this key or token sees some. Ask POST /v1/admissions instead, or use"
            " a gateway's key without grants.",
        )
    try:
        return StateStream(house.admissions.hub, request.app.state.streams)
    except TooManySubscriptions as full:
        raise Problem(
            "unavailable", f"{full}. Try again, or ask another server.", headers={"Retry-After": "5"}
        ) from None
