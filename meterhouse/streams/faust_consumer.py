"""Faust's consumer, but for how it hands a record over.

Faust waits for a record's hand-over to its stream or for the flow of records to be suspended, whichever comes first: in
four tasks for each record, which are half of all that a budget worker does. Mostly the stream has room, and the
hand-over is over at its first step: that step is taken here without any task.
"""

from __future__ import annotations

import types
from collections.abc import Coroutine, Generator
from typing import Any, Final

from faust.transport.drivers.aiokafka import Consumer, Transport
from mode.services import Service, WaitArgT, WaitResults
from mode.utils.times import Seconds

_HAND_OVER: Final = 2
"""What Faust's consumer waits for then: the hand-over and the suspension. All else is waited for as ever."""


class QuickHandOver(Service):
    """The waiting of a consumer."""

    # Faust's stub does not know that no time-out is None.
    async def wait_first(self, *coros: WaitArgT, timeout: Seconds = None) -> WaitResults:  # type: ignore[assignment]
        if len(coros) != _HAND_OVER or not all(isinstance(each, Coroutine) for each in coros):
            return await super().wait_first(*coros, timeout=timeout)
        hand_over: Any
        suspended: Any
        hand_over, suspended = coros
        try:
            waits_for = hand_over.send(None)
        except StopIteration as done:
            suspended.close()
            return WaitResults([hand_over], [done.value], False)
        except BaseException:
            suspended.close()
            raise
        return await super().wait_first(_rest(waits_for, hand_over), suspended, timeout=timeout)


class QuickConsumer(QuickHandOver, Consumer):
    """Faust's consumer with that waiting."""


class QuickTransport(Transport):
    """Faust's transport with that consumer."""

    Consumer = QuickConsumer


async def _rest(waits_for: Any, begun: Coroutine[Any, Any, Any]) -> Any:
    """The rest of a coroutine that has taken its first step, and now waits."""
    return await _going_on(waits_for, begun)


@types.coroutine
def _going_on(waits_for: Any, begun: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    try:
        yield waits_for
    except BaseException as thrown:
        begun.throw(thrown)
        raise
    return (yield from begun.__await__())
