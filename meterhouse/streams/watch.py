"""What the workers tell whoever watches them: the ports of their metrics. Told from the workers' threads, so what a
watcher does must be short."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from meterhouse.streams.dedupe_store import Dedupe
from meterhouse.streams.ledger import Processed

Delivered = Literal["delivered", "failed", "given_up", "silenced"]


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a meter is behind the log's end, by partition of its own."""

    records: Mapping[int, int] = field(default_factory=dict)  # not yet processed
    seconds: Mapping[int, float] = field(default_factory=dict)  # since the last processed arrived; 0: none is unread

    @property
    def total_records(self) -> int:
        return sum(self.records.values())


class MeterWatch(Protocol):
    """Watches a meter."""

    def processed(self, unit: Processed, records: int, seconds: float) -> None:
        """A poll of so many records was decoded, deduped, rated and rolled up."""
        ...

    def committed(self, unit: Processed, seconds: float) -> None:
        """A unit is in the lake, so many seconds after its commit began."""
        ...

    def fenced(self, partitions: int) -> None:
        """A commit was fenced: the work of so many partitions was dropped."""
        ...

    def stands(self, lag: Lag, buffered_events: int, ids: int, id_bytes: int) -> None:
        """About once a second: how far behind, what waits for a commit, and how many ids the dedupe indexes hold."""
        ...


class BudgetWatch(Protocol):
    """Watches a budget worker."""

    def judged(self, totals: int, states: int, alerts: int) -> None:
        """A turn: so many totals were read, so many states said, so many alerts raised."""
        ...


class AlertWatch(Protocol):
    """Watches an alert sender."""

    def tried(self, channel: str, outcome: Delivered, seconds: float) -> None:
        """An alert was posted on a channel or not, so many seconds after it was raised."""
        ...


class Unwatched:
    """Nobody watches."""

    def processed(self, unit: Processed, records: int, seconds: float) -> None:
        pass

    def committed(self, unit: Processed, seconds: float) -> None:
        pass

    def fenced(self, partitions: int) -> None:
        pass

    def stands(self, lag: Lag, buffered_events: int, ids: int, id_bytes: int) -> None:
        pass

    def judged(self, totals: int, states: int, alerts: int) -> None:
        pass

    def tried(self, channel: str, outcome: Delivered, seconds: float) -> None:
        pass


def nothing() -> None:
    """There is nothing to do."""


@dataclass(frozen=True, slots=True)
class MeterHooks:
    """What others hang into a meter. `between_commits` runs on the ledger's thread after a commit, while no transaction
    is open: the place for maintenance."""

    watch: MeterWatch = field(default_factory=Unwatched)
    between_commits: Callable[[], None] = nothing
    dedupe: Dedupe | None = None  # where dedupe indexes come from, for this meter alone; None: all in memory
