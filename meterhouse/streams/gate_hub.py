"""One reader of `budget.states` for all that a server tells of them: its own gate, and the gates of others over HTTP.

    hub = StateHub(gate)
    with LogFeed(log, hub), hub.subscribe(wake) as subscription:
        batch = subscription.drain()

The hub keeps the newest value of each key. A subscription keeps the keys whose value it has not been given yet, and
nothing else: whoever is slow gets the newest value, and takes no more memory than there are keys.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, NamedTuple, Self

import msgspec
import structlog

from meterhouse.streams.gate import Taker
from meterhouse.streams.gate_wire import Fresh, is_fresh_key, read_said

MAX_SUBSCRIPTIONS: Final = 100
"""Each change is written once for every one of them, beside the answers to requests. More gates read the log, or ask
another server."""

_log = structlog.get_logger("meterhouse.gate")

Place = tuple[int, bytes]
"""(partition, key)."""


class TooManySubscriptions(Exception):
    """There are as many as there may be."""


class Batch(NamedTuple):
    """What a subscriber has not been given yet."""

    records: list[tuple[int, bytes, bytes | None]]
    """(partition, key, value); value None: the key is gone. Freshness is last: it speaks of the states before it."""
    caught_up: bool
    """With these records it has all that there was when it came; said once."""


class StateHub:
    """A `Taker`, filled by one feed. May be called from any thread."""

    def __init__(self, gate: Taker) -> None:
        self._gate = gate
        self._lock = threading.Lock()
        self._held: dict[Place, bytes] = {}
        self._untold: set[Place] | None = None  # of a feed that starts over: not told anew so far
        self._caught_up = False
        self._subscriptions: set[Subscription] = set()

    # --- what the feed says ---

    def starts_over(self) -> None:
        self._gate.starts_over()
        with self._lock:
            self._untold = set(self._held)
            self._caught_up = False

    def take(self, partition: int, key: bytes, value: bytes | None) -> None:
        """Tells the gate and all who subscribe. What cannot be a line of JSON is skipped, aloud."""
        self._gate.take(partition, key, value)
        try:
            _check(key, value)
        except ValueError as wrong:
            _log.error("record not relayed", partition=partition, key=repr(key[:200]), reason=str(wrong))
            return
        place = (partition, key)
        with self._lock:
            if self._untold is not None:
                self._untold.discard(place)
            self._change(place, value)
            self._wake()

    def caught_up(self) -> None:
        self._gate.caught_up()
        with self._lock:
            for place in self._untold or ():
                self._change(place, None)
            self._untold = None
            self._caught_up = True
            self._wake()

    def _change(self, place: Place, value: bytes | None) -> None:
        if self._held.get(place) == value:
            return
        if value is None:
            del self._held[place]
        else:
            self._held[place] = value
        for subscription in self._subscriptions:
            subscription.changed(place)

    def _wake(self) -> None:
        """Before the feed has caught up there is nothing to give: what it reads may be older than what was given."""
        if self._caught_up:
            for subscription in self._subscriptions:
                subscription.wake_once()

    # --- who listens ---

    def subscribe(self, wake: Callable[[], None]) -> Subscription:
        """`wake` is called, from the feed's thread, when there is something to drain. Close the subscription.

        Raises TooManySubscriptions.
        """
        with self._lock:
            if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
                raise TooManySubscriptions(f"{MAX_SUBSCRIPTIONS} streams of budget states are open, as many as may be")
            subscription = Subscription(self, wake, self._held)
            self._subscriptions.add(subscription)
            return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        with self._lock:
            self._subscriptions.discard(subscription)

    def drain(self, subscription: Subscription) -> Batch:
        """See `Subscription.drain`."""
        with self._lock:
            if not self._caught_up:
                return Batch([], caught_up=False)
            places, caught_up = subscription.taken()
            states = [place for place in places if not is_fresh_key(place[1])]
            fresh = [place for place in places if is_fresh_key(place[1])]
            return Batch([(*place, self._held.get(place)) for place in (*states, *fresh)], caught_up)

    @property
    def subscriptions(self) -> int:
        return len(self._subscriptions)

    def as_of_us(self) -> int | None:
        """All events that arrived before it are in the states; None: not known."""
        with self._lock:
            fresh = [read_said(key, value) for (_, key), value in self._held.items() if is_fresh_key(key)]
        return min((each.as_of_us for each in fresh if isinstance(each, Fresh)), default=None)


class Subscription:
    """What one subscriber has not been given yet: at most one value of each key."""

    def __init__(self, hub: StateHub, wake: Callable[[], None], held: dict[Place, bytes]) -> None:
        self._hub = hub
        self._wake = wake
        self._changed: dict[Place, None] = dict.fromkeys(held)
        self._awake = self._told_caught_up = False

    def changed(self, place: Place) -> None:
        self._changed[place] = None

    def wake_once(self) -> None:
        """Once until it is drained: a busy feed does not call again and again."""
        if not self._awake:
            self._awake = True
            self._wake()

    def taken(self) -> tuple[list[Place], bool]:
        """The changed places, which are not changed any more; is it the first time?"""
        places, first = list(self._changed), not self._told_caught_up
        self._changed, self._told_caught_up, self._awake = {}, True, False
        return places, first

    def drain(self) -> Batch:
        """All there is to tell, the newest value of each key. Empty before the hub's feed has caught up."""
        return self._hub.drain(self)

    def close(self) -> None:
        """Closing twice does nothing."""
        self._hub.unsubscribe(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check(key: bytes, value: bytes | None) -> None:
    """Raises ValueError for what is not text, or not JSON on one line."""
    key.decode()
    if value is not None:
        if b"\n" in value:
            raise ValueError("a state is JSON on one line")
        try:
            msgspec.json.decode(value)
        except msgspec.DecodeError as wrong:
            raise ValueError(f"not JSON ({wrong})") from wrong
