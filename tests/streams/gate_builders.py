"""Small builders for tests of gates: a gate with a clock that is moved by hand, and the records of its feed."""

from __future__ import annotations

from typing import Any

import msgspec

from meterhouse.streams.budget_state import Window
from meterhouse.streams.control import WindowSpec
from meterhouse.streams.gate import Decision, Gate, GateSettings
from meterhouse.streams.gate_wire import Fresh, State, Terms, fresh_key, state_key, terms_key
from meterhouse.streams.windows import window_of
from tests.streams.budget_builders import us

NOW = us("2026-11-25T12:00")
SECOND_US = 1_000_000
DAY = window_of(WindowSpec("day", "UTC"), NOW)


def terms(budget_id: str = "day", **changes: Any) -> Terms:
    """A budget of 100 pico-units a day that blocks."""
    fields: dict[str, Any] = {
        "definition": "d",
        "tenants": ("acme",),
        "application": None,
        "model": None,
        "every": "day",
        "time_zone": "UTC",
        "unit": "USD",
        "limit": "100",
        "on_exceeded": "block",
        "throttle_per_minute": 60,
        "when_stale": "open",
        "stale_after_s": 60,
    }
    return Terms(budget_id=budget_id, **(fields | changes))


def state(spent: int, budget_id: str = "day", *, window: Window = DAY, **changes: Any) -> State:
    fields: dict[str, Any] = {
        "window_start_us": window[0],
        "window_end_us": window[1],
        "state": "ok",
        "spent_pico": str(spent),
        "spent_tokens": 0,
        "limit_pico": "100",
        "limit_tokens": None,
        "share_percent": None,
        "crossed": (),
        "on_exceeded": "block",
        "offsets": {},
        "definition": "d",
    }
    return State(budget_id=budget_id, **(fields | changes))


def record(said: Terms | State | Fresh) -> tuple[bytes, bytes]:
    """Key and value in the topic."""
    match said:
        case Terms():
            key = terms_key(said.budget_id)
        case State():
            key = state_key(said.budget_id, (said.window_start_us, said.window_end_us))
        case Fresh():
            key = fresh_key(said.partition)
    return key, msgspec.json.encode(said)


class House:
    """A gate, its clock, and one partition of states."""

    def __init__(self, *said: Terms | State | Fresh, now_us: int = NOW, **settings: Any) -> None:
        self.now_us = now_us
        self.gate = Gate(lambda: self.now_us, GateSettings(**settings))
        self.say(*said)
        self.gate.caught_up()

    def say(self, *said: Terms | State | Fresh) -> None:
        for each in said:
            self.gate.take(0, *record(each))

    def unsay(self, said: Terms | State | Fresh) -> None:
        self.gate.take(0, record(said)[0], None)

    def fresh(self, as_of_us: int | None = None, **offsets: int) -> None:
        """States have come as far as `as_of_us` (now) and the offsets p0=..., p1=..."""
        of = self.now_us if as_of_us is None else as_of_us
        self.say(Fresh(partition=0, as_of_us=of, offsets={name[1:]: offset for name, offset in offsets.items()}))

    def wait(self, seconds: float) -> None:
        self.now_us += round(seconds * SECOND_US)

    def admit(self, cost: int, tokens: int = 0, *, tenant: str = "acme", model: str = "large") -> Decision:
        return self.gate.admit(tenant, "assistant", model, max_cost_pico=cost, max_tokens=tokens)

    def outcomes(self, *costs: int) -> list[str]:
        """What becomes of requests one after another: the outcome, or why not."""
        return [decision.reason or decision.outcome for decision in map(self.admit, costs)]
