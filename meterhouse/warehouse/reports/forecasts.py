"""What will have been spent when a range ends, per group: as weekdays of the last eight weeks went.

Each group is forecast on its own (`streams.forecast`), and the total is the sum of the groups' forecasts, so that lines
add up. A forecast of all together, without groups, may differ: what is unusual in one group is usual in the sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Final

from meterhouse.streams.control import Snapshot
from meterhouse.streams.forecast import HISTORY_DAYS, days_between, forecast
from meterhouse.streams.money import to_pico
from meterhouse.warehouse.books import Books
from meterhouse.warehouse.reports.as_of import AsOf, Freshness, as_of
from meterhouse.warehouse.reports.chargeback import lines_of
from meterhouse.warehouse.reports.errors import ReportError
from meterhouse.warehouse.reports.groups import GROUPS, TIME_GROUPS, Selection, check_range, chosen
from meterhouse.warehouse.reports.query import DAY_US

FORECAST_GROUPS: Final = tuple(name for name in GROUPS if name not in TIME_GROUPS)
MAX_DAYS: Final = 366
"""Eight weeks say nothing of what is further off than a year."""

Key = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class ForecastLine:
    """Amounts in pico-units of the currency."""

    groups: Mapping[str, str | None]
    spent_pico: int  # in the range, so far
    forecast_pico: int  # at the range's end


@dataclass(frozen=True, slots=True)
class Forecasts:
    currency: str
    from_us: int
    to_us: int
    at_us: int  # when it was made
    group_by: tuple[str, ...]
    lines: tuple[ForecastLine, ...]
    total: ForecastLine
    as_of: AsOf


def forecasts(
    books: Books,
    snapshot: Snapshot,
    selection: Selection,
    group_by: Sequence[str],
    at_us: int,
    freshness: Freshness | None = None,
) -> Forecasts:
    """Lines per `group_by`, sorted as chargeback is, of groups with spend in the range or in the eight weeks before.

    The range is one of whole days of UTC that has begun; when it is over, the forecast is what was spent. A group's
    history counts by the org unit and the cost center of its time. Raises ReportError.
    """
    _check(selection, at_us)
    groups = chosen(group_by, FORECAST_GROUPS)
    today_us = at_us // DAY_US * DAY_US
    first_us = today_us - HISTORY_DAYS * DAY_US
    days = [day.date for day in days_between("UTC", first_us, today_us)]
    window = days_between("UTC", selection.from_us, selection.to_us)
    with books.read() as cursor:
        now_lines, total = lines_of(cursor, snapshot, selection, groups)
        before = replace(selection, from_us=first_us, to_us=today_us)
        daily_lines, _ = lines_of(cursor, snapshot, before, [*groups, GROUPS["day"]])
        figures_as_of = as_of(books, cursor, freshness)
    spent: dict[Key, int] = {tuple(line.groups.values()): to_pico(line.figures.cost) for line in now_lines}
    if not groups:
        spent = {(): to_pico(total.cost)}
    history: dict[Key, dict[date, int]] = {}
    for line in daily_lines:
        *named, day = line.groups.values()
        history.setdefault(tuple(named), {})[date.fromisoformat(str(day))] = to_pico(line.figures.cost)
    lines = []
    for key in sorted(
        spent.keys() | history.keys(), key=lambda key: [(value is not None, value or "") for value in key]
    ):
        known = [(day, history.get(key, {}).get(day, 0)) for day in days]
        amount = forecast(spent.get(key, 0), None, window, at_us, known).amount
        lines.append(ForecastLine(dict(zip(group_by, key, strict=True)), spent.get(key, 0), amount))
    summed = ForecastLine({}, sum(line.spent_pico for line in lines), sum(line.forecast_pico for line in lines))
    return Forecasts(
        snapshot.currency,
        selection.from_us,
        selection.to_us,
        at_us,
        tuple(group_by),
        tuple(lines) if groups else (),
        summed,
        figures_as_of,
    )


def _check(selection: Selection, at_us: int) -> None:
    check_range(selection.from_us, selection.to_us)
    if selection.from_us % DAY_US or selection.to_us % DAY_US:
        raise ReportError("a forecast is of whole days of UTC: let the range begin and end at midnight, as 2026-11-01")
    if selection.to_us - selection.from_us > MAX_DAYS * DAY_US:
        raise ReportError(f"the range has over {MAX_DAYS} days: take a shorter one, eight weeks do not tell so much")
    if selection.from_us > at_us:
        raise ReportError("the range lies ahead: take one that has begun, of which the rest can be forecast")
