"""How records are handed over to a stream: at once where it has room, and never beyond a suspension."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from mode.services import WaitResults

from meterhouse.streams.faust_consumer import QuickHandOver


def waited(
    hand_over: Callable[[], Awaitable[Any]], suspend: Callable[[asyncio.Event], None]
) -> tuple[WaitResults, int]:
    """What came of waiting for a hand-over or a suspension, and how many tasks were at work on it."""

    async def run() -> tuple[WaitResults, int]:
        flow = asyncio.Event()
        most = 0

        async def looked_at() -> Any:
            nonlocal most
            found = await hand_over()
            most = len(asyncio.all_tasks())
            return found

        suspend(flow)
        waiting = QuickHandOver()
        return await waiting.wait_first(looked_at(), flow.wait()), most

    return asyncio.run(run())


async def at_once() -> str:
    return "taken"


async def a_little_later() -> str:
    for _ in range(3):
        await asyncio.sleep(0)
    return "taken"


async def never() -> str:
    await asyncio.Event().wait()
    return "taken"


async def fails_at_once() -> str:
    raise ValueError("no room")


async def fails_later() -> str:
    await asyncio.sleep(0)
    raise ValueError("no room")


def goes_on(_: asyncio.Event) -> None:
    pass


def test_a_stream_with_room_takes_a_record_without_a_task_of_its_own() -> None:
    results, tasks = waited(at_once, goes_on)
    assert (results.results, results.stopped, tasks) == (["taken"], False, 1)


def test_a_stream_that_is_full_for_a_moment_takes_it_then() -> None:
    results, _ = waited(a_little_later, goes_on)
    assert (results.results, results.stopped) == (["taken"], False)


def test_a_suspension_ends_the_waiting_for_a_full_stream() -> None:
    results, _ = waited(never, lambda flow: asyncio.get_running_loop().call_soon(flow.set))
    assert (results.results, results.stopped) == ([True], False)


@pytest.mark.parametrize("hand_over", [fails_at_once, fails_later])
def test_what_a_hand_over_raises_is_raised(hand_over: Callable[[], Awaitable[Any]]) -> None:
    with pytest.raises(ValueError, match="no room"):
        waited(hand_over, goes_on)
