"""Budget states: from totals to spend, state, alerts. Functions of values, and one table that forgets order.

*Spend* of a budget in a window: the newest total of each partition, added up.
*State*: `exceeded` once spend has reached the limit, else `warned` once it has reached a threshold, else `ok`.
"Reached" is exact: spent × 100 >= threshold × limit, in whole pico-units or tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Context, Decimal
from functools import lru_cache
from typing import Final

import msgspec

from meterhouse.ingest.event import Lateness
from meterhouse.streams.budget_totals import AsOfMark, BudgetTotal, LayoutMark, Mark
from meterhouse.streams.control import Budget, OnExceeded
from meterhouse.streams.gate_wire import State, StateName, state_key

Window = tuple[int, int]
"""[start, end) in microseconds UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetState:
    """Where a budget stands in one window. Exactly one of the two limits is set."""

    budget_id: str
    window_start_us: int
    window_end_us: int
    state: StateName
    spent_pico: int
    spent_tokens: int
    limit_pico: int | None
    limit_tokens: int | None
    crossed: tuple[Decimal, ...]  # thresholds reached, percent, ascending
    on_exceeded: OnExceeded
    offsets: tuple[tuple[int, int], ...] = ()  # (partition, offset) that the spend is as of, by partition
    definition: str = ""  # digest of what was counted

    @property
    def spent(self) -> int:
        """Spend in the limit's unit: pico-units or tokens."""
        return self.spent_pico if self.limit_pico is not None else self.spent_tokens

    @property
    def limit(self) -> int:
        """The limit, in pico-units or tokens."""
        limit = self.limit_pico if self.limit_pico is not None else self.limit_tokens
        assert limit is not None
        return limit

    @property
    def share_percent(self) -> Decimal | None:
        """Spent as percent of the limit, rounded down to four decimals (99.9999 is not yet 100); None: limit 0."""
        return Decimal(self.spent * 1_000_000 // self.limit).scaleb(-4, _EXACT) if self.limit else None

    def key(self) -> bytes:
        """Budget and window: the key in the compacted topic of states."""
        return state_key(self.budget_id, (self.window_start_us, self.window_end_us))

    def to_json(self) -> bytes:
        """The record of the topic of states (`gate_wire.State`)."""
        share = self.share_percent
        state = State(
            budget_id=self.budget_id,
            window_start_us=self.window_start_us,
            window_end_us=self.window_end_us,
            state=self.state,
            spent_pico=str(self.spent_pico),
            spent_tokens=self.spent_tokens,
            limit_pico=None if self.limit_pico is None else str(self.limit_pico),
            limit_tokens=self.limit_tokens,
            share_percent=None if share is None else plain(share),
            crossed=tuple(plain(threshold) for threshold in self.crossed),
            on_exceeded=self.on_exceeded,
            offsets={str(partition): offset for partition, offset in self.offsets},
            definition=self.definition,
        )
        return msgspec.json.encode(state)


_EXACT: Final = Context(prec=60)
"""Wider than any share: a spend has at most 39 digits."""


def plain(number: Decimal) -> str:
    """Plain digits without trailing zeros: 80, 99.5."""
    return f"{number.normalize(_EXACT):f}"


class BudgetTable:
    """Newest total per budget, window and partition. Applying totals in any order, any number of times, comes to the
    same table."""

    def __init__(self, totals: Iterable[BudgetTotal] = ()) -> None:
        self._windows: dict[tuple[str, Window], dict[int, BudgetTotal]] = {}
        self._layouts: dict[int, int] = {}  # totals of a partition under an older layout are void
        for total in totals:
            self.apply(total)

    def hear(self, said: BudgetTotal | Mark) -> None:
        """Takes in whatever a meter says."""
        if isinstance(said, LayoutMark):
            self.mark(said)
        elif not isinstance(said, AsOfMark):
            self.apply(said)

    def apply(self, total: BudgetTotal) -> bool:
        """Keeps `total` if it is newer than what is there, and not void; says whether the table changed."""
        if total.layout < self._layouts.get(total.partition, 0):
            return False
        window = (total.window_start_us, total.window_end_us)
        entries = self._windows.setdefault((total.budget_id, window), {})
        kept = entries.get(total.partition)
        if kept is not None and _age(total) <= _age(kept):
            return False
        entries[total.partition] = total
        return True

    def newest(self, total: BudgetTotal) -> BudgetTotal | None:
        """The total kept for the key of one that was applied; None: that one is void, and no other is there."""
        entries = self._windows.get((total.budget_id, (total.window_start_us, total.window_end_us)), {})
        return entries.get(total.partition)

    def mark(self, mark: LayoutMark) -> list[BudgetTotal]:
        """Takes out the totals of the partition that are of an older layout, for good, and returns them."""
        if mark.layout <= self._layouts.get(mark.partition, 0):
            return []
        self._layouts[mark.partition] = mark.layout
        void = [
            total
            for entries in self._windows.values()
            if (total := entries.get(mark.partition)) is not None and total.layout < mark.layout
        ]
        for total in void:
            self.forget(total.budget_id, (total.window_start_us, total.window_end_us), total.partition)
        return void

    def forget(self, budget_id: str, window: Window, partition: int) -> bool:
        """Takes one entry out (its tombstone was read); says whether it was there."""
        entries = self._windows.get((budget_id, window), {})
        gone = entries.pop(partition, None)
        if not entries:
            self._windows.pop((budget_id, window), None)
        return gone is not None

    def windows(self) -> Iterator[tuple[str, Window]]:
        """(budget, window) of all entries."""
        return iter(tuple(self._windows))

    def totals(self, budget_id: str, window: Window) -> list[BudgetTotal]:
        """The newest total of each partition, by partition."""
        entries = self._windows.get((budget_id, window), {})
        return [entries[partition] for partition in sorted(entries)]

    def closed(self, now_us: int, lateness: Lateness) -> list[BudgetTotal]:
        """Totals of windows closed longer than the lateness limit: their keys are to be tombstoned."""
        return [
            total
            for (_, window), entries in self._windows.items()
            if not counts_still(window, now_us, lateness)
            for total in entries.values()
        ]


def _age(total: BudgetTotal) -> tuple[int, int, int, int, int, str]:
    """Order of totals of one key. By the law that a total is a function of the log the first three decide; the others
    keep the table free of order even if that law were broken."""
    return total.control_version, total.layout, total.offset, total.cost_pico, total.tokens, total.definition


def counts_still(window: Window, now_us: int, lateness: Lateness) -> bool:
    """Is the window open, or closed no longer than events may be late?"""
    return now_us < window[1] + lateness.behind_us


def state_of(
    budget: Budget,
    window: Window,
    spent_pico: int,
    spent_tokens: int,
    offsets: Iterable[tuple[int, int]] = (),
    definition: str = "",
) -> BudgetState:
    """The state of a budget that spent so much in `window`. A limit of 0 is exceeded from the start."""
    spent, limit = (spent_tokens, budget.limit_tokens) if budget.limit_pico is None else (spent_pico, budget.limit_pico)
    if limit is None:
        raise ValueError(f"budget {budget.id} has no limit; set limit or limit_tokens")
    crossed = tuple(t for t, over, under in _ratios(budget.thresholds) if spent * 100 * under >= over * limit)
    return BudgetState(
        budget_id=budget.id,
        window_start_us=window[0],
        window_end_us=window[1],
        state="exceeded" if spent >= limit else "warned" if crossed else "ok",
        spent_pico=spent_pico,
        spent_tokens=spent_tokens,
        limit_pico=budget.limit_pico,
        limit_tokens=budget.limit_tokens,
        crossed=crossed,
        on_exceeded=budget.on_exceeded,
        offsets=tuple(sorted(offsets)),
        definition=definition,
    )


@lru_cache(10_000)  # distinct lists of thresholds: few
def _ratios(thresholds: tuple[Decimal, ...]) -> tuple[tuple[Decimal, int, int], ...]:
    """Each threshold once, ascending, with its numerator and denominator."""
    return tuple((threshold, *threshold.as_integer_ratio()) for threshold in sorted(set(thresholds)))


def state_from_totals(
    budget: Budget, definition: str, window: Window, totals: Iterable[BudgetTotal]
) -> BudgetState | None:
    """The state that the newest totals of a window's partitions come to.

    Totals of another definition (an older scope, another time zone) count for nothing; None where no other are there.
    """
    ours = [total for total in totals if total.definition == definition]
    if not ours:
        return None
    cost_pico, tokens = sum(total.cost_pico for total in ours), sum(total.tokens for total in ours)
    offsets = ((total.partition, total.offset) for total in ours)
    return state_of(budget, window, cost_pico, tokens, offsets, definition)
