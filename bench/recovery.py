"""A meter on a real Kafka that was off: how it catches up, and how soon it works again after a SIGKILL.

`python -m bench.recovery [EVENTS]` (10 million by default, two minutes; needs Java and Maven). Seconds are by the
clock, from the kill to the next commit that a reader sees, of a process that is started again at once: by its name in
the group, and as another member, for whom the session of the dead one has to end first.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from bench.kafka_feed import arrow_messages, produced
from bench.report import Row, show
from bench.workload import MODELS, TENANTS
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.ingest.log import Message
from meterhouse.warehouse.lake import LakeError
from tools.kafka.cluster import KafkaCluster

EVENTS: Final = 10_000_000
LIMIT_S: Final = 900
GOAL_READY_S: Final = 10
GOAL_MIB: Final = 2_048
COMMAND: Final = (sys.executable, "-m", "meterhouse.api.cli")


def control_file() -> str:
    """Tenants and prices of the bench's workload."""
    prices = {kind.name: "2.50" for kind in TOKEN_KINDS}
    return yaml.safe_dump(
        {
            "currency": "USD",
            "tenants": [{"id": name, "name": name, "org": ["group"], "cost_center": "CC-1"} for name in TENANTS],
            "rate_card": [
                {"provider": provider, "model": model, "valid_from": "2026-01-01T00:00:00Z",
                 "per_million": dict(prices), "tenant": None, "approved_by": "finance@example.com"}
                for provider, model in MODELS
            ],
        }
    )  # fmt: skip


@dataclass
class Town:
    """A broker, a home and a meter."""

    bootstrap: str
    home: Path

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        told = {"METERHOUSE_HOME": str(self.home), "METERHOUSE_KAFKA_BOOTSTRAP": self.bootstrap}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("METERHOUSE_")}
        return kept | told | dict(extra or {})

    def run(self, *arguments: str) -> None:
        subprocess.run([*COMMAND, *arguments], env=self.environment(), check=True, stdout=subprocess.DEVNULL)

    def start(self, name: str = "") -> subprocess.Popen[bytes]:
        extra = {"METERHOUSE_KAFKA_INSTANCE": name} if name else {}
        environment = self.environment(extra)
        return subprocess.Popen([*COMMAND, "meter"], env=environment, stderr=subprocess.DEVNULL)

    def publish(self, messages: Iterable[Message]) -> None:
        produced(self.bootstrap, messages)

    def events_read(self) -> int:
        try:
            with House(Settings(home=self.home, kafka_bootstrap=self.bootstrap)) as house, house.lake.read() as cursor:
                row = cursor.execute('SELECT coalesce(sum("read"), 0) FROM positions').fetchone()
                return int(row[0]) if row else 0
        except LakeError:  # it is being made
            return 0

    def await_more_than(self, events: int, meter: subprocess.Popen[bytes]) -> float:
        """Seconds until the lake holds more than so many events."""
        begin_s = time.monotonic()
        while self.events_read() <= events:
            assert meter.poll() is None, f"the meter left with {meter.returncode}"
            assert time.monotonic() - begin_s < LIMIT_S, f"not within {LIMIT_S} s"
            time.sleep(0.05)
        return time.monotonic() - begin_s


def peak_mib(process: subprocess.Popen[bytes]) -> float:
    """The most that a process ever had resident (Linux)."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def ready_s(town: Town, meter: subprocess.Popen[bytes], name: str) -> tuple[float, subprocess.Popen[bytes]]:
    """Kills the meter, starts another under `name`, and waits for the next commit."""
    before = town.events_read()
    meter.send_signal(signal.SIGKILL)
    begin_s = time.monotonic()
    meter.wait()
    successor = town.start(name)
    town.publish(arrow_messages(1, 1))
    town.await_more_than(before, successor)
    return time.monotonic() - begin_s, successor


def main() -> None:
    events = int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS
    with tempfile.TemporaryDirectory() as folder, KafkaCluster() as kafka:
        town = Town(kafka.bootstrap, Path(folder) / "home")
        control = Path(folder) / "control.yaml"
        control.write_text(control_file(), encoding="utf-8")
        town.run("topics", "apply", "--yes")
        town.run("apply", str(control))
        town.publish(arrow_messages(events, 5_000, hours_ago=2 + events // 3_600_000))
        meter = town.start("meter-1")
        caught_up_s = town.await_more_than(events - 1, meter)
        peak = peak_mib(meter)
        named_s, meter = ready_s(town, meter, "meter-1")
        other_s, meter = ready_s(town, meter, "meter-2")
        meter.send_signal(signal.SIGTERM)
        meter.wait(60)
        town.run("verify")
    show(
        f"A meter that was off, {events:,} events behind",
        [
            Row("catches up", f"{caught_up_s:,.1f} s, {events / caught_up_s / 1e3:,.0f} k/s by the clock"),
            Row("  resident at most", f"{peak:,.0f} MiB", "", "", f"≤ {GOAL_MIB:,} MiB"),
            Row("from SIGKILL to the next commit, by its name", f"{named_s:.1f} s", "", "", f"≤ {GOAL_READY_S} s"),
            Row("from SIGKILL to the next commit, as another", f"{other_s:.1f} s", "", "", f"≤ {GOAL_READY_S} s"),
        ],
    )


if __name__ == "__main__":
    main()
