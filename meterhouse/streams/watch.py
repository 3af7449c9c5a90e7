"""What the workers tell whoever watches them: the ports of their metrics. Told from the workers' threads, so what a
watcher does must be short."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from meterhouse.streams.dedupe_store import Dedupe
from meterhouse.streams.ledger import Processed

Delivered = Literal["delivered", "failed", "given_up", "silenced"]
Away = Literal["lake", "log", "log_full", "control"]
"""What was not to be had for a moment: the lake (its catalogue or its files), the log, room in it, the control data's
database."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What a poll was, and what its parts took."""

    records: int
    poll_s: float  # waiting for records, and their transfer
    decode_s: float
    process_s: float  # dedupe, rating, roll-up


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a meter is behind the log's end, by partition of its own."""

    records: Mapping[int, int] = field(default_factory=dict)  # not yet processed
    seconds: Mapping[int, float] = field(default_factory=dict)  # since the last processed arrived; 0: none is unread

    @property
    def total_records(self) -> int:
        return sum(self.records.values())


@dataclass(frozen=True, slots=True)
class Stand:
    """What a meter holds at the moment."""

    lag: Lag
    buffered_events: int  # processed, and in no commit yet
    dedupe_ids: int
    dedupe_bytes: int


@dataclass(frozen=True, slots=True)
class Sight:
    """What a lookout saw."""

    uncommitted: Mapping[int, tuple[int, float]]  # by partition: records that the lake lacks, seconds the first waits
    watermark_us: int | None  # every report includes what arrived before; None: it is not known
    unpriced_models: int


class TroubleWatch(Protocol):
    """Watches how a worker bears what passes."""

    def tries_again(self, away: Away) -> None:
        """Something failed and is tried again."""
        ...


class MeterWatch(TroubleWatch, Protocol):
    """Watches a meter."""

    def processed(self, unit: Processed, turn: Turn) -> None:
        """A poll was decoded, deduped, rated and rolled up."""
        ...

    def committed(self, unit: Processed, seconds: float) -> None:
        """A unit is in the lake, so many seconds after its commit began."""
        ...

    def fenced(self, partitions: int) -> None:
        """A commit was fenced: the work of so many partitions was dropped."""
        ...

    def stands(self, stand: Stand) -> None:
        """About once a second."""
        ...


class BudgetWatch(TroubleWatch, Protocol):
    """Watches a budget worker."""

    def judged(self, totals: int, states: int, alerts: int) -> None:
        """A turn: so many totals were read, so many states said, so many alerts raised."""
        ...


class AlertWatch(TroubleWatch, Protocol):
    """Watches an alert sender."""

    def tried(self, channel: str, outcome: Delivered, seconds: float) -> None:
        """An alert was posted on a channel or not, so many seconds after it was raised."""
        ...

    def waits(self, alerts: int, oldest_s: float) -> None:
        """Every few seconds: how many alerts some channel has not had yet, and how long ago the oldest was raised."""
        ...


class LookoutWatch(TroubleWatch, Protocol):
    """Watches a lookout."""

    def looked(self, sight: Sight) -> None:
        """It has looked at everything."""
        ...


class Unwatched:
    """Nobody watches."""

    def tries_again(self, away: Away) -> None:
        pass

    def processed(self, unit: Processed, turn: Turn) -> None:
        pass

    def committed(self, unit: Processed, seconds: float) -> None:
        pass

    def fenced(self, partitions: int) -> None:
        pass

    def stands(self, stand: Stand) -> None:
        pass

    def judged(self, totals: int, states: int, alerts: int) -> None:
        pass

    def tried(self, channel: str, outcome: Delivered, seconds: float) -> None:
        pass

    def waits(self, alerts: int, oldest_s: float) -> None:
        pass

    def looked(self, sight: Sight) -> None:
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
