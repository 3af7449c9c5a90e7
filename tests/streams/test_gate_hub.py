"""What a hub tells its gate and its subscribers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterhouse.streams.gate_hub import MAX_SUBSCRIPTIONS, Batch, StateHub, Subscription, TooManySubscriptions
from meterhouse.streams.gate_wire import Fresh
from tests.streams.gate_builders import NOW, record, state, terms

A, B = (0, b"a"), (1, b"b")


class Gate:
    """Stands in for a gate: what it was told, in order."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def starts_over(self) -> None:
        self.told.append("starts over")

    def take(self, partition: int, key: bytes, value: bytes | None) -> None:
        self.told.append((partition, key, value))

    def caught_up(self) -> None:
        self.told.append("caught up")


def no_call() -> None:
    """Of subscribers that drain without being woken."""


def a_hub(*records: tuple[tuple[int, bytes], bytes]) -> StateHub:
    """Whose feed has caught up with these."""
    hub = StateHub(Gate())
    hub.starts_over()
    for place, value in records:
        hub.take(*place, value)
    hub.caught_up()
    return hub


def test_the_gate_is_told_everything() -> None:
    gate = Gate()
    hub = StateHub(gate)
    hub.starts_over()
    hub.take(0, b"a", b"1")
    hub.take(0, b"a", None)
    hub.take(0, b"a", b"nonsense")
    hub.caught_up()
    assert gate.told == ["starts over", (0, b"a", b"1"), (0, b"a", None), (0, b"a", b"nonsense"), "caught up"]


def test_a_subscriber_is_told_all_there_is_then_that_it_has_caught_up_then_changes() -> None:
    hub = a_hub((A, b"1"), (B, b"2"))
    with hub.subscribe(no_call) as subscription:
        assert subscription.drain() == Batch([(*A, b"1"), (*B, b"2")], caught_up=True)
        assert subscription.drain() == Batch([], caught_up=False)
        hub.take(*A, b"3")
        hub.take(*B, None)
        assert subscription.drain() == Batch([(*A, b"3"), (*B, None)], caught_up=False)


def test_nothing_is_told_before_the_feed_has_caught_up() -> None:
    calls: list[str] = []
    hub = StateHub(Gate())
    with hub.subscribe(lambda: calls.append("wake")) as subscription:
        hub.starts_over()
        hub.take(*A, b"1")
        assert (subscription.drain(), calls) == (Batch([], caught_up=False), [])
        hub.caught_up()
        assert calls == ["wake"]
        assert subscription.drain() == Batch([(*A, b"1")], caught_up=True)


def test_who_is_slow_gets_the_newest_value_of_each_key() -> None:
    hub = a_hub((A, b"0"))
    with hub.subscribe(no_call) as subscription:
        subscription.drain()
        for number in range(1, 1_000):
            hub.take(*A, b"%d" % number)
        assert subscription.drain().records == [(*A, b"999")]


def test_freshness_comes_after_the_states_that_it_speaks_of() -> None:
    budget, before, after = record(terms()), record(state(1)), record(state(2))
    old, new = (record(Fresh(partition=0, as_of_us=NOW + each)) for each in (0, 1))
    hub = a_hub(*(((0, key), value) for key, value in (old, budget, before)))
    with hub.subscribe(no_call) as subscription:
        assert [key for _, key, _ in subscription.drain().records] == [budget[0], before[0], old[0]]
        hub.take(0, *new)
        hub.take(0, *after)
        assert subscription.drain().records == [(0, *after), (0, *new)]


def test_what_is_not_told_anew_when_the_feed_starts_over_is_taken_back() -> None:
    hub = a_hub((A, b"1"), (B, b"2"))
    with hub.subscribe(no_call) as subscription:
        subscription.drain()
        hub.starts_over()
        hub.take(*A, b"1")
        assert subscription.drain() == Batch([], caught_up=False)
        hub.caught_up()
        assert subscription.drain() == Batch([(*B, None)], caught_up=False)


def test_a_value_that_is_said_again_is_not_told_again() -> None:
    hub = a_hub((A, b"1"))
    with hub.subscribe(no_call) as subscription:
        subscription.drain()
        hub.take(*A, b"1")
        hub.take(*B, None)
        assert subscription.drain().records == []


@pytest.mark.parametrize(("key", "value"), [(b"\xff", b"1"), (b"a", b"{"), (b"a", b"[1,\n2]"), (b"a", b"")])
def test_what_is_no_line_of_json_is_not_relayed(key: bytes, value: bytes) -> None:
    hub = a_hub()
    with hub.subscribe(no_call) as subscription:
        hub.take(0, key, value)
        assert subscription.drain().records == []


def test_a_subscriber_is_woken_once_until_it_drains() -> None:
    calls: list[str] = []
    hub = a_hub()
    with hub.subscribe(lambda: calls.append("wake")) as subscription:
        hub.take(*A, b"1")
        hub.take(*A, b"2")
        assert calls == ["wake"]
        subscription.drain()
        hub.take(*A, b"3")
        assert calls == ["wake", "wake"]
    hub.take(*A, b"4")
    assert calls == ["wake", "wake"]


def test_there_are_a_hundred_subscriptions_at_most_and_a_closed_one_makes_room() -> None:
    hub = a_hub()
    held = [hub.subscribe(no_call) for _ in range(MAX_SUBSCRIPTIONS)]
    with pytest.raises(TooManySubscriptions):
        hub.subscribe(no_call)
    held[0].close()
    held[0].close()
    assert hub.subscriptions == MAX_SUBSCRIPTIONS - 1
    hub.subscribe(no_call)


def test_the_age_of_the_states_is_that_of_the_oldest_partition() -> None:
    hub = a_hub()
    assert hub.as_of_us() is None
    for partition, as_of_us in ((0, 7), (1, 5)):
        hub.take(partition, *record(Fresh(partition=partition, as_of_us=as_of_us)))
    assert hub.as_of_us() == 5


places = st.tuples(st.integers(0, 1), st.sampled_from([b"a", b"b", b"|fresh|0"]))


def taken(subscription: Subscription, seen: dict[tuple[int, bytes], bytes]) -> None:
    for partition, key, value in subscription.drain().records:
        if value is None:
            seen.pop((partition, key), None)
        else:
            seen[partition, key] = value


says = st.tuples(st.just("says"), places, st.none() | st.integers(0, 2).map(lambda n: b"%d" % n))
others = st.sampled_from([("drains", A, None), ("starts over", A, None), ("catches up", A, None)])


@given(st.lists(says | others, max_size=30))
def test_whoever_drains_whenever_ends_up_with_what_the_feed_said(
    steps: list[tuple[str, tuple[int, bytes], bytes | None]],
) -> None:
    hub, seen = a_hub(), dict[tuple[int, bytes], bytes]()
    said: dict[tuple[int, bytes], bytes | None] = {}
    with hub.subscribe(no_call) as subscription:
        for what, place, value in steps:
            if what == "says":
                hub.take(*place, value)
                said[place] = value
            elif what == "drains":
                taken(subscription, seen)
            elif what == "starts over":
                hub.starts_over()
                said = {}
            else:
                hub.caught_up()
        hub.caught_up()
        taken(subscription, seen)
    assert seen == {place: value for place, value in said.items() if value is not None}
