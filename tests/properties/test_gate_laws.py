"""The law of the gate: with one gate, and upper bounds that hold, no window is spent beyond its limit."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from meterhouse.streams.budget_state import Window
from meterhouse.streams.control import WindowSpec
from meterhouse.streams.gate import Gate, GateSettings
from meterhouse.streams.gate_wire import Fresh, State, Terms
from meterhouse.streams.windows import window_of
from tests.streams.budget_builders import us
from tests.streams.gate_builders import SECOND_US, record, state, terms

LIMIT = 20
HOLD_S, MARGIN_S = 900, 2
PARTITIONS = (0, 1)
BERLIN = WindowSpec("day", "Europe/Berlin")
START = us("2026-10-25T22:40")  # 20 minutes before a day of 25 hours ends


@dataclass
class Request:
    """That the gate has admitted."""

    reservation: str
    bound: int
    admitted_us: int


@dataclass
class Event:
    """Of a request that ended, in a partition of `usage.events`, where its place is its offset."""

    window: Window
    cost: int
    arrived_us: int


class OneGate(RuleBasedStateMachine):
    """Meter and worker are as slow as they may be, and begin again from further back; a paused worker repeats what was
    said before; events come late and are settled before, after, or never."""

    running = Bundle("running")
    ended = Bundle("ended")  # whose events are in the log, but the gate was not told

    @initialize(gates=st.sampled_from([1, 1, 3]), in_money=st.booleans())
    def opens(self, gates: int, in_money: bool) -> None:
        self.now_us = START
        self.in_money = in_money
        self.gate = Gate(lambda: self.now_us, GateSettings(hold_s=HOLD_S, margin_s=MARGIN_S, gates=gates))
        self.log: dict[int, list[Event]] = {partition: [] for partition in PARTITIONS}
        self.progress = dict.fromkeys(PARTITIONS, 0)  # of the meters
        self.published: list[Terms | State | Fresh] = []
        self.delivered = 0
        self.requests: list[Request] = []  # that run
        self.late: list[tuple[int, int, int, Window]] = []  # events that are under way: until when, partition, cost
        unit = "USD" if in_money else "tokens"
        self.terms = terms(time_zone=BERLIN.time_zone, limit=str(LIMIT), tenants=None, unit=unit)
        self.gate.take(0, *record(self.terms))
        self.gate.caught_up()

    # --- requests ---

    @rule(target=running, bound=st.integers(0, 9))
    def arrives(self, bound: int) -> Request:
        money, tokens = (bound, 0) if self.in_money else (0, bound)
        decision = self.gate.admit("acme", "assistant", "large", max_cost_pico=money, max_tokens=tokens)
        request = Request(decision.reservation or "", bound, self.now_us)
        if decision.admitted:
            self.requests.append(request)
        return request

    @rule(request=consumes(running))
    def fails(self, request: Request) -> None:
        if request in self.requests:
            self.requests.remove(request)
            self.gate.cancel(request.reservation)

    @rule(target=ended, request=consumes(running), share=st.integers(0, 3), partition=st.sampled_from(PARTITIONS))
    def ends(self, request: Request, share: int, partition: int) -> tuple[Request, int, tuple[int, int]] | None:
        if request not in self.requests:
            return None
        self.requests.remove(request)
        cost = request.bound * share // 3
        return request, cost, self._append(partition, cost, self._window())

    @rule(known=consumes(ended), says_where=st.booleans())
    def is_settled(self, known: tuple[Request, int, tuple[int, int]] | None, says_where: bool) -> None:
        if known is not None:
            request, cost, position = known
            self._settle(request, cost, position if says_where else None)

    @rule(request=consumes(running), share=st.integers(0, 3), partition=st.sampled_from(PARTITIONS))
    def is_settled_before_its_event_is_there(self, request: Request, share: int, partition: int) -> None:
        if request not in self.requests:
            return
        self.requests.remove(request)
        cost = request.bound * share // 3
        self._settle(request, cost, None)
        self.late.append((self.now_us + MARGIN_S * SECOND_US, partition, cost, self._window()))

    # --- time ---

    @rule(seconds=st.sampled_from([0.001, 1.0, 2.5, 60.0, 900.0, 1_500.0, 40_000.0]))
    def time_passes(self, seconds: float) -> None:
        """No request runs longer than it is held, and no event is longer under way than the margin."""
        until_us = self.now_us + round(seconds * SECOND_US)
        due = [(request.admitted_us + HOLD_S * SECOND_US, request) for request in self.requests]
        for at_us, request in [each for each in due if each[0] <= until_us]:
            self.requests.remove(request)
            self.late.append((at_us, 0, request.bound, window_of(BERLIN, at_us)))
        for event in sorted(each for each in self.late if each[0] <= until_us):
            self.late.remove(event)
            self.now_us = event[0]
            self._append(*event[1:])
        self.now_us = until_us

    # --- what is said of it ---

    @rule(data=st.data())
    def meters_go_on(self, data: st.DataObject) -> None:
        self._move_to({p: data.draw(st.integers(self.progress[p], len(self.log[p]))) for p in PARTITIONS})

    @rule()
    def meters_catch_up(self) -> None:
        self._move_to({partition: len(events) for partition, events in self.log.items()})

    @rule(partition=st.sampled_from(PARTITIONS), back=st.integers(1, 3))
    def a_meter_begins_again(self, partition: int, back: int) -> None:
        self._move_to(self.progress | {partition: max(0, self.progress[partition] - back)})

    @rule(data=st.data())
    def a_paused_worker_repeats_itself(self, data: st.DataObject) -> None:
        if self.published:
            self.published.append(data.draw(st.sampled_from(self.published)))

    @rule()
    def the_worker_is_fresh(self) -> None:
        first_unread = [self.log[p][o].arrived_us for p, o in self.progress.items() if o < len(self.log[p])]
        offsets = {str(partition): offset for partition, offset in self.progress.items()}
        self.published.append(Fresh(partition=0, as_of_us=min([self.now_us, *first_unread]), offsets=offsets))

    @rule(count=st.integers(1, 8))
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

    @rule()
    def terms_are_said_again(self) -> None:
        self.gate.take(0, *record(self.terms))

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
        at_most = spent.get(self._window(), 0) + sum(request.bound for request in self.requests)
        assert at_most <= LIMIT, "what runs now could still go beyond the limit"

    # --- helpers ---

    def _window(self) -> Window:
        return window_of(BERLIN, self.now_us)

    def _append(self, partition: int, cost: int, window: Window) -> tuple[int, int]:
        self.log[partition].append(Event(window, cost, self.now_us))
        return partition, len(self.log[partition]) - 1

    def _settle(self, request: Request, cost: int, position: tuple[int, int] | None) -> None:
        money, tokens = (cost, 0) if self.in_money else (0, cost)
        self.gate.settle(request.reservation, money, tokens, position)

    def _move_to(self, progress: dict[int, int]) -> None:
        """The worker says the state of every window that anything was counted in."""
        self.progress = progress
        read = {partition: self.log[partition][:offset] for partition, offset in progress.items()}
        for window in sorted({event.window for events in read.values() for event in events}):
            counted = {p: [event.cost for event in events if event.window == window] for p, events in read.items()}
            spent = sum(sum(costs) for costs in counted.values())
            offsets = {str(partition): progress[partition] for partition, costs in counted.items() if costs}
            money, tokens = (spent, 0) if self.in_money else (0, spent)
            self.published.append(state(money, spent_tokens=tokens, window=window, offsets=offsets))


TestOneGate = OneGate.TestCase
TestOneGate.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
