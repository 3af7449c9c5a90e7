"""The Ledger port: where the meter commits, and the shapes of what it commits.

A commit writes rows, roll-ups, rejects and positions in one transaction, fenced per partition by a compare-and-set on
that partition's position. Whatever fails after a commit began is resolved by reading the stored position.

*Layout*: how many partitions the topic has for this ledger, and so where each tenant's events belong. It only grows,
and all meters go over to another one at the same commit: what was read under an older layout is fenced.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from meterhouse.ingest.batch import EVENT_SCHEMA, NAME, TIME, Reject
from meterhouse.ingest.event import TOKEN_KINDS

MONEY: Final = pa.decimal128(38, 12)
"""Sums of money, in units of the currency with twelve decimals."""

_NODE_ONLY: Final = ("node", "accelerator", "accelerator_us", "prefill_us", "decode_us")
_REQUEST_ONLY: Final = (
    "application", "environment", "operation", "region", "status", "http_status", "streamed", "user",
    "reservation_id", "labels", "duration_us", "time_to_first_token_us",
)  # fmt: skip

CHARGE_SCHEMA: Final = pa.schema(
    [
        *(field for field in EVENT_SCHEMA if field.name not in ("type", *_NODE_ONLY)),
        pa.field("disposition", NAME, nullable=False),  # billed | unpriced | unbilled
        pa.field("cost_pico", pa.int64()),  # null: unpriced; 0: unbilled
        pa.field("card", pa.int32()),  # the rate card that priced it; null when unpriced or unbilled
        pa.field("control_version", pa.int32(), nullable=False),
    ]
)
"""A request's event with its charge: the lake's table `charges`."""

NODE_EVENT_SCHEMA: Final = pa.schema([field for field in EVENT_SCHEMA if field.name not in ("type", *_REQUEST_ONLY)])
"""A model node's event: the lake's table `node_events`."""

ROLLUP_KEYS: Final = (
    "partition", "time", "tenant", "application", "environment", "model", "provider", "operation", "status",
    "disposition",
)  # fmt: skip
ROLLUP_SCHEMA: Final = pa.schema(
    [
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("time", TIME, nullable=False),  # start of the minute (table rollup_minute) or hour (rollup_hour)
        *(pa.field(name, NAME, nullable=name in ("environment", "operation")) for name in ROLLUP_KEYS[2:]),
        pa.field("requests", pa.int64(), nullable=False),
        *(pa.field(kind.tokens, pa.int64(), nullable=False) for kind in TOKEN_KINDS),
        *(pa.field(kind.cost, MONEY, nullable=False) for kind in TOKEN_KINDS),
    ]
)
"""Deltas: rows of equal key are added up. Cost of a request is the sum over kinds."""

LATENCY_KEYS: Final = ("partition", "time", "tenant", "application", "model", "provider", "metric", "bucket")
LATENCY_SCHEMA: Final = pa.schema(
    [
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("time", TIME, nullable=False),  # start of the hour
        *(pa.field(name, NAME, nullable=False) for name in ("tenant", "application", "model", "provider", "metric")),
        pa.field("bucket", pa.int32(), nullable=False),  # `streams.latency`
        pa.field("requests", pa.int64(), nullable=False),
    ]
)
"""Deltas of log-bucket histograms; metric is `duration` or `time_to_first_token`; refused statuses are left out."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the events read from a partition (law 1: read = the sum of the rest)."""

    read: int = 0
    billed: int = 0
    unpriced: int = 0  # billable, but no price yet
    unbilled: int = 0  # by status
    informational: int = 0  # model nodes' events
    duplicates: int = 0
    rejected: int = 0
    forwarded: int = 0

    @property
    def accepted(self) -> int:
        """Events whose key was new: each is one row of the lake."""
        return self.billed + self.unpriced + self.unbilled + self.informational

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Position:
    """How far a partition is committed. `next_offset` is the fence of the next commit."""

    next_offset: int = 0
    counts: Counts = field(default_factory=Counts)  # since offset 0
    arrived_us: int | None = None  # newest arrival committed; never goes back


