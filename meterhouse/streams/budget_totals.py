"""Budget totals: what a meter says of its partitions' spend, and how it adds it up.

*Total*: the cumulative spend of one partition in one window of a budget, as of an offset. It is a function of the log
up to that offset (under one control version and layout), so a repeat, a replay or a zombie says the same thing or an
older one.

What counts: events of disposition `billed`, for money and for tokens alike; tokens are all kinds added up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from meterhouse.ingest.event import TOKEN_KINDS, Lateness
from meterhouse.ingest.log import Message, partition_of
from meterhouse.streams.budget_scope import Ints, ScopeIndex, definition_of
from meterhouse.streams.control import Snapshot, WindowSpec
from meterhouse.streams.ledger import Position
from meterhouse.streams.money import limbs_of
from meterhouse.streams.windows import window_of, window_starts, windows_between

Columns = tuple[Ints, Ints, Ints]
"""128-bit integers as low 32 bits, next 32 bits, signed high 64 bits: each column adds up in int64 without overflow
for 2^31 rows, more than any batch has."""

_Group = tuple[int, int, int, int, int]
"""Partition, budget's number, window start, pico-units, tokens."""

_HOUR_US: Final = 3_600 * 1_000_000
_MARK: Final = "|layout|"
_AS_OF: Final = "|as_of|"
"""Before a mark's partition, in its key: no budget's id begins with a bar."""
_LOW: Final = np.uint64(0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class BudgetTotal:
    """Cumulative spend of `partition` in a budget's window: all its billed events before `offset`.

    Of two for one key, the one of the higher (control_version, layout, offset) is the newer.
    """

    budget_id: str
    window_start_us: int
    window_end_us: int
    partition: int
    control_version: int
    offset: int
    cost_pico: int
    tokens: int
    definition: str  # digest of what the budget counts (`definition_of`)
    layout: int = 0  # partitions of the topic that was read; 0: said before there were layouts

    def key(self) -> bytes:
        """Budget, window and partition: `budget|start|end|partition`. The last three hold no bar, so it reads back."""
        return f"{self.budget_id}|{self.window_start_us}|{self.window_end_us}|{self.partition}".encode()

    def to_json(self) -> bytes:
        """Money is a text of whole pico-units: it outgrows the integers that JSON readers keep exact."""
        return msgspec.json.encode(
            {
                "budget_id": self.budget_id,
                "window_start_us": self.window_start_us,
                "window_end_us": self.window_end_us,
                "partition": self.partition,
                "control_version": self.control_version,
                "offset": self.offset,
                "cost_pico": str(self.cost_pico),
                "tokens": self.tokens,
                "definition": self.definition,
                "layout": self.layout,
            }
        )

    @classmethod
    def from_json(cls, value: bytes) -> BudgetTotal:
        """Raises ValueError where `value` is not a total."""
        try:
            wire = _FROM_JSON.decode(value)
            return cls(**{name: getattr(wire, name) for name in cls.__slots__} | {"cost_pico": int(wire.cost_pico)})
        except (msgspec.DecodeError, ValueError) as wrong:
            raise ValueError(f"not a budget total ({wrong}); see who else writes to this topic") from wrong

    def message(self, partitions: int) -> Message:
        """The record of this total for a compacted topic of `partitions`, placed so that one worker sees all of a
        budget."""
        placed = partition_of(self.budget_id.encode(), partitions)
        return Message(key=self.key(), value=self.to_json(), partition=placed)


@dataclass(frozen=True, slots=True)
class LayoutMark:
    """Says that all totals of a partition are said again under a layout: those of an older one are void.

    When a topic grows, events that a meter had counted and not committed are read again, and counted where their
    tenants belong; what it had said of them must not stay. The mark comes after the totals that take their place.
    """

    partition: int
    layout: int

    def key(self) -> bytes:
        return f"{_MARK}{self.partition}".encode()

    def messages(self, partitions: int) -> list[Message]:
        """A record for each partition of the topic: its totals are read by different workers."""
        return _in_each(self.key(), {"partition": self.partition, "layout": self.layout}, partitions)


@dataclass(frozen=True, slots=True)
class AsOfMark:
    """Says how far the totals of a partition have come: all its events before `offset`, and all that arrived before
    `as_of_us`, are in the totals that stand before this mark. A meter says so about once a second, also when nothing
    happens, so that silence is told from standstill."""

    partition: int
    as_of_us: int
    offset: int
    control_version: int  # under which they were counted
    layout: int = 0  # as of a total: under another one some of these events belong to other partitions

    def key(self) -> bytes:
        return f"{_AS_OF}{self.partition}".encode()

    def messages(self, partitions: int) -> list[Message]:
        """A record for each partition of the topic."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return _in_each(self.key(), fields, partitions)


Mark = LayoutMark | AsOfMark


def _in_each(key: bytes, fields: Mapping[str, int], partitions: int) -> list[Message]:
    value = msgspec.json.encode(fields)
    return [Message(key=key, value=value, partition=p) for p in range(partitions)]


def read_total(key: bytes, value: bytes) -> BudgetTotal | Mark:
    """A record of `budget.totals` that is no tombstone. Raises ValueError for anything else."""
    try:
        if key.startswith(_AS_OF.encode()):
            return _READ_AS_OF.decode(value)
        if key.startswith(_MARK.encode()):
            return _READ_LAYOUT.decode(value)
    except msgspec.DecodeError as wrong:
        raise ValueError(f"not a meter's mark ({wrong}); see who else writes to this topic") from wrong
    return BudgetTotal.from_json(value)


class _Wire(msgspec.Struct):
    """A total's JSON value."""

    budget_id: str
    window_start_us: int
    window_end_us: int
    partition: int
    control_version: int
    offset: int
    cost_pico: str
    tokens: int
    definition: str
    layout: int = 0


_FROM_JSON: Final = msgspec.json.Decoder(_Wire)
_READ_LAYOUT: Final = msgspec.json.Decoder(LayoutMark)
_READ_AS_OF: Final = msgspec.json.Decoder(AsOfMark)


def read_total_key(key: bytes) -> tuple[str, int, int, int]:
    """(budget, window start, window end, partition) of `BudgetTotal.key`. Raises ValueError for anything else."""
    budget_id, start, end, partition = key.decode().rsplit("|", 3)
    return budget_id, int(start), int(end), int(partition)


@dataclass(slots=True)
class _Sum:
    window_end_us: int
    cost_pico: int = 0
    tokens: int = 0


class _Partition:
    """Sums of one partition, and the windows whose history it knows."""

    def __init__(self, edges_us: Sequence[int], horizon_us: int) -> None:
        self.edges = frozenset(edges_us)
        self.horizon_us = horizon_us  # the lake held nothing from here on
        self.closed_before_us: int | None = None  # no event can come for windows that ended by then
        self.sums: dict[tuple[int, int], _Sum] = {}  # (budget's number, window start)
        self._forgot_us = 0

    def covers(self, start_us: int, end_us: int) -> bool:
        """A window is whole where both its ends were asked for, or where it begins after all that the lake held.
        Of any other the earlier part is unknown, and a part must not pass for the total."""
        if self.closed_before_us is not None and end_us <= self.closed_before_us:
            return False
        return start_us >= self.horizon_us or (start_us in self.edges and end_us in self.edges)

    def arrived(self, closed_before_us: int) -> None:
        """Time has come this far: sums of windows that no event can reach any more go, once an hour of it."""
        self.closed_before_us = closed_before_us
        if closed_before_us - self._forgot_us >= _HOUR_US:
            self._forgot_us = closed_before_us
            self.sums = {key: found for key, found in self.sums.items() if found.window_end_us > closed_before_us}


class BudgetTotals:
    """Cumulative spend of a meter's partitions in every budget's windows, under one snapshot of control data and one
    layout.

    For others make another one and start it from the lake. Not shared between threads.
    """

    def __init__(self, snapshot: Snapshot, lateness: Lateness | None = None, layout: int = 0) -> None:
        self._version = snapshot.version
        self.layout = layout
        self._lateness = lateness or Lateness()
        self._budgets = snapshot.budgets
        self._definitions = [definition_of(budget, snapshot) for budget in snapshot.budgets]
        self._scopes = ScopeIndex(snapshot)
        self._specs: list[WindowSpec] = list(dict.fromkeys(budget.window for budget in snapshot.budgets))
        self._spec_of: Ints = np.array([self._specs.index(b.window) for b in snapshot.budgets], np.int64)
        self._partitions: dict[int, _Partition] = {}
        self._asked_until_us: int | None = None

    def edges(self, oldest_us: int, newest_us: int | None = None) -> list[int]:
        """Starts and ends, ascending, of all budgets' windows that can still change: those that meet
        [oldest - lateness.behind, newest + lateness.ahead].

        `oldest_us`: the earliest arrival still to be read (the clock's time where the meter keeps up);
        `newest_us`: the latest arrival read (None: as `oldest_us`). The lake must hold nothing that arrived later.
        """
        from_us = oldest_us - self._lateness.behind_us
        to_us = (oldest_us if newest_us is None else max(oldest_us, newest_us)) + self._lateness.ahead_us + 1
        self._asked_until_us = to_us
        windows = (window for spec in self._specs for window in windows_between(spec, from_us, to_us))
        return sorted({edge for window in windows for edge in window})

    def start(self, partition: int, spend: pa.Table, edges: Sequence[int], offset: int) -> list[BudgetTotal]:
        """Takes a partition over with its spend so far: `Ledger.spend(edges)` read at position `offset`, of the
        `edges` that this object returned last.

        Returns all its totals as of `offset`, to be published: they also correct what another meter may have said
        under an older control version.
        """
        if self._asked_until_us is None:
            raise ValueError("start needs edges that this object has returned; call edges, then Ledger.spend with them")
        self._partitions[partition] = _Partition(edges, self._asked_until_us)
        rows = spend.filter(pc.equal(spend["partition"], pa.scalar(partition, pa.int32())))
        times = np.asarray(edges, np.int64)[rows["interval"].to_numpy().astype(np.int64)]
        amounts = _Amounts(times, _columns(rows["cost"]), rows["tokens"].to_numpy().astype(np.int64))
        return self._count(rows, amounts, {partition: Position(next_offset=offset)})

    def add(self, minutes: pa.Table, after: Mapping[int, Position]) -> list[BudgetTotal]:
        """Adds a run of roll-up rows (ROLLUP_SCHEMA by minute) and returns the totals that changed, as of their
        partition's new position in `after`. Every partition of `after` must have been started."""
        for partition in after:
            if partition not in self._partitions:
                raise ValueError(f"totals of partition {partition} were never started; call start with its spend first")
        rows = minutes.filter(pc.equal(minutes["disposition"], pa.scalar("billed")))
        tokens = np.stack([rows[kind.tokens].to_numpy() for kind in TOKEN_KINDS]).sum(axis=0)
        low, middle, high = np.array([_columns(rows[kind.cost]) for kind in TOKEN_KINDS]).sum(axis=0)
        times = rows["time"].cast(pa.int64()).to_numpy()
        changed = self._count(rows, _Amounts(times, (low, middle, high), tokens), after)
        # Only now: a late event of this very run may have been in time when it arrived.
        for partition, position in after.items():
            if position.arrived_us is not None:
                self._partitions[partition].arrived(position.arrived_us - self._lateness.behind_us)
        return changed

    def drop(self, partition: int) -> None:
        """Forgets a partition that is another meter's now."""
        self._partitions.pop(partition, None)

    def _count(self, rows: pa.Table, amounts: _Amounts, after: Mapping[int, Position]) -> list[BudgetTotal]:
        changed: list[BudgetTotal] = []
        for partition, number, start_us, cost_pico, tokens in self._groups(rows, amounts):
            stored = self._partitions[partition]
            budget = self._budgets[number]
            found = stored.sums.get((number, start_us))
            if found is None:
                _, end_us = window_of(budget.window, start_us)
                if not stored.covers(start_us, end_us):
                    continue
                found = stored.sums[number, start_us] = _Sum(end_us)
            if cost_pico == 0 and tokens == 0:
                continue
            found.cost_pico += cost_pico
            found.tokens += tokens
            changed.append(self._total(number, partition, (start_us, found), after[partition].next_offset))
        return changed

    def _total(self, number: int, partition: int, window: tuple[int, _Sum], offset: int) -> BudgetTotal:
        start_us, found = window
        return BudgetTotal(
            budget_id=self._budgets[number].id,
            window_start_us=start_us,
            window_end_us=found.window_end_us,
            partition=partition,
            control_version=self._version,
            offset=offset,
            cost_pico=found.cost_pico,
            tokens=found.tokens,
            definition=self._definitions[number],
            layout=self.layout,
        )

    def _groups(self, rows: pa.Table, amounts: _Amounts) -> Iterator[_Group]:
        """Adds rows up by (partition, budget, window): one packed key per (row, budget), one sort, one pass."""
        if rows.num_rows == 0 or not self._budgets:
            return
        row, budget = self._scopes.pairs(rows)
        if len(row) == 0:
            return
        times, time_code = np.unique(amounts.times_us, return_inverse=True)
        starts_by_spec = np.stack([window_starts(spec, times) for spec in self._specs])
        starts, start_code = np.unique(starts_by_spec[self._spec_of[budget], time_code[row]], return_inverse=True)
        partitions, partition_code = np.unique(rows["partition"].to_numpy(), return_inverse=True)
        packed = (partition_code[row] * len(self._budgets) + budget) * len(starts) + start_code
        order = np.argsort(packed, kind="stable")
        keys, firsts = np.unique(packed[order], return_index=True)
        low, middle, high, tokens = (
            np.add.reduceat(column[row[order]], firsts).tolist() for column in (*amounts.cost, amounts.tokens)
        )
        numbers, start = np.divmod(keys, len(starts))
        partition, number = np.divmod(numbers, len(self._budgets))
        cost = ((h << 64) + (m << 32) + w for h, m, w in zip(high, middle, low, strict=True))
        yield from zip(
            partitions[partition].tolist(), number.tolist(), starts[start].tolist(), cost, tokens, strict=True
        )


@dataclass(frozen=True, slots=True)
class _Amounts:
    """Per row: when, how much, how many."""

    times_us: Ints
    cost: Columns
    tokens: Ints


def _columns(money: pa.ChunkedArray[Any]) -> Columns:
    """The pico-units of a MONEY column."""
    high, low = limbs_of(money)
    return (low & _LOW).astype(np.int64), (low >> np.uint64(32)).astype(np.int64), high
