"""The ledger in memory: the twin of the lake, for tests and for trying things out. Nothing outlives the process."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, localcontext
from threading import Lock
from typing import Final
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from meterhouse.ingest.batch import Reject
from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.ingest.log import partition_of
from meterhouse.streams.ledger import (
    CHARGE_SCHEMA,
    LATENCY_SCHEMA,
    MONEY,
    NODE_EVENT_SCHEMA,
    ROLLUP_SCHEMA,
    AcceptedKeys,
    Fenced,
    LayoutChanged,
    Position,
    Processed,
)

_SPEND: Final[Mapping[str, pa.DataType]] = {
    "partition": pa.int32(),
    "interval": pa.int32(),
    "tenant": pa.string(),
    "application": pa.string(),
    "model": pa.string(),
    "cost": MONEY,
    "tokens": pa.int64(),
}
SPEND_SCHEMA: Final = pa.schema(_SPEND)
"""What `Ledger.spend` returns."""

_HOUR_US: Final = 3_600 * 1_000_000
_SCHEMAS: Final = {
    "charges": CHARGE_SCHEMA,
    "node_events": NODE_EVENT_SCHEMA,
    "minutes": ROLLUP_SCHEMA,
    "hours": ROLLUP_SCHEMA,
    "latency": LATENCY_SCHEMA,
}


@dataclass(slots=True)
class MemoryStore:
    """What several ledgers may share, as several meters share a lake."""

    units: list[Processed] = field(default_factory=list)  # one a snapshot, in order of commit
    positions: dict[int, Position] = field(default_factory=dict)
    layout: int = 0
    lock: Lock = field(default_factory=Lock)
    identity: str = field(default_factory=lambda: str(uuid4()))

    def table(self, name: str) -> pa.Table:
        """All rows committed to `charges`, `node_events`, `minutes`, `hours` or `latency`."""
        return pa.concat_tables([_SCHEMAS[name].empty_table(), *(getattr(unit, name) for unit in self.units)])

    @property
    def rejects(self) -> list[Reject]:
        return [reject for unit in self.units for reject in unit.rejects]


class MemoryLedger:
    """A Ledger over a MemoryStore: its own, or one shared with other ledgers."""

    def __init__(self, store: MemoryStore | None = None, *, chunk_rows: int = 1_000_000) -> None:
        self.store = store or MemoryStore()
        self._chunk_rows = chunk_rows
        self._layout: int | None = None

    def seed(self, partitions: int) -> int:
        with self.store.lock:
            if partitions > self.store.layout:
                self.store.layout, old = partitions, self.store.positions
                arrived = [position.arrived_us for position in old.values() if position.arrived_us is not None]
                newest_us = max(arrived, default=None)
                self.store.positions = {
                    p: replace(old.get(p, Position()), arrived_us=newest_us) for p in range(partitions)
                }
            self._layout = self.store.layout
            return self._layout

    def positions(self) -> dict[int, Position]:
        with self.store.lock:
            return dict(self.store.positions)

    def commit(self, unit: Processed) -> int:
        with self.store.lock:
            for partition, expected in sorted(unit.before.items()):
                stored = self.store.positions[partition]
                if stored.next_offset != expected.next_offset:
                    raise Fenced(partition, expected.next_offset, stored.next_offset)
                if self._layout not in (None, self.store.layout):
                    raise LayoutChanged(partition, stored.next_offset)
            self.store.positions.update(unit.after)
            self.store.units.append(unit)
            return len(self.store.units)

    def accepted_keys(self, partition: int, since_hour: int, since_offset: int | None = None) -> Iterator[AcceptedKeys]:
        for name in ("charges", "node_events"):
            table = self.store.table(name).select(["key", "partition", "offset", "arrived", "tenant"])
            hours = pc.cast(table["arrived"], pa.int64()).to_numpy() // _HOUR_US
            layout = self._layout or self.store.layout
            homes = np.array([partition_of(str(tenant).encode(), layout) for tenant in table["tenant"].to_pylist()])
            stands_here = table["partition"].to_numpy() == partition
            if since_offset is None:
                mine = (stands_here | (homes == partition)) & (hours >= since_hour)
            else:
                mine = stands_here & (table["offset"].to_numpy() >= since_offset) & (hours >= since_hour)
            keys = table["key"].filter(pa.array(mine)).to_pylist()
            halves = np.frombuffer(b"".join(key for key in keys if key is not None), np.uint64).reshape(-1, 2)
            arrived_hour = hours[mine].astype(np.int32)
            for first in range(0, len(keys), self._chunk_rows):
                chunk = slice(first, first + self._chunk_rows)
                yield AcceptedKeys(halves[chunk], arrived_hour[chunk])

    def identity(self) -> str:
        return self.store.identity

    def spend(self, edges_us: Sequence[int]) -> pa.Table:
        billed = self.store.table("minutes").filter(pc.field("disposition") == "billed")
        times_us = pc.cast(billed["time"], pa.int64()).to_numpy()
        intervals = np.searchsorted(np.asarray(edges_us, np.int64), times_us, side="right") - 1
        sums: dict[tuple[int, int, str, str, str], tuple[Decimal, int]] = defaultdict(lambda: (Decimal(0), 0))
        with localcontext(prec=MONEY.precision):
            for interval, row in zip(intervals.tolist(), billed.to_pylist(), strict=True):
                if 0 <= interval < len(edges_us) - 1:
                    key = (row["partition"], interval, row["tenant"], row["application"], row["model"])
                    cost, tokens = sums[key]
                    sums[key] = (
                        cost + sum(row[kind.cost] for kind in TOKEN_KINDS),
                        tokens + sum(row[kind.tokens] for kind in TOKEN_KINDS),
                    )
        rows = [(*key, *values) for key, values in sorted(sums.items())]
        return pa.Table.from_pylist(
            [dict(zip(SPEND_SCHEMA.names, row, strict=True)) for row in rows], schema=SPEND_SCHEMA
        )
