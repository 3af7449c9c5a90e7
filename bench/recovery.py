"""A meter on a real Kafka that was off: how it catches up, and how soon it works again after a SIGKILL.

`python -m bench.recovery [EVENTS]` (10 million by default, two minutes; needs Java and Maven). Seconds are by the
clock, from the kill to the next commit that a reader sees, of a process that is started again at once: by its name in
the group, and as another member, for whom the session of the dead one has to end first.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from bench.kafka_feed import arrow_messages
from bench.report import Row, show
from bench.town import Town, awaited, control_file
from bench.workload import TENANTS
from tools.kafka.cluster import KafkaCluster

EVENTS: Final = 10_000_000
LIMIT_S: Final = 900
GOAL_READY_S: Final = 10
GOAL_MIB: Final = 2_048


def peak_mib(process: subprocess.Popen[bytes]) -> float:
    """The most that a process ever had resident (Linux)."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def await_more_than(town: Town, events: int) -> float:
    """Seconds until the lake holds more than so many events."""
    return awaited("the lake's events", lambda: town.events_read() > events, LIMIT_S, town)


def ready_s(town: Town, meter: subprocess.Popen[bytes], name: str) -> tuple[float, subprocess.Popen[bytes]]:
    """Kills the meter, starts another under `name`, and waits for the next commit."""
    before = town.events_read()
    meter.send_signal(signal.SIGKILL)
    begin_s = time.monotonic()
    meter.wait()
    successor = town.start("meter", name)
    town.publish(arrow_messages(1, 1))
    await_more_than(town, before)
    return time.monotonic() - begin_s, successor


def main() -> None:
    events = int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS
    with tempfile.TemporaryDirectory() as folder, KafkaCluster() as kafka:
        town = Town(kafka.bootstrap, Path(folder) / "home")
        town.run("topics", "apply", "--yes")
        town.apply(control_file(TENANTS))
        town.publish(arrow_messages(events, 5_000, hours_ago=2 + events // 3_600_000))
        meter = town.start("meter", "meter-1")
        caught_up_s = await_more_than(town, events - 1)
        peak = peak_mib(meter)
        named_s, meter = ready_s(town, meter, "meter-1")
        other_s, _ = ready_s(town, meter, "meter-2")
        town.stop()
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
