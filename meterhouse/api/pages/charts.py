"""Charts as values. A chart is its table: the page has the table, and a script draws what it reads there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal

from meterhouse.api.pages.words import column, day_of_month

Sort = Literal["stacked", "bars", "line", "bars-and-line", "causes"]
MAX_SERIES: Final = 7
"""Colours that a reader tells apart; what is beyond them is one series, `Others`."""
OTHERS: Final = "Others"
NONE: Final = "(none)"
"""How a line without a value of its group is shown."""


@dataclass(frozen=True, slots=True)
class Row:
    label: str
    cells: tuple[Any, ...]  # an Amount or another figure of `data`, or None: nothing there


@dataclass(frozen=True, slots=True)
class Chart:
    """`id`: unique in its page. `unit`: of every figure. `rows`: one per place on the axis, a cell for each series."""

    id: str
    title: str
    unit: str
    sort: Sort
    axis: str  # what the rows are
    series: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""

    @property
    def is_empty(self) -> bool:
        return not any(cell is not None for row in self.rows for cell in row.cells)


def label_of(time: str, step: str) -> str:
    """A time of the API on an axis of hours, days or months of UTC."""
    moment = datetime.fromisoformat(time if step != "month" else f"{time[:7]}-01")
    return f"{moment:%-d %b, %H:%M}" if step == "hour" else f"{moment:%b %Y}" if step == "month" else day_of_month(time)


def leading(costs: Mapping[str, Decimal]) -> list[str]:
    """The series to tell apart, the largest first; all of them, or one less than there are colours."""
    ranked = sorted(costs, key=lambda name: (-costs[name], name))
    return ranked if len(ranked) <= MAX_SERIES else ranked[: MAX_SERIES - 1]


def over_time(
    lines: Iterable[Mapping[str, Any]], time: str, group: str, decimals: int = 2
) -> tuple[tuple[str, ...], tuple[Row, ...]]:
    """Series and rows of costs by time and group: the leading groups, and the sum of the others."""
    cells: dict[str, dict[str, Decimal]] = {}
    totals: dict[str, Decimal] = {}
    for line in lines:
        name, cost = line[group] or NONE, Decimal(line["cost"])
        totals[name] = totals.get(name, Decimal()) + cost
        row = cells.setdefault(line[time], {})
        row[name] = row.get(name, Decimal()) + cost
    first = leading(totals)
    rest = totals.keys() - set(first)
    series = (*first, *([OTHERS] if rest else ()))
    rows = []
    for label, found in sorted(cells.items()):
        figures = [found.get(name, Decimal()) for name in first]
        figures += [sum((cost for name, cost in found.items() if name in rest), Decimal())] if rest else []
        rows.append(Row(label, tuple(column([f"{figure:.12f}" for figure in figures], decimals)[0])))
    return series, tuple(rows)