@dataclass(frozen=True, slots=True)
class Processed:
    """What a run of records came to: all that one commit writes. Pure output of `pipeline`; `merge` adds two up."""

    charges: pa.Table  # CHARGE_SCHEMA
    node_events: pa.Table  # NODE_EVENT_SCHEMA
    minutes: pa.Table  # ROLLUP_SCHEMA by minute
    hours: pa.Table  # ROLLUP_SCHEMA by hour
    latency: pa.Table  # LATENCY_SCHEMA
    rejects: Sequence[Reject]
    before: Mapping[int, Position]  # per partition: the position it was read from
    after: Mapping[int, Position]  # and the one it leads to


class Fenced(Exception):
    """Another meter moved a partition: nothing of this commit was written."""

    def __init__(self, partition: int, expected: int, stored: int) -> None:
        super().__init__(
            f"partition {partition} stands at {stored}, not at {expected}: another meter has it; this commit is dropped"
        )
        self.partition, self.expected, self.stored = partition, expected, stored


class LayoutChanged(Fenced):
    """The topic has more partitions now, and tenants belong elsewhere: nothing of this commit was written."""

    def __init__(self, partition: int, offset: int) -> None:
        super().__init__(partition, offset, offset)
        self.args = ("the topic has more partitions now: this commit is dropped, and read again under the new layout",)


class LedgerUnavailable(Exception):
    """Passing trouble (catalogue locked or down): nothing is known of the commit until positions are read again."""


@dataclass(frozen=True, slots=True)
class AcceptedKeys:
    """Keys of events that the lake holds: column `halves` (n, 2) uint64, and the hour of arrival of each."""

    halves: npt.NDArray[np.uint64]
    arrived_hour: npt.NDArray[np.int32]  # hours since the epoch


class Ledger(Protocol):
    """One writer: the meter. Not shared between threads, except where a method says so."""

    def seed(self, partitions: int) -> int:
        """Makes sure that partitions 0 .. n-1 have a position row, and returns the layout in force: n, or more where
        another ledger knew of more. From then on this ledger commits, and looks for keys, under that layout.

        A growth is one transaction that touches every position, so each other commit comes wholly before it, or is
        fenced. It moves the newest arrival of all partitions to each of them: keys go with their tenants, and must not
        have arrived after what their new partition reads next. Raises LedgerUnavailable.
        """
        ...

    def positions(self) -> dict[int, Position]: ...

    def commit(self, unit: Processed) -> int:
        """Writes all of `unit` or nothing, and returns the lake's snapshot id.

        Raises Fenced (LayoutChanged where the layout is no longer that of `seed`) and LedgerUnavailable (then read
        `positions` to learn what happened).
        """
        ...

    def accepted_keys(self, partition: int, since_hour: int, since_offset: int | None = None) -> Iterator[AcceptedKeys]:
        """Keys of the partition's committed events (charges and node events) that arrived in hour `since_hour` or
        later, in chunks: what the dedupe index is rebuilt from. Also those of events that stood elsewhere when the
        topic had fewer partitions, and whose tenant belongs here under the layout of `seed`.

        With `since_offset` only those that stand in this partition, there or behind it."""
        ...

    def identity(self) -> str:
        """Names this lake among all lakes, for ever: what is derived from it and kept elsewhere carries it."""
        ...

    def spend(self, edges_us: Sequence[int]) -> pa.Table:
        """Billed spend so far per partition, tenant, application, model and interval between consecutive `edges_us`
        (ascending whole minutes, microseconds): what budget totals are rebuilt from.

        Columns: partition int32, interval int32 (index into edges: [edges[i], edges[i+1])), tenant, application,
        model string, cost MONEY, tokens int64 (all kinds). Consistent with `positions` when both are read
        between commits.
        """
        ...
