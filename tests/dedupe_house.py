"""A log, a lake and a meter reduced to what dedupe sees of them, with local files that may be torn, lost or ahead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from meterhouse.streams.dedupe_runs import Damaged
from meterhouse.streams.dedupe_store import TieredDedupe
from meterhouse.streams.dedupe_tiers import TierLimits
from meterhouse.streams.ledger import AcceptedKeys, Counts, Ledger, Position

HOUR_US = 3_600_000_000
PARTITION = 3
SMALL = TierLimits(hot_keys=4, least_hot_keys=4, runs_a_generation=2, generations=2, load_keys=7, merge_keys=5)
"""So small that every tier is used by a few dozen keys."""

Key = tuple[int, int]


@dataclass
class Lake:
    """What is committed: a prefix of the log, and the positions that commits left, each with the keys so far."""

    log: list[tuple[Key, int]] = field(default_factory=list)
    truth: list[bool] = field(default_factory=list)  # of each entry of the log: is it accepted
    commits: list[int] = field(default_factory=lambda: [0])  # ends of the log as committed
    name: str = "lake"

    @property
    def end(self) -> int:
        return self.commits[-1]

    def position(self, end: int) -> Position:
        counts = Counts(read=end, billed=sum(self.truth[:end]), duplicates=end - sum(self.truth[:end]))
        return Position(end, counts, self.log[end - 1][1] * HOUR_US if end else None)

    def positions(self) -> dict[int, Position]:
        return {PARTITION: self.position(self.end)}

    def identity(self) -> str:
        return self.name

    def accepted_keys(self, partition: int, since_hour: int, since_offset: int | None = None) -> Iterator[AcceptedKeys]:
        assert partition == PARTITION
        rows = [
            self.log[n] for n in range(since_offset or 0, self.end) if self.truth[n] and self.log[n][1] >= since_hour
        ]
        rows = rows[1::2] + rows[::2]  # a lake promises no order
        for start in range(0, len(rows), 3):
            yield AcceptedKeys(*columns(rows[start : start + 3]))


def columns(rows: Sequence[tuple[Key, int]]) -> tuple[Any, Any]:
    return (
        np.array([key for key, _ in rows], dtype=np.uint64).reshape(-1, 2),
        np.array([hour for _, hour in rows], dtype=np.int32),
    )


class House:
    """A meter that reads the log, checks each verdict against a dict's, and may die at any point."""

    def __init__(self, path: Path, window_hours: int, limits: TierLimits = SMALL, memory_bytes: int = 2**30) -> None:
        self.path, self.window_hours, self.limits, self.memory_bytes = path, window_hours, limits, memory_bytes
        self.lake = Lake()
        self.accepted_at: dict[Key, int] = {}
        self.read = 0  # how far the log was read by the meter that lives
        self.start()

    @property
    def ledger(self) -> Ledger:
        return cast("Ledger", self.lake)

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in self.path.glob("*/*") if path.name != "lock")

    def append(self, key: Key, hour: int) -> None:
        accepted = self.accepted_at.get(key, hour - self.window_hours) <= hour - self.window_hours
        if accepted:
            self.accepted_at[key] = hour
        self.lake.log.append((key, hour))
        self.lake.truth.append(accepted)

    def become_another_lake(self) -> None:
        """One with as many commits of as many keys, none of them equal."""
        self.lake.name += "'"
        log, self.lake.log, self.lake.truth, self.accepted_at = self.lake.log, [], [], {}
        for (first, second), hour in log:
            self.append((first ^ 2**40, second), hour)

    def start(self) -> None:
        self.store = TieredDedupe(self.path, self.window_hours, self.memory_bytes, limits=self.limits, background=False)
        self.open()

    def open(self) -> None:
        self.index = self.store.open(PARTITION, self.lake.position(self.lake.end), self.ledger)
        self.read = self.lake.end

    def catch_up(self, step: int = 10**9) -> None:
        """Reads the log to its end and checks every verdict. A damaged file is noticed, and all begins again."""
        while self.read < len(self.lake.log):
            rows = self.lake.log[self.read : self.read + step]
            try:
                verdicts = self.index.filter(*columns(rows)).tolist()
            except Damaged:
                self.open()
                continue
            assert verdicts == self.lake.truth[self.read : self.read + len(rows)], f"entries from {self.read} on"
            self.read += len(rows)

    def commit(self, end: int) -> None:
        """Commits the log up to `end`, which was read."""
        if end > self.lake.end:
            self.lake.commits.append(end)
            self.store.committed(PARTITION, self.lake.position(end))

    def keep_up(self) -> None:
        self.store.keep_up()

    def die(self) -> None:
        """As by SIGKILL: nothing is written any more, and locks are free."""
        for held in self.store._held.values():
            held.upkeep.folder.close()
        self.store._held.clear()

    def stop(self) -> None:
        self.store.close()
