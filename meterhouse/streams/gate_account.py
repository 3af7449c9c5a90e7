"""One budget as a gate keeps it: its terms, the spend that states tell of, and what the gate has admitted itself and no
state covers yet. A request is judged here; nothing is waited for, and the time is a parameter.

*Own*: upper bounds of requests that run, and amounts of requests that ended and are not covered. It counts in whatever
window is open, since a request that runs now is spent in this window or in a later one. So with one gate
spent + own >= what all requests admitted so far come to, in every window.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from meterhouse.streams.control import WindowSpec
from meterhouse.streams.gate_decision import Reason
from meterhouse.streams.gate_wire import OnExceeded, State, Terms
from meterhouse.streams.windows import window_of

Window = tuple[int, int]
Amount = tuple[int, int]
"""(pico-units, tokens)."""

NEVER_US: Final = -(2**62)
MAX_STEPS: Final = 256
"""Ended requests that are kept apart until states cover them, of a budget and partition: states of a busy budget come
several times a second. Beyond it they are kept together and wait for the newest of them; letting go of more in one
admission would be felt."""
LINGER_US: Final = 3_600 * 1_000_000  # how long a closed window's state is kept, should the clock be set back
RESERVED_RETRY_US: Final = 1_000_000  # requests end all the time, and states come every second
STALE_RETRY_US: Final = 5_000_000  # a worker that is restarted, or a partition that moves, takes some seconds
_REFUSALS: Final[dict[Reason, tuple[int, int]]] = {  # rank; when to come back
    "exceeded": (3, 0),
    "does_not_fit": (3, 0),
    "stale": (2, STALE_RETRY_US),
    "reserved": (2, RESERVED_RETRY_US),
}


class Freshness:
    """How far the states of one partition of `budget.states` have come, and which windows are open for its budgets."""

    __slots__ = ("_windows", "as_of_us", "generation", "offsets", "version")

    def __init__(self) -> None:
        self.version = 0
        self._windows: dict[WindowSpec, Window] = {}
        self.forget()

    def say(self, as_of_us: int, offsets: dict[int, int], generation: int) -> None:
        self.as_of_us, self.offsets, self.generation = as_of_us, offsets, generation
        self.version += 1

    def forget(self) -> None:
        """Nothing is known."""
        self.say(NEVER_US, {}, 0)

    def window_at(self, spec: WindowSpec, now_us: int) -> Window:
        """The calendar is asked once for all budgets. Raises ValueError: unknown zone."""
        window = self._windows.get(spec)
        if window is None or not window[0] <= now_us < window[1]:
            window = self._windows[spec] = window_of(spec, now_us)
        return window


class Verdict(NamedTuple):
    """What one budget has to say against a request."""

    rank: int  # 3 refused for this window; 2 refused for now; 1 throttled; 0 admitted within the throttle's rate
    retry_us: int
    reason: Reason
    account: Account


class Standing:
    """The spend of one window under one definition, from its states."""

    __slots__ = ("generation", "offsets", "spent")

    def __init__(self, spent: Amount, offsets: dict[int, int], generation: int) -> None:
        self.spent, self.offsets, self.generation = spent, offsets, generation

    def take(self, spent: Amount, offsets: dict[int, int], generation: int) -> None:
        """A state that has not come as far as the one before (its worker was paused, a meter began again from the
        lake) takes nothing back: what was released because of that one would be forgotten."""
        self.generation = generation
        if all(offsets.get(partition, 0) >= offset for partition, offset in self.offsets.items()):
            self.spent, self.offsets = spent, offsets
        else:
            self.spent = (max(self.spent[0], spent[0]), max(self.spent[1], spent[1]))


class Account:
    """See the module. What `window`, `spent` and `remaining` say is as of the last `judge`."""

    __slots__ = (
        "_block", "_by_window", "_closed_when_stale", "_current", "_fresh", "_judges", "_owed", "_seen", "_spec",
        "_stale_after_us", "_turn_us", "_unknown", "budget_id", "generation", "in_money", "limit", "own_pico",
        "own_tokens", "spent", "terms", "throttle_at_us", "throttle_per_minute", "unit", "window",
    )  # fmt: skip

    def __init__(self) -> None:
        self.terms: Terms | None = None
        self.budget_id = self.unit = ""
        self.throttle_per_minute = 1
        self.generation = 0  # of the terms
        self.limit = self.spent = 0  # pico-units or tokens, as the terms say
        self.in_money = True
        self.own_pico = self.own_tokens = 0
        self.throttle_at_us = NEVER_US  # when the throttle lets the next request through
        self.window: Window = (0, 0)
        self._spec = WindowSpec("day", "UTC")
        self._fresh = Freshness()
        self._judges = self._block = self._closed_when_stale = self._unknown = False
        self._turn_us = self._stale_after_us = 0
        self._by_window: dict[Window, dict[str, Standing]] = {}  # by definition
        self._current: Standing | None = None
        self._owed: dict[int | None, list[list[int]]] = {}  # see `_release`
        self._seen = -1

    # --- what the feed says ---

    def agree(self, terms: Terms, fresh: Freshness, generation: int, now_us: int) -> None:
        """Takes over new terms. Raises ValueError, and changes nothing, when they make no sense."""
        spec, limit = WindowSpec(terms.every, terms.time_zone), int(terms.limit)
        window = fresh.window_at(spec, now_us)
        if limit < 0 or terms.throttle_per_minute < 1 or terms.stale_after_s < 0:
            raise ValueError(f"terms of {terms.budget_id}: a limit, rate or age below what is possible")
        on_exceeded: OnExceeded = terms.on_exceeded
        self.terms, self.generation, self._fresh = terms, generation, fresh
        self.budget_id, self.unit, self.throttle_per_minute = terms.budget_id, terms.unit, terms.throttle_per_minute
        self.limit, self.in_money = limit, terms.unit != "tokens"
        self._spec, self.window = spec, window
        self._judges, self._block = on_exceeded != "notify", on_exceeded == "block"
        self._turn_us = -(-60_000_000 // terms.throttle_per_minute)
        self._closed_when_stale, self._stale_after_us = terms.when_stale == "closed", terms.stale_after_s * 1_000_000
        self._look()

    def say(self, state: State, generation: int, now_us: int) -> None:
        """Takes in a state. Raises ValueError when it makes no sense."""
        spent = int(state.spent_pico), state.spent_tokens
        offsets = {int(partition): offset for partition, offset in state.offsets.items()}
        window = (state.window_start_us, state.window_end_us)
        if window[1] + LINGER_US <= now_us:
            return
        standings = self._by_window.setdefault(window, {})
        if state.definition in standings:
            standings[state.definition].take(spent, offsets, generation)
        else:
            ours = self.terms.definition if self.terms is not None else state.definition
            for other in [definition for definition in standings if definition != ours]:
                del standings[other]
            standings[state.definition] = Standing(spent, offsets, generation)
        self._look()

    def unsay(self, window: Window) -> None:
        """The state of a window is taken back."""
        self._by_window.pop(window, None)
        self._look()

    def unsay_older(self, generation: int) -> None:
        """Takes back the states that were last said before this generation."""
        for window, standings in list(self._by_window.items()):
            kept = {name: each for name, each in standings.items() if each.generation >= generation}
            self._by_window[window] = kept
            if not kept:
                del self._by_window[window]
        self._look()

    @property
    def is_empty(self) -> bool:
        """Is there nothing left to remember?"""
        return self.terms is None and not self._by_window and not self.own_pico and not self.own_tokens

    # --- judging ---

    def judge(self, now_us: int, max_cost_pico: int, max_tokens: int, gates: int) -> Verdict | None:
        """What stands against a request of at most so much; None: nothing.

        A gate of `gates` admits as long as its own amounts are within its share of what is left. Opens the next window
        when the last one has ended, and releases what states cover.
        """
        if not self.window[0] <= now_us < self.window[1]:
            self._open(now_us)
        if self._owed and self._seen != self._fresh.version:
            self._release()
        if not self._judges:
            return None
        if self._closed_when_stale and now_us - self._fresh.as_of_us > self._stale_after_us:
            return self._refused("stale")
        if self.in_money:
            own, cost = self.own_pico, max_cost_pico
        else:
            own, cost = self.own_tokens, max_tokens
        left = self.limit - self.spent
        if self._block:
            if left <= 0:
                return self._refused("exceeded")
            if (own + cost) * gates <= left:
                return None
            return self._refused("does_not_fit" if cost * gates > left else "reserved")
        if own * gates < left:
            return None
        wait_us = self.throttle_at_us - now_us
        return Verdict(1 if wait_us > 0 else 0, wait_us, "throttled", self)

    def _refused(self, reason: Reason) -> Verdict:
        return Verdict(*_REFUSALS[reason], reason, self)

    @property
    def remaining(self) -> int:
        """What is left of the limit, own amounts taken off; 0 when there is nothing."""
        left = self.limit - self.spent - (self.own_pico if self.in_money else self.own_tokens)
        return max(0, left)

    def _open(self, now_us: int) -> None:
        self.window = self._fresh.window_at(self._spec, now_us)
        for window in [each for each in self._by_window if each[1] + LINGER_US <= now_us]:
            del self._by_window[window]
        self._look()

    # --- own amounts ---

    def reserve(self, pico: int, tokens: int) -> None:
        self.own_pico += pico
        self.own_tokens += tokens

    def take_turn(self, now_us: int) -> None:
        """A request goes through the throttle: the next one waits its turn."""
        self.throttle_at_us = now_us + self._turn_us

    def settle(self, reserved: Amount, actual: Amount, where: int | None, mark: int) -> None:
        """Puts what a request came to in place of what was reserved for it, until states cover it.

        `where`, `mark`: partition and offset of its event in `usage.events`; or None, and how fresh states must be.
        """
        self.own_pico += actual[0] - reserved[0]
        self.own_tokens += actual[1] - reserved[1]
        if not any(actual):
            return
        steps = self._owed.setdefault(where, [])
        if steps and (mark <= steps[-1][0] or len(steps) >= MAX_STEPS):
            last = steps[-1]
            last[:] = max(mark, last[0]), last[1] + actual[0], last[2] + actual[1]
        else:
            steps.append([mark, *actual])
        self._release()

    def _release(self) -> None:
        """Lets go of what is in the spend: steps [mark, pico, tokens] whose mark is below what is covered."""
        self._seen = self._fresh.version
        if self._unknown:  # the spend says nothing of what we count, so it covers nothing
            return
        offsets = {} if self._current is None else self._current.offsets
        for where, steps in tuple(self._owed.items()):
            if where is None:
                covered = self._fresh.as_of_us
            else:
                covered = max(offsets.get(where, 0), self._fresh.offsets.get(where, 0))
            if steps[0][0] >= covered:
                continue
            released = 0
            for mark, pico, tokens in steps:
                if mark >= covered:
                    break
                self.own_pico -= pico
                self.own_tokens -= tokens
                released += 1
            if released == len(steps):
                del self._owed[where]
            else:
                del steps[:released]

    def _look(self) -> None:
        """The open window's standing under our definition; without one nothing was spent."""
        if self.terms is None:
            return
        standings = self._by_window.get(self.window, {})
        self._current = standings.get(self.terms.definition)
        self._unknown = self._current is None and bool(standings)
        self.spent = 0 if self._current is None else self._current.spent[0 if self.in_money else 1]
        self._release()
