"""What twenty gateways with a gate each spend beyond a `block` budget, through the real meter, worker and broker.

`python -m bench.budgets_overspend [--long]`. Requests come at random moments, of one size, each with an upper bound of
half as much again, and are asked for until well after the budget has refused. What was spent is the sum of the costs of
all events published. Beside it the bound of decision 0020 for equal gates: (N - 1) / N of the most that all gates
admitted within any H seconds; H is the longest that an admitted request took until each gate had its spend.
"""

from __future__ import annotations

import heapq
import random
import sys
import tempfile
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Final

from bench.budgets_load import READY_S, Flow, clocked_gate, load
from bench.report import Row, show
from bench.town import PRICE, Town, awaited, budget_of, control_file
from bench.workload import MODELS
from meterhouse.api.clock import now_us
from meterhouse.ingest.event import UsageEvent
from meterhouse.ingest.kafka_log import KafkaLog
from meterhouse.ingest.publisher import Publisher, new_id
from meterhouse.streams.gate import Gate, GateSettings
from meterhouse.streams.gate_feed import LogFeed
from meterhouse.streams.gate_wire import State, read_said
from tools.kafka.cluster import KafkaCluster

GATEWAYS: Final = 20
BUDGET_S: Final = 4.0  # the budget lasts so long at the rate
AFTER_S: Final = 1.5  # asked on for so long after its end
WARM_UP: Final = "warm-up"
TOKENS: Final = 1_000  # of input and of output
COST_PICO: Final = 2 * TOKENS * int(Decimal(PRICE) * 10**6)
BOUND_PICO: Final = COST_PICO * 3 // 2
SHORT: Final = ((1, 1, 50, 1.0), (20, 1, 50, 0.0), (20, 1, 200, 0.0), (20, 1, 200, 1.0), (20, 1, 1_000, 0.0),
                (20, 20, 200, 0.0), (20, 20, 200, 1.0))  # fmt: skip
"""Gateways, `gates` of their settings, requests a second of all together, seconds that a request runs."""
LONG: Final = (*SHORT, (1, 1, 200, 0.0), (20, 1, 50, 1.0), (20, 1, 1_000, 1.0), (20, 20, 50, 0.0), (20, 20, 50, 1.0),
               (20, 20, 1_000, 0.0), (20, 20, 1_000, 1.0))  # fmt: skip


@dataclass(frozen=True)
class Case:
    number: int
    gateways: int
    gates: int
    per_s: int
    runs_s: float

    @property
    def tenant(self) -> str:
        return f"case-{self.number:02d}"

    @property
    def limit_pico(self) -> int:
        return int(self.per_s * BUDGET_S) * COST_PICO

    @property
    def lasts_s(self) -> float:
        return BUDGET_S + self.runs_s + AFTER_S


class Spending(Gate):
    """A gate that notes when it first knew which spend of the case's budget."""

    def __init__(self, case: Case) -> None:
        super().__init__(now_us, GateSettings(gates=case.gates))
        self._tenant = case.tenant
        self.knew: list[tuple[int, int]] = []  # spend in pico-units, ascending, and when, microseconds

    def take(self, partition: int, key: bytes, value: bytes | None) -> None:
        super().take(partition, key, value)
        said = read_said(key, value) if value else None
        if isinstance(said, State) and said.budget_id == self._tenant:
            spent_pico = int(said.spent_pico)
            if not self.knew or spent_pico > self.knew[-1][0]:
                self.knew.append((spent_pico, now_us()))


@dataclass
class Gateway:
    """Asks its gate at random moments, runs what is admitted, publishes its event and settles."""

    case: Case
    gate: Spending
    publisher: Publisher
    seed: int
    admitted_us: list[int] = field(default_factory=list)
    refused: int = 0

    def run(self, begin_s: float) -> None:
        draw = random.Random(self.seed)
        rate = self.case.per_s / self.case.gateways
        running: list[tuple[float, str]] = []
        arrives_s = begin_s + draw.expovariate(rate)
        while arrives_s < begin_s + self.case.lasts_s or running:
            if arrives_s >= begin_s + self.case.lasts_s or (running and running[0][0] <= arrives_s):
                ends_s, reservation = heapq.heappop(running)
                time.sleep(max(0.0, ends_s - time.monotonic()))
                self._end(reservation)
                continue
            time.sleep(max(0.0, arrives_s - time.monotonic()))
            self._ask(running)
            arrives_s += draw.expovariate(rate)

    def _ask(self, running: list[tuple[float, str]]) -> None:
        decision = self.gate.admit(self.case.tenant, "assistant", MODELS[0][1], max_cost_pico=BOUND_PICO)
        if decision.admitted and decision.reservation is not None:
            self.admitted_us.append(now_us())
            heapq.heappush(running, (time.monotonic() + self.case.runs_s, decision.reservation))
        else:
            self.refused += 1

    def _end(self, reservation: str) -> None:
        provider, model = MODELS[0]
        event = UsageEvent(
            id=new_id(), source=f"/gateways/{self.seed}", tenant=self.case.tenant, time=datetime.now(UTC),
            application="assistant", model=model, provider=provider, status="ok", input_tokens=TOKENS,
            output_tokens=TOKENS,
        )  # fmt: skip
        assert self.publisher.publish(event)
        self.gate.settle(reservation, COST_PICO, 2 * TOKENS)


