"""What a bench on a real Kafka runs against: a broker, a home, and Meterhouse's own processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from bench.kafka_feed import produced
from bench.workload import MODELS
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House, open_kafka
from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.ingest.kafka_log import KafkaLog
from meterhouse.ingest.log import Message
from meterhouse.warehouse.lake import LakeError

COMMAND: Final = (sys.executable, "-m", "meterhouse")
PRICE: Final = "2.50"
LEAVE_S: Final = 60.0
LOOK_S: Final = 0.05


def control_file(
    tenants: Sequence[str],
    budgets: Sequence[Mapping[str, Any]] = (),
    models: Sequence[tuple[str, str]] = MODELS,
) -> str:
    """Tenants, prices of (provider, model), and budgets as the control file writes them."""
    return yaml.safe_dump(
        {
            "currency": "USD",
            "tenants": [{"id": name, "name": name, "org": ["group"], "cost_center": "CC-1"} for name in tenants],
            "rate_card": [
                {"provider": provider, "model": model, "valid_from": "2026-01-01T00:00:00Z",
                 "per_million": {kind.name: PRICE for kind in TOKEN_KINDS}, "tenant": None,
                 "approved_by": "finance@example.com"}
                for provider, model in models
            ],
            "budgets": [dict(budget) for budget in budgets],
        }
    )  # fmt: skip


def budget_of(tenant: str, limit: str = "1000000000", **parts: Any) -> dict[str, Any]:
    """A tenant's budget of a month, of the tenant's name."""
    return {
        "id": tenant,
        "scope": {"tenant": tenant},
        "window": {"every": "month", "time_zone": "UTC"},
        "limit": limit,
        "thresholds": [50, 80, 100],
        "on_exceeded": "notify",
        **parts,
    }


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds of processes so far, all their threads."""
    total = 0.0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def awaited(what: str, condition: Callable[[], object], limit_s: float, town: Town | None = None) -> float:
    """Seconds until `condition` held; stops the bench when it does not, or when a worker of `town` has left."""
    begin_s = time.monotonic()
    while not condition():
        if town is not None:
            town.refuse_dead()
        if time.monotonic() - begin_s > limit_s:
            raise SystemExit(f"{what}: not within {limit_s:.0f} s")
        time.sleep(LOOK_S)
    return time.monotonic() - begin_s


@dataclass
class Town:
    """A broker, a home, and the processes started in it. `extra`: more of their environment."""

    bootstrap: str
    home: Path
    extra: dict[str, str] = field(default_factory=dict)
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        return Settings(home=self.home, kafka_bootstrap=self.bootstrap)

    def log(self) -> KafkaLog:
        """The log in no group; its caller closes it."""
        return open_kafka(self.settings, None)

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        told = {"METERHOUSE_HOME": str(self.home), "METERHOUSE_KAFKA_BOOTSTRAP": self.bootstrap}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("METERHOUSE_")}
        return kept | told | self.extra | dict(extra or {})

    def run(self, *arguments: str) -> None:
        subprocess.run([*COMMAND, *arguments], env=self.environment(), check=True, stdout=subprocess.DEVNULL)

    def apply(self, control: str) -> None:
        file = self.home.with_name("control.yaml")
        file.write_text(control, encoding="utf-8")
        self.run("apply", str(file))

    def start(self, command: str = "meter", name: str = "") -> subprocess.Popen[bytes]:
        """Starts a worker, under `name` in its group."""
        environment = self.environment({"METERHOUSE_KAFKA_INSTANCE": name} if name else {})
        heard = self.home.with_name(f"{command}.log")
        with heard.open("ab") as out:
            worker = subprocess.Popen([*COMMAND, command], env=environment, stderr=out)
        self.workers[command] = worker
        return worker

    def stop(self) -> None:
        """Ends all workers as an operator would."""
        running = [worker for worker in self.workers.values() if worker.poll() is None]
        for worker in running:
            worker.send_signal(signal.SIGTERM)
        for worker in running:
            worker.wait(LEAVE_S)
        self.workers = {}

    def refuse_dead(self) -> None:
        """Stops the bench when one of the workers has left."""
        for command, worker in self.workers.items():
            if worker.poll() is not None:
                said = self.home.with_name(f"{command}.log").read_text()[-2_000:]
                raise SystemExit(f"{command} left with {worker.returncode}: {said}")

    def publish(self, messages: Iterable[Message]) -> None:
        produced(self.bootstrap, messages)

    def events_read(self) -> int:
        try:
            with House(self.settings) as house, house.lake.read() as cursor:
                row = cursor.execute('SELECT coalesce(sum("read"), 0) FROM positions').fetchone()
                return int(row[0]) if row else 0
        except LakeError:  # it is being made
            return 0
