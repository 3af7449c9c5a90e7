"""The dedupe window beyond memory: ready from the lake alone and from local files, speed and resident memory, against
a window of ten million.

`python -m bench.dedupe [IDS]`: 40 million by default; 1000000000 takes a quarter of an hour and 22 GB of disk. Ids are
random keys of 128 bits, as event keys are, over four partitions and 35 days of arrival. Each window is filled by one
process, killed, and opened by another from its files, which the page cache has forgotten. Speed is per second of CPU,
of the thread or (the chain, with upkeep) of the process, on one core.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from bench.chain import chain, control, fill
from bench.report import Row, show
from meterhouse.api.clock import now_us
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.streams.dedupe import WINDOW_HOURS, KeyIndex
from meterhouse.streams.dedupe_store import TieredDedupe
from meterhouse.streams.ledger import AcceptedKeys, Counts, Ledger, Position

PARTITIONS: Final = 4
FEW: Final = 10_000_000
CHUNK: Final = 1_000_000
BATCH: Final = 50_000
ROUNDS: Final = 200
HOUR_US: Final = 3_600_000_000
MEMORY_BYTES: Final = 2560 * 2**20
GOAL_READY_S, GOAL_MIB, GOAL_SLOWER = 10, 3072, 0.30


@dataclass(frozen=True)
class SyntheticLake:
    """A lake that has accepted `ids` random keys in each partition, evenly over the window."""

    ids: int
    now_us: int

    def position(self) -> Position:
        return Position(self.ids, Counts(read=self.ids, billed=self.ids), self.now_us)

    def positions(self) -> dict[int, Position]:
        return dict.fromkeys(range(PARTITIONS), self.position())

    def identity(self) -> str:
        return f"synthetic-{self.ids}"

    def keys(self, partition: int, chunk: int) -> npt.NDArray[np.uint64]:
        count = min(CHUNK, self.ids - chunk * CHUNK)
        return np.random.default_rng((partition, chunk)).integers(0, 2**64, (count, 2), dtype=np.uint64)

    def accepted_keys(self, partition: int, since_hour: int, since_offset: int | None = None) -> Iterator[AcceptedKeys]:
        newest = self.now_us // HOUR_US
        for chunk in range((since_offset or 0) // CHUNK, -(-self.ids // CHUNK)):
            keys = self.keys(partition, chunk)
            numbers = chunk * CHUNK + np.arange(len(keys))
            hours = newest - WINDOW_HOURS + 1 + numbers * WINDOW_HOURS // self.ids
            wanted = numbers >= (since_offset or 0)
            yield AcceptedKeys(keys[wanted], hours[wanted].astype(np.int32))


class Opened:
    """The store as the meter of the chain sees it: partitions are open already, and far ahead of that meter's lake."""

    def __init__(self, store: TieredDedupe, indexes: dict[int, KeyIndex], before: Position) -> None:
        self._store, self._indexes, self._before = store, indexes, before

    def open(self, partition: int, position: Position, ledger: Ledger) -> KeyIndex:
        return self._indexes[partition]

    def committed(self, partition: int, position: Position) -> None:
        self._store.committed(partition, replace(position, counts=self._before.counts + position.counts))

    def drop(self, partition: int) -> None:
        pass

    def close(self) -> None:
        pass


