"""Two budget workers on a real broker: one is killed and the other goes on; both are killed and gates know it."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from meterhouse.ingest.kafka_log import KafkaLog
from meterhouse.ingest.log import BUDGET_STATES
from meterhouse.ingest.topics import BUDGET_PARTITIONS
from meterhouse.streams.gate import Decision, Gate
from meterhouse.streams.gate_feed import LogFeed
from tests.crash.budget_checks import budget_differences, records
from tests.crash.chaos import now_us
from tests.crash.checks import Scene
from tests.crash.control_data import control_text
from tests.crash.nursery import Child, Nursery
from tests.crash.producer import publish
from tests.crash.rig import CLI, Rig, awaited, prepared, scene
from tests.crash.stream import Stream, write_plan
from tests.e2e.house import environment
from tests.services.kafka import own_cluster

RESUMES_S: Final = 12.0
"""From a SIGKILL to states of all budgets by the survivor: six seconds of silence, and what a rebalance takes."""
STALE_AFTER_S: Final = 5


@dataclass
class Town:
    """A broker, a home, a meter at work, and budget workers that come and go."""

    rig: Rig
    stream: Stream
    nursery: Nursery
    left: Scene
    pieces: int = 0

    def publish(self, events: int) -> None:
        plan = self.rig.folder / f"plan-{self.pieces}.jsonl"
        self.pieces += 1
        write_plan(plan, self.stream.take(events))
        publish(self.rig.publish, plan, plan.with_suffix(".acknowledged"), 1e9)

    def worker(self) -> Child:
        return self.nursery.start([CLI, "budget-worker"], self.rig.environment)

    def share_partitions(self) -> bool:
        """Have the two workers that were assigned partitions last all of them between them?"""
        lines = (self.rig.folder / "processes.log").read_text(encoding="utf-8", errors="replace").splitlines()
        told = [json.loads(line)["partitions"] for line in lines if '"partitions assigned"' in line][-2:]
        return all(told) and sorted(itertools.chain(*told)) == list(range(BUDGET_PARTITIONS))

    def is_right(self) -> bool:
        """Is each budget's last state the oracle's, and each alert there?"""
        return not budget_differences(self.left, now_us())

    def fresh(self) -> Mapping[int, dict[str, Any]]:
        """How fresh the states are, by partition, as last said."""
        told = records(self.left.log, BUDGET_STATES)
        return {partition: json.loads(value or b"{}") for partition, key, value in told if key.startswith(b"|fresh|")}


def control(now_us: int) -> str:
    """A budget per tenant, so that some are in each partition; and one for requests of an application whose gates close
    when states are stale, one whose gates stay open."""

    def budget(name: str, scope: dict[str, str], **more: object) -> dict[str, Any]:
        window = {"every": "month", "time_zone": "UTC"}
        sizes = {"limit": "1000.00", "thresholds": [0.1, 1, 10, 100]}
        return {"id": name, "scope": scope, "window": window, **sizes, "on_exceeded": "block", **more}

    document = yaml.safe_load(control_text(now_us))
    document["budgets"] = [
        *(budget(f"of-{n}", {"tenant": f"tenant-{n}"}) for n in range(7)),
        budget("closed", {"application": "search"}, when_stale="closed", stale_after_s=STALE_AFTER_S),
        budget("open", {"application": "assistant"}, when_stale="open", stale_after_s=STALE_AFTER_S),
    ]
    return yaml.safe_dump(document)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    folder: Path = tmp_path_factory.mktemp("workers")
    with own_cluster(steady=True) as cluster, Nursery(folder / "processes.log") as nursery:
        rig = Rig(
            folder=folder,
            environment=environment(
                {"METERHOUSE_HOME": str(folder / "home"), "METERHOUSE_KAFKA_BOOTSTRAP": cluster.bootstrap}
            ),
            publish=cluster.bootstrap,
            meter=("meter",),
            meters=(1, 1),
            session_s=6.0,
        )
        at_us = now_us()
        read = prepared(rig, control(at_us), (("topics", "apply", "--yes"), ("meter", "--until-idle")))
        stream = Stream(11, at_us, read)
        nursery.start([CLI, *rig.meter], rig.environment)
        with scene(rig, stream) as left:
            yield Town(rig, stream, nursery, left)


def admit(gate: Gate, application: str) -> Decision:
    return gate.admit("tenant-1", application, "atlas-large", max_cost_pico=1)


def test_the_survivor_says_the_states_of_all_budgets_within_12_s_of_a_kill(town: Town) -> None:
    town.publish(500)
    killed, survivor = town.worker(), town.worker()
    awaited("the workers share the partitions", town.share_partitions)
    awaited("all states are said", town.is_right)
    begin = time.monotonic()
    killed.kill()
    town.publish(300)
    assert not town.is_right()
    awaited("the survivor says all states", town.is_right, RESUMES_S - (time.monotonic() - begin))
    print(f"\nfrom SIGKILL to all states: {time.monotonic() - begin:.1f} s")
    survivor.kill()
    survivor.code(RESUMES_S)


def test_while_nobody_judges_states_stand_still_and_gates_follow_their_policy(town: Town) -> None:
    workers = [town.worker(), town.worker()]
    town.publish(100)
    awaited("all states are said", town.is_right)
    log, gate = KafkaLog(town.rig.publish, group=None), Gate(clock=now_us)
    with LogFeed(log, gate) as feed:
        assert feed.wait_caught_up(60)
        awaited("gates admit", lambda: all(admit(gate, name).admitted for name in ("search", "assistant")))
        for worker in workers:
            worker.kill()
            worker.code(RESUMES_S)
        fresh = town.fresh()
        town.publish(100)
        awaited("the closed budget refuses", lambda: not admit(gate, "search").admitted)
        refused = admit(gate, "search")
        assert (refused.reason, refused.budget_id, refused.retryable) == ("stale", "closed", True)
        assert refused.now_us - min(each["as_of_us"] for each in fresh.values()) >= STALE_AFTER_S * 1_000_000
        assert admit(gate, "assistant").admitted
        assert town.fresh() == fresh
        successor = town.worker()
        awaited("the closed budget admits again", lambda: admit(gate, "search").admitted)
        awaited("all states are said", town.is_right)
        assert admit(gate, "assistant").admitted
        successor.kill()
    log.close()
