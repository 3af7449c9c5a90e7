"""Threshold crossed → alert posted, through the real meter, worker, alert sender and broker, beside other events.

`python -m bench.budgets_alerts [ALERTS]`. Each alert is of a budget of its own that one record of events exceeds: the
way begins when that record's append does.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Final

from bench.budgets_load import READY_S, Flow, load, shown
from bench.report import Row, show
from bench.town import Town, awaited, budget_of, control_file
from meterhouse.streams.alert import Alert
from tests.services.receiver import Receiver, own_receiver
from tools.kafka.cluster import KafkaCluster

ALERTS: Final = 100
ALERTS_PER_S: Final = 10
OTHERS_PER_S: Final = 500
GOAL: Final = "p99 ≤ 1,000 ms"


def first_of(receiver: Receiver) -> dict[str, tuple[int, int]]:
    """By budget: when its alert came first, and when it was raised, microseconds."""
    found: dict[str, tuple[int, int]] = {}
    for request in receiver.requests:
        alert = Alert.from_json(request.body)
        found.setdefault(alert.subject, (request.at_us, alert.created_us))
    return found


def measured(kafka: KafkaCluster, folder: Path, alerts: int) -> list[Row]:
    small = [f"small-{n:03d}" for n in range(alerts)]
    others = [f"tenant-{n:03d}" for n in range(50)]
    budgets = [budget_of(name, "0.000001", thresholds=[100]) for name in small]
    budgets += [budget_of(name, "0.000001" if name == others[0] else "1000000000") for name in others]
    with own_receiver() as receiver:
        town = Town(kafka.bootstrap, folder / "home", {"METERHOUSE_WEBHOOK_URL": receiver.url})
        town.run("topics", "apply", "--yes")
        town.apply(control_file([*small, *others], budgets))
        log = town.log()
        try:
            for command in ("meter", "budget-worker", "alert-sender"):
                town.start(command)
            Flow(others, OTHERS_PER_S, 1).publish(log)
            awaited("the first alert", lambda: others[0] in first_of(receiver), READY_S, town)
            with Flow(others, OTHERS_PER_S, alerts / ALERTS_PER_S).beside(log):
                published = Flow(small, 10 * ALERTS_PER_S, alerts / ALERTS_PER_S).publish(log)
            awaited("all alerts", lambda: first_of(receiver).keys() >= set(small), READY_S, town)
        finally:
            town.stop()
            log.close()
        posted = first_of(receiver)
    came = {one.tenant: (*posted[one.tenant], one.at_us) for one in published}
    return [
        Row("published → posted", shown([(at - begin) / 1e3 for at, _, begin in came.values()]), "", "", GOAL),
        Row("  published → raised", shown([(raised - begin) / 1e3 for _, raised, begin in came.values()])),
        Row("  raised → posted", shown([(at - raised) / 1e3 for at, raised, _ in came.values()])),
    ]


def main() -> None:
    alerts = int(sys.argv[1]) if len(sys.argv) > 1 else ALERTS
    with tempfile.TemporaryDirectory() as folder, KafkaCluster() as kafka:
        rows = measured(kafka, Path(folder), alerts)
    show(f"{alerts} alerts, p50 / p99, while {OTHERS_PER_S} other events/s flow {load()}", rows)


if __name__ == "__main__":
    main()
