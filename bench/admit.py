"""The gate in process: how long `admit` takes, with ten thousand budgets of which three look at each request.

`python -m bench.admit` prints percentiles of CPU time of single calls, on one pinned core, of the quietest round and of
the median one (a busy machine shows in the tail). Each request is settled, and states and freshness come in between.
The limit is reading the clock twice, as each measured call does.
"""

from __future__ import annotations

import os
import time
from typing import Final

import msgspec
import numpy as np

from bench.report import Row, show
from meterhouse.streams.control import WindowSpec
from meterhouse.streams.gate import Gate
from meterhouse.streams.gate_wire import Fresh, State, Terms, fresh_key, state_key, terms_key
from meterhouse.streams.windows import window_of

TENANTS: Final = 3_333
CALLS: Final = 200_000
COST_PICO: Final = 10**9
MODELS: Final = 20
RUNNING: Final = 500  # requests at a time
ROUNDS: Final = 20
SAY_EVERY: Final = 1_000  # calls between two rounds of states
GOAL_P99_US: Final = 10.0


def now_us() -> int:
    return time.time_ns() // 1_000


def terms(budget_id: str, tenants: tuple[str, ...] | None, model: str | None) -> Terms:
    return Terms(
        budget_id=budget_id,
        definition="d",
        tenants=tenants,
        application=None,
        model=model,
        every="month",
        time_zone="Europe/Berlin",
        unit="USD",
        limit=str(10**18),
        on_exceeded="block",
        throttle_per_minute=60,
        when_stale="closed",
        stale_after_s=3_600,
    )


def filled() -> Gate:
    """10,000 budgets: one for all, two for each of most tenants and one more."""
    gate = Gate(now_us)
    all_terms = [terms("all", None, None)]
    for tenant in range(TENANTS):
        name = f"tenant-{tenant}"
        all_terms += [terms(f"{name}-all", (name,), None), terms(f"{name}-model", (name,), f"model-{tenant % MODELS}")]
        all_terms += [terms(f"{name}-other", (name,), f"other-{tenant % MODELS}")]
    for each in all_terms:
        gate.take(0, terms_key(each.budget_id), msgspec.json.encode(each))
        say(gate, each.budget_id, 0)
    gate.take(0, fresh_key(0), msgspec.json.encode(Fresh(partition=0, as_of_us=now_us())))
    gate.caught_up()
    return gate


def say(gate: Gate, budget_id: str, spent_pico: int) -> None:
    window = window_of(WindowSpec("month", "Europe/Berlin"), now_us())
    state = State(
        budget_id=budget_id,
        window_start_us=window[0],
        window_end_us=window[1],
        state="ok",
        spent_pico=str(spent_pico),
        spent_tokens=0,
        limit_pico=str(10**18),
        limit_tokens=None,
        share_percent=None,
        crossed=(),
        on_exceeded="block",
        offsets={"0": spent_pico // COST_PICO},
        definition="d",
    )
    gate.take(0, state_key(budget_id, window), msgspec.json.encode(state))


def measure(gate: Gate) -> dict[str, np.ndarray]:
    """Nanoseconds of each call."""
    names = [(f"tenant-{n % TENANTS}", f"model-{n % TENANTS % MODELS}") for n in range(CALLS)]
    taken: dict[str, list[int]] = {"admit": [], "settle": [], "clock": []}
    running: list[str | None] = [None] * RUNNING
    clock = time.thread_time_ns
    for n, (tenant, model) in enumerate(names):
        before = clock()
        decision = gate.admit(tenant, "assistant", model, max_cost_pico=COST_PICO, max_tokens=2_000)
        after = clock()
        taken["admit"].append(after - before)
        assert decision.admitted, decision
        running.append(decision.reservation)
        before = clock()
        gate.settle(running.pop(0), COST_PICO, 1_000, (0, n))
        taken["settle"].append(clock() - before)
        before = clock()
        taken["clock"].append(clock() - before)
        if n % SAY_EVERY == 0:
            say(gate, "all", n * COST_PICO)
            fresh = Fresh(partition=0, as_of_us=now_us(), offsets={"0": n})
            gate.take(0, fresh_key(0), msgspec.json.encode(fresh))
    return {name: np.array(each) for name, each in taken.items()}


def main() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    gate = filled()
    taken = measure(gate)

    def row(figure: str, name: str, percentile: float, goal: str = "") -> Row:
        rounds = np.array([np.percentile(each, percentile) for each in np.split(taken[name], ROUNDS)]) / 1e3
        limit = np.percentile(taken["clock"], percentile) / 1e3
        return Row(figure, f"{rounds.min():.1f} us ({np.median(rounds):.1f})", f"{limit:.1f} us clock", "", goal)

    show(
        f"Gate: 10,000 budgets, 3 look at a request; quietest (median) of {ROUNDS} rounds of {CALLS // ROUNDS:,} calls",
        [
            row("admit, p50", "admit", 50),
            row("admit, p99", "admit", 99, f"{GOAL_P99_US:.0f} us"),
            row("settle, p50", "settle", 50),
            row("settle, p99", "settle", 99),
        ],
    )


if __name__ == "__main__":
    main()