def memory_mib(which: str) -> float:
    """VmRSS or VmHWM of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(which):
            return int(line.split()[1]) / 1024
    return 0.0


def opened(folder: Path, lake: SyntheticLake) -> tuple[TieredDedupe, dict[int, KeyIndex], float]:
    began, cpu = time.perf_counter(), time.process_time()
    store = TieredDedupe(folder, WINDOW_HOURS, MEMORY_BYTES)
    indexes = {p: store.open(p, lake.position(), cast("Ledger", lake)) for p in range(PARTITIONS)}
    ready_s = time.perf_counter() - began
    print(f"ready: {ready_s:.1f} s, of CPU {time.process_time() - cpu:.1f} s", file=sys.stderr)
    return store, indexes, ready_s


def settled(store: TieredDedupe) -> None:
    """Until upkeep has nothing to do."""
    while any(held.is_queued or (held.work and not held.work.done()) for held in store._held.values()):
        time.sleep(0.1)


def stage(indexes: dict[int, KeyIndex], lake: SyntheticLake) -> dict[str, float]:
    """Million ids a second of this thread's CPU: new ones, and those of the oldest tenth of the window, sent again."""
    rng = np.random.default_rng(time.time_ns())
    hour = np.full(BATCH, lake.now_us // HOUR_US, dtype=np.int32)
    seconds = []
    for number in range(ROUNDS):
        keys = rng.integers(0, 2**64, (BATCH, 2), dtype=np.uint64)
        began = time.thread_time()
        accepted = indexes[number % PARTITIONS].filter(keys, hour)
        seconds.append(time.thread_time() - began)
        assert accepted.all()
    old = lake.keys(0, max(1, lake.ids // CHUNK // 10))[:BATCH]
    began = time.thread_time()
    assert not indexes[0].filter(old, hour[: len(old)]).any()
    old_s = time.thread_time() - began
    return {
        "new": BATCH * ROUNDS / sum(seconds) / 1e6,
        "new_median": BATCH / float(np.median(seconds)) / 1e6,
        "old": len(old) / old_s / 1e6,
    }


def filled(folder: Path, lake: SyntheticLake) -> dict[str, Any]:
    store, _, ready_s = opened(folder, lake)
    at_ready = memory_mib("VmRSS")
    began = time.perf_counter()
    settled(store)
    return {
        "ready_s": ready_s, "merged_s": time.perf_counter() - began, "rss_ready": at_ready,
        "rss": memory_mib("VmRSS"), "peak": memory_mib("VmHWM"), "ids": len(store),
        "disk_gb": sum(path.stat().st_size for path in folder.glob("*/*")) / 1e9,
    }  # fmt: skip


def restarted(folder: Path, lake: SyntheticLake, events: int) -> dict[str, Any]:
    store, indexes, ready_s = opened(folder, lake)
    told: dict[str, Any] = {"ready_s": ready_s, "rss_ready": memory_mib("VmRSS"), "peak_ready": memory_mib("VmHWM")}
    settled(store)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {0})  # this thread; upkeep may have the other core
    told |= stage(indexes, lake)
    told |= {"rss": memory_mib("VmRSS"), "peak": memory_mib("VmHWM"), "ids": len(store)}
    with tempfile.TemporaryDirectory() as home:
        settings = Settings(home=Path(home) / "home")  # type: ignore[call-arg]
        with House(settings, writer=True) as house:
            fill(house, events, 100)
            seen = Opened(store, indexes, lake.position())
            house.dedupe = lambda: seen  # type: ignore[method-assign]
            run = chain(house, control(), events)
    told |= {
        "chain": run.per_core / 1e3,
        "chain_clock": run.events / run.wall_s / 1e3,
        "peak_chain": memory_mib("VmHWM"),
    }
    return told


def forget(folder: Path) -> None:
    """The page cache lets the files go."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in folder.glob("*/*"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def child(*arguments: object) -> dict[str, Any]:
    """A process of its own; it ends by SIGKILL's like, without closing anything."""
    command = [sys.executable, "-m", "bench.dedupe", *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(*arguments[:1], json.dumps(told), flush=True)
    return told


def measured(ids: int, events: int, root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    folder, at_us = root / str(ids), now_us() - 2 * HOUR_US  # before the events of the chain
    first = child("fill", folder, ids, at_us, events)
    forget(folder)
    second = child("restart", folder, ids, at_us, events)
    return first, second


def main() -> None:
    if sys.argv[1:2] in (["fill"], ["restart"]):
        mode, folder, ids, at_us, events = sys.argv[1:]
        lake = SyntheticLake(int(ids) // PARTITIONS, int(at_us))
        told = filled(Path(folder), lake) if mode == "fill" else restarted(Path(folder), lake, int(events))
        print(json.dumps(told), flush=True)
        os._exit(0)
    ids = int(sys.argv[1]) if sys.argv[1:] else 40_000_000
    events = 400_000
    with tempfile.TemporaryDirectory() as root:
        few_filled, few = measured(FEW, events, Path(root))
        many_filled, many = measured(ids, events, Path(root))
    rows = [
        Row("ready from the lake alone, keys at once", *(f"{w['ready_s']:.1f} s" for w in (many_filled, few_filled))),
        Row(
            "ready from local files, cold", *(f"{w['ready_s']:.1f} s" for w in (many, few)), goal=f"≤ {GOAL_READY_S} s"
        ),
        Row("resident", *(f"{w['rss']:,.0f} MiB" for w in (many, few))),
        Row(
            "most ever resident: filling, running",
            *(f"{a['peak']:,.0f}, {b['peak']:,.0f} MiB" for a, b in ((many_filled, many), (few_filled, few))),
            goal=f"≤ {GOAL_MIB:,} MiB",
        ),
        Row("files", *(f"{w['disk_gb']:.1f} GB" for w in (many_filled, few_filled))),
        _slower("dedupe, new ids, million a second", many["new"], few["new"]),
        _slower("dedupe, new ids, median batch", many["new_median"], few["new_median"]),
        _slower("dedupe, ids of a month ago sent again", many["old"], few["old"], goal=False),
        _slower("whole chain, thousand a second of CPU", many["chain"], few["chain"]),
    ]
    show(f"Dedupe window of {ids:,} ids; limit: with {FEW:,}", rows)


def _slower(figure: str, many: float, few: float, *, goal: bool = True) -> Row:
    return Row(figure, f"{many:,.2f}", f"{few:,.2f}", f"{many / few:.0%}", f"≥ {1 - GOAL_SLOWER:.0%}" if goal else "")


if __name__ == "__main__":
    main()
