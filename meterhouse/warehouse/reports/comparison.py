"""A period against the one before: what each group cost then and now, and why the bill changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final, Literal

from meterhouse.streams.bill_change import PARTS, ModelChange, ModelKey, ModelUse, Parts, explained
from meterhouse.streams.control import Snapshot
from meterhouse.streams.money import to_pico
from meterhouse.warehouse.books import Books
from meterhouse.warehouse.reports.as_of import AsOf, Freshness, as_of
from meterhouse.warehouse.reports.chargeback import Figures, Line, lines_of
from meterhouse.warehouse.reports.errors import BooksError
from meterhouse.warehouse.reports.groups import GROUPS, TIME_GROUPS, Selection, check_range, chosen, in_order, month_of

COMPARED_GROUPS: Final = tuple(name for name in GROUPS if name not in TIME_GROUPS)
"""A day of one period is no day of the other."""

Range = tuple[int, int]
State = Literal["kept", "new", "gone"]


def range_before(from_us: int, to_us: int) -> Range:
    """What a range is compared with: of a whole calendar month of UTC the month before, else the same length just
    before. Raises ReportError where that is outside the calendar."""
    check_range(from_us, to_us)
    before_us = from_us - (to_us - from_us), from_us
    check_range(*before_us)
    return month_of(from_us - 1) if (from_us, to_us) == month_of(from_us) else before_us


@dataclass(frozen=True, slots=True)
class Compared:
    """Figures of both periods; None: the group had none at all."""

    groups: Mapping[str, str | None]
    now: Figures | None
    before: Figures | None

    @property
    def state(self) -> State:
        return "new" if self.before is None else "gone" if self.now is None else "kept"

    @property
    def now_pico(self) -> int:
        return 0 if self.now is None else to_pico(self.now.cost)

    @property
    def before_pico(self) -> int:
        return 0 if self.before is None else to_pico(self.before.cost)

    @property
    def difference_pico(self) -> int:
        return self.now_pico - self.before_pico

    @property
    def relative(self) -> Fraction | None:
        """The difference as a share of what it cost before; None where that was nothing."""
        return Fraction(self.difference_pico, self.before_pico) if self.before_pico else None


@dataclass(frozen=True, slots=True)
class Comparison:
    currency: str
    range_us: Range
    before_us: Range
    group_by: tuple[str, ...]
    lines: tuple[Compared, ...]
    total: Compared
    as_of: AsOf


def comparison(
    books: Books,
    snapshot: Snapshot,
    selection: Selection,
    group_by: Sequence[str] = (),
    freshness: Freshness | None = None,
) -> Comparison:
    """A line per group that either period has, sorted as chargeback is; both periods are of one snapshot of the lake.

    Differences of the lines add up to the total's, exactly. Raises ReportError as `chargeback` does, and on groups of
    time.
    """
    now_lines, now, before_lines, before, range_before_us, figures_as_of = _both(
        books, snapshot, selection, group_by, freshness
    )
    figures = [{tuple(line.groups.values()): line.figures for line in lines} for lines in (now_lines, before_lines)]
    compared = tuple(
        Compared(dict(zip(group_by, key, strict=True)), figures[0].get(key), figures[1].get(key))
        for key in sorted(figures[0].keys() | figures[1].keys(), key=in_order)
    )
    total = Compared({}, now, before)
    if compared and sum(line.difference_pico for line in compared) != total.difference_pico:
        raise BooksError("the differences of the lines do not add up to the total's: run `meterhouse verify`")
    range_us = selection.from_us, selection.to_us
    return Comparison(snapshot.currency, range_us, range_before_us, tuple(group_by), compared, total, figures_as_of)


def _both(
    books: Books, snapshot: Snapshot, selection: Selection, group_by: Sequence[str], freshness: Freshness | None
) -> tuple[Sequence[Line], Figures, Sequence[Line], Figures, Range, AsOf]:
    """Lines and total of the range, those of the range before, and that range."""
    check_range(selection.from_us, selection.to_us)
    groups = chosen(group_by, COMPARED_GROUPS)
    from_us, to_us = before_us = range_before(selection.from_us, selection.to_us)
    with books.read() as cursor:
        now_lines, now = lines_of(cursor, snapshot, selection, groups)
        before_lines, before = lines_of(cursor, snapshot, replace(selection, from_us=from_us, to_us=to_us), groups)
        return now_lines, now, before_lines, before, before_us, as_of(books, cursor, freshness)


@dataclass(frozen=True, slots=True)
class ExplainedLine:
    tenant: str
    change: ModelChange


@dataclass(frozen=True, slots=True)
class Explanation:
    currency: str
    range_us: Range
    before_us: Range
    now_pico: int
    before_pico: int
    parts: Parts  # they add up to now − before
    lines: tuple[ExplainedLine, ...]  # by tenant, provider and model
    as_of: AsOf


def explanation(
    books: Books, snapshot: Snapshot, selection: Selection, freshness: Freshness | None = None
) -> Explanation:
    """Why each tenant's bill changed from the range before, model by model (`streams.bill_change`), and all together.

    A model that is new to a tenant is new, though others used it before. Raises ReportError as `chargeback` does;
    BooksError when the parts do not add up to the difference.
    """
    now_lines, now, before_lines, before, before_us, figures_as_of = _both(
        books, snapshot, selection, ("tenant", "provider", "model", "kind"), freshness
    )
    uses = _uses(now_lines), _uses(before_lines)
    lines = tuple(
        ExplainedLine(tenant, change)
        for tenant in sorted(uses[0].keys() | uses[1].keys())
        for change in explained(uses[1].get(tenant, {}), uses[0].get(tenant, {}))
    )
    parts = {name: sum(line.change.parts[name] for line in lines) for name in PARTS}
    now_pico, before_pico = to_pico(now.cost), to_pico(before.cost)
    if sum(parts.values()) != now_pico - before_pico:
        raise BooksError("the parts do not add up to the difference: run `meterhouse verify`")
    range_us = selection.from_us, selection.to_us
    return Explanation(snapshot.currency, range_us, before_us, now_pico, before_pico, parts, lines, figures_as_of)


def _uses(lines: Sequence[Line]) -> dict[str, dict[ModelKey, ModelUse]]:
    """What each tenant was billed, from lines of tenant, provider, model and kind."""
    uses: dict[str, dict[ModelKey, tuple[dict[str, int], dict[str, int]]]] = {}
    for line in lines:
        tenant, provider, model, kind = (str(line.groups[name]) for name in ("tenant", "provider", "model", "kind"))
        tokens, pico = uses.setdefault(tenant, {}).setdefault((provider, model), ({}, {}))
        tokens[kind], pico[kind] = line.figures.tokens[kind], to_pico(line.figures.cost)
    return {tenant: {key: ModelUse(*use) for key, use in models.items()} for tenant, models in uses.items()}
