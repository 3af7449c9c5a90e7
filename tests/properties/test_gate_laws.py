"""The law of the gate: with one gate, and upper bounds that hold, no window is spent beyond its limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from meterhouse.streams.budget_state import Window
from meterhouse.streams.control import WindowSpec
from meterhouse.streams.gate import Gate, GateSettings
from meterhouse.streams.gate_wire import Fresh, State, Terms
from meterhouse.streams.windows import window_of
from tests.streams.budget_builders import us
from tests.streams.gate_builders import SECOND_US, record, state, terms

LIMIT = 9
HOLD_S, MARGIN_S = 900, 2
PARTITIONS = (0, 1)
BERLIN = WindowSpec("day", "Europe/Berlin")
START = us("2026-10-25T22:40")  # 20 minutes before a day of 25 hours ends

How = Literal["is settled", "is settled later", "is settled before its event is there", "fails"]
HOW: tuple[How, ...] = get_args(How)

which = st.integers(0, 9)  # of those there are, counted round
partitions = st.sampled_from(PARTITIONS)


class Ending(NamedTuple):
    """Of a request."""

    which: int
    share: int  # of two: what it costs of its upper bound
    partition: int
    how: How


endings = st.builds(Ending, which, st.sampled_from([2, 2, 1, 0]), partitions, st.sampled_from(HOW))


@dataclass(eq=False)
class Request:
    """That the gate has admitted."""

    reservation: str | None
    bound: int
    admitted_us: int


@dataclass
class Event:
    """Of a request that ended, in a partition of `usage.events`, where its place is its offset."""

    window: Window
    cost: int
    arrived_us: int


def one_of(those: list[Any], n: int) -> Any:
    return those.pop(n % len(those))


class OneGate(RuleBasedStateMachine):
    """Requests come until one is refused. Their events are settled when they are there, before or never. Meters are as
    slow as they may be, and begin again from further back; a paused worker repeats what was said before."""

    @initialize(gates=st.sampled_from([1, 1, 2]), in_money=st.booleans())
    def opens(self, gates: int, in_money: bool) -> None:
        self.now_us = START
        self.in_money = in_money
        self.gate = Gate(lambda: self.now_us, GateSettings(hold_s=HOLD_S, margin_s=MARGIN_S, gates=gates))
        self.log: dict[int, list[Event]] = {partition: [] for partition in PARTITIONS}
        self.progress = dict.fromkeys(PARTITIONS, 0)  # of the meters
        self.published: list[Terms | State | Fresh] = []
        self.delivered = 0
        self.running: list[Request] = []
        self.untold: list[tuple[Request, int, tuple[int, int]]] = []  # event is there, not settled: its cost and place
        self.late: list[tuple[int, int, int, Window]] = []  # events under way: until when; partition, cost
        unit = "USD" if in_money else "tokens"
        self.terms = terms(time_zone=BERLIN.time_zone, limit=str(LIMIT), tenants=None, unit=unit)
        self.gate.take(0, *record(self.terms))
        self.gate.caught_up()

    # --- requests ---

    @rule(bound=st.integers(1, 4), endings=st.lists(endings, max_size=4))
    def requests_arrive_until_one_is_refused_and_some_end(self, bound: int, endings: list[Ending]) -> None:
        money, tokens = self._amounts(bound)
        while True:
            decision = self.gate.admit("acme", "assistant", "large", max_cost_pico=money, max_tokens=tokens)
            if not decision.admitted:
                break
            self.running.append(Request(decision.reservation, bound, self.now_us))
            self.no_window_is_spent_beyond_its_limit()
        for ending in endings[: len(self.running)]:
            self._end(one_of(self.running, ending.which), ending)

    def _end(self, request: Request, ending: Ending) -> None:
        cost = request.bound * ending.share // 2
        if ending.how == "fails":
            self.gate.cancel(request.reservation)
        elif ending.how == "is settled before its event is there":
            self.gate.settle(request.reservation, *self._amounts(cost))
            self.late.append((self.now_us + MARGIN_S * SECOND_US, ending.partition, cost, self._window()))
        else:
            position = self._append(ending.partition, cost, self._window())
            if ending.how == "is settled later":
                self.untold.append((request, cost, position))
            else:
                self.gate.settle(request.reservation, *self._amounts(cost), position)

    @precondition(lambda self: self.untold)
    @rule(n=which, says_where=st.booleans())
    def one_is_settled(self, n: int, says_where: bool) -> None:
        request, cost, position = one_of(self.untold, n)
        self.gate.settle(request.reservation, *self._amounts(cost), position if says_where else None)

    # --- time ---

    @rule(seconds=st.sampled_from([0.5, 2.0, 2.5]))
    def a_moment_passes(self, seconds: float) -> None:
        self.time_passes(seconds)

    @rule(seconds=st.sampled_from([899.0, 1_500.0, 40_000.0]))
    def time_passes(self, seconds: float) -> None:
        """No request runs longer than it is held, and no event is longer under way than the margin."""
        until_us = self.now_us + round(seconds * SECOND_US)
        for request in list(self.running):
            ends_us = request.admitted_us + HOLD_S * SECOND_US
            if ends_us <= until_us:
                self.running.remove(request)
                self.late.append((ends_us, 0, request.bound, window_of(BERLIN, ends_us)))
        for event in sorted(each for each in self.late if each[0] <= until_us):
            self.late.remove(event)
            self.now_us = event[0]
            self._append(*event[1:])
        self.now_us = until_us

    # --- what is said of it ---

    @rule()
    def all_is_counted_and_said(self) -> None:
        self._move_to({partition: len(events) for partition, events in self.log.items()})
        self._be_fresh()
        self.the_feed_delivers(len(self.published))

    @rule(partition=partitions, steps=st.integers(1, 3))
    def a_meter_goes_on(self, partition: int, steps: int) -> None:
        offset = min(len(self.log[partition]), self.progress[partition] + steps)
        self._move_to(self.progress | {partition: offset})

    @rule(partition=partitions, back=st.integers(1, 3))
    def a_meter_begins_again(self, partition: int, back: int) -> None:
        self._move_to(self.progress | {partition: max(0, self.progress[partition] - back)})

    @precondition(lambda self: self.published)
    @rule(n=which)
    def a_paused_worker_repeats_itself(self, n: int) -> None:
        self.published.append(self.published[-1 - n % len(self.published)])

    @rule()
    def the_worker_is_fresh(self) -> None:
        self._be_fresh()

    @precondition(lambda self: self.delivered < len(self.published))
    @rule(count=st.sampled_from([1, 2, 5, 100]))
    def the_feed_delivers(self, count: int) -> None:
        for said in self.published[self.delivered : self.delivered + count]:
            self.gate.take(0, *record(said))
        self.delivered = min(len(self.published), self.delivered + count)

    @rule()
    def the_feed_starts_over(self) -> None:
        self.gate.starts_over()
        for said in [self.terms, *self.published]:
            self.gate.take(0, *record(said))
        self.delivered = len(self.published)
        self.gate.caught_up()

    # --- the law ---

    @invariant()
    def no_window_is_spent_beyond_its_limit(self) -> None:
        spent: dict[Window, int] = {}
        for window, cost in [
            *((event.window, event.cost) for events in self.log.values() for event in events),
            *((window, cost) for _, _, cost, window in self.late),
        ]:
            spent[window] = spent.get(window, 0) + cost
        assert all(each <= LIMIT for each in spent.values()), spent
        at_most = spent.get(self._window(), 0) + sum(request.bound for request in self.running)
        assert at_most <= LIMIT, "what runs now could still go beyond the limit"

    # --- helpers ---

    def _amounts(self, amount: int) -> tuple[int, int]:
        return (amount, 0) if self.in_money else (0, amount)

    def _window(self) -> Window:
        return window_of(BERLIN, self.now_us)

    def _append(self, partition: int, cost: int, window: Window) -> tuple[int, int]:
        self.log[partition].append(Event(window, cost, self.now_us))
        return partition, len(self.log[partition]) - 1

    def _be_fresh(self) -> None:
        first_unread = [self.log[p][o].arrived_us for p, o in self.progress.items() if o < len(self.log[p])]
        offsets = {str(partition): offset for partition, offset in self.progress.items()}
        self.published.append(Fresh(partition=0, as_of_us=min([self.now_us, *first_unread]), offsets=offsets))

    def _move_to(self, progress: dict[int, int]) -> None:
        """The worker says the state of every window that anything was counted in."""
        self.progress = progress
        read = {partition: self.log[partition][:offset] for partition, offset in progress.items()}
        for window in sorted({event.window for events in read.values() for event in events}):
            counted = {p: [event.cost for event in events if event.window == window] for p, events in read.items()}
            money, tokens = self._amounts(sum(sum(costs) for costs in counted.values()))
            offsets = {str(partition): progress[partition] for partition, costs in counted.items() if costs}
            self.published.append(state(money, spent_tokens=tokens, window=window, offsets=offsets))


TestOneGate = OneGate.TestCase
TestOneGate.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)