@dataclass(frozen=True)
class Outcome:
    case: Case
    admitted_us: list[int]
    refused: int
    longest_us: int

    @property
    def spent_pico(self) -> int:
        return len(self.admitted_us) * COST_PICO

    @property
    def beyond(self) -> float:
        """Of the limit."""
        return max(0, self.spent_pico - self.case.limit_pico) / self.case.limit_pico

    @property
    def bound(self) -> float:
        """Of the limit, by decision 0020."""
        most = max(
            bisect_right(self.admitted_us, begin_us + self.longest_us) - at
            for at, begin_us in enumerate(self.admitted_us)
        )
        return (self.case.gateways - 1) / self.case.gateways * most * COST_PICO / self.case.limit_pico


@contextmanager
def gateways_of(case: Case, town: Town) -> Iterator[list[Gateway]]:
    """Each with a log, a feed and a publisher of its own."""
    with ExitStack() as stack:
        found = []
        for number in range(case.gateways):
            log: KafkaLog = town.log()
            stack.callback(log.close)
            gate = Spending(case)
            feed = stack.enter_context(LogFeed(log, gate))
            found.append((feed, Gateway(case, gate, stack.enter_context(Publisher(log)), number)))
        for feed, _ in found:
            if not feed.wait_caught_up(READY_S):
                raise SystemExit(f"a gate has not caught up within {READY_S:.0f} s")
        yield [gateway for _, gateway in found]


def outcome_of(case: Case, town: Town) -> Outcome:
    with gateways_of(case, town) as gateways:
        begin_s = time.monotonic() + 0.1
        with ThreadPoolExecutor(len(gateways)) as pool:
            for done in [pool.submit(gateway.run, begin_s) for gateway in gateways]:
                done.result()
        admitted_us = sorted(at_us for gateway in gateways for at_us in gateway.admitted_us)
        spent_pico = len(admitted_us) * COST_PICO
        knew = [gateway.gate.knew for gateway in gateways]
        awaited("all spend at each gate", lambda: all(of and of[-1][0] == spent_pico for of in knew), READY_S, town)
        longest_us = max(longest(admitted_us, of) for of in knew)
        return Outcome(case, admitted_us, sum(gateway.refused for gateway in gateways), longest_us)


def longest(admitted_us: Sequence[int], knew: Sequence[tuple[int, int]]) -> int:
    """From an admission until a gate knew as much spend as all admissions up to it came to, at most, microseconds.

    Requests that run equally long come into the spend about in the order of their admission.
    """
    spends = [spent_pico for spent_pico, _ in knew]
    waits = []
    for number, at_us in enumerate(admitted_us, 1):
        found = bisect_right(spends, number * COST_PICO - 1)
        waits.append(knew[found][1] - at_us)
    return max(waits)


def measured(kafka: KafkaCluster, folder: Path, cases: Sequence[Case]) -> list[Outcome]:
    town = Town(kafka.bootstrap, folder / "home")
    town.run("topics", "apply", "--yes")
    budgets = [
        budget_of(case.tenant, f"{Decimal(case.limit_pico).scaleb(-12):f}", on_exceeded="block", when_stale="open")
        for case in cases
    ]
    town.apply(control_file([*(case.tenant for case in cases), WARM_UP], [*budgets, budget_of(WARM_UP)]))
    try:
        town.start("meter")
        town.start("budget-worker")
        warm_up(town)
        return [outcome_of(case, town) for case in cases]
    finally:
        town.stop()


def warm_up(town: Town) -> None:
    """Returns when meter and worker are at work."""
    with closing(town.log()) as log, clocked_gate(log) as gate:
        Flow([WARM_UP], 100, 1).publish(log)
        awaited(
            "the first state", lambda: any(one.key.startswith(WARM_UP.encode()) for one in gate.heard), READY_S, town
        )


def row_of(one: Outcome) -> Row:
    case = one.case
    kind = f"{case.gateways} gateways, gates={case.gates}" if case.gateways > 1 else "one gateway"
    spent = one.spent_pico / case.limit_pico
    return Row(
        f"{kind}, {case.per_s:,} requests/s of {case.runs_s:.0f} s",
        f"{one.beyond:.2%} beyond",
        f"bound {one.bound:.1%}",
        f"{spent:.1%} spent, {one.refused:,} refused, H {one.longest_us / 1e6:.2f} s",
        "0" if case.gateways == 1 else "≤ bound",
    )


def main() -> None:
    chosen = LONG if "--long" in sys.argv[1:] else SHORT
    cases = [Case(number, *values) for number, values in enumerate(chosen)]
    with tempfile.TemporaryDirectory() as folder, KafkaCluster() as kafka:
        outcomes = measured(kafka, Path(folder), cases)
    show(
        f"Overspend of a budget that lasts {BUDGET_S:.0f} s at the rate, as a share of its limit {load()}",
        [*map(row_of, outcomes)],
    )


if __name__ == "__main__":
    main()
