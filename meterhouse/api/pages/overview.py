"""The overview: what is spent today and this month, where it leads, and what needs a look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from meterhouse.api.auth.caller import Permission
from meterhouse.api.auth.guard import only
from meterhouse.api.clock import now_us
from meterhouse.api.dependencies import ReportsOf
from meterhouse.api.figures import Reports, Span
from meterhouse.api.operations import PAGES
from meterhouse.api.pages.asked import span_of
from meterhouse.api.pages.charts import Chart, Row
from meterhouse.api.pages.compared import Line, table_of
from meterhouse.api.pages.ranges import DAY, between, month_before, named, next_month
from meterhouse.api.pages.words import Amount, amount, column, decimals_for, difference
from meterhouse.warehouse.reports.groups import datetime_of, microseconds_of

router = APIRouter(include_in_schema=False, tags=[PAGES], dependencies=only(Permission.read_reports))

MOVERS: Final = 8
"""Tenants whose cost changed most; the chargeback has them all."""
LEFT_AT_RISK: Final = 0.25
"""An objective with less of its error budget left is shown before it burns."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One of the large figures, against another period."""

    id: str
    title: str
    now: Amount
    before: Amount
    change: Amount
    relative: Decimal | None
    against: str  # what `before` is, in words


@router.get("/overview")
def overview_page(request: Request, reports: ReportsOf) -> Response:
    moment_us = now_us()
    week = named("last-7-days", moment_us)
    with reports.at_once() as at_once:
        moved = at_once.comparison(span_of(week), ("tenant",), {})
        figures, daily = _costs(at_once, moment_us)
    shown = {
        "title": "Overview",
        "currency": moved["currency"],
        "figures": figures,
        "daily": daily,
        "week": week,
        "movers": _movers(moved),
    }
    response: Response = request.app.state.pages.page(request, "overview.html", shown, as_of=moved["as_of"])
    return response


@router.get("/overview/risks")
def risks_page(request: Request, reports: ReportsOf) -> Response:
    """What needs a look. The overview loads it as a part, once it is shown itself: forecasts and objectives read weeks,
    many times what costs do."""
    with reports.at_once() as at_once:
        budgets, objectives = at_once.budgets(Span()), at_once.slo(Span())
    shown = {
        "title": "What needs a look",
        "budgets": budgets["budgets"],
        "at_risk": [each for each in budgets["budgets"] if is_at_risk(each)],
        "objectives": objectives["objectives"],
        "burning": [each for each in objectives["objectives"] if is_burning(each)],
    }
    response: Response = request.app.state.pages.page(request, "risks.html", shown, as_of=objectives["as_of"])
    return response


def is_at_risk(budget: Mapping[str, Any]) -> bool:
    """It crossed a threshold, or its forecast reaches the limit."""
    return budget["state"] != "ok" or Decimal(budget["forecast"]) >= Decimal(budget["limit"])


def is_burning(objective: Mapping[str, Any]) -> bool:
    left = objective["error_budget_left"]
    return bool(objective["burning"]) or (left is not None and left < LEFT_AT_RISK)


def _costs(reports: Reports, moment_us: int) -> tuple[list[Figure], Chart]:
    """The figures of today and this month, and the month day by day beside the one before."""
    moment = datetime_of(moment_us)
    today, month = moment.date(), moment.date().replace(day=1)
    last = month_before(month)
    by_day = reports.chargeback(Span(between("", last, last).from_us, _at(moment, DAY)), ("day",), {})
    days = {line["day"]: line["cost"] for line in by_day["lines"]}
    forecast = reports.forecast(Span(), (), {})["total"]
    yesterday = _until_now(reports, _midnight(moment) - DAY, moment)
    month_then = _until_now(reports, _month_start(moment, last), moment, _month_start(moment, month))
    so_far = _sum(cost for day, cost in days.items() if day >= month.isoformat())
    whole_last = _sum(cost for day, cost in days.items() if day < month.isoformat())
    name = last.strftime("%B")
    figures = [
        figure("today", "Today", days.get(today.isoformat(), _ZERO), yesterday, "yesterday, until the same time"),
        figure("month", "This month so far", so_far, month_then, f"{name}, until the same day and time"),
        figure("forecast", "Forecast for this month", forecast["forecast"], whole_last, f"the whole of {name}"),
    ]
    return figures, _daily(days, month.isoformat(), last.isoformat(), by_day["currency"])


_ZERO: Final = "0.000000000000"


def figure(id_: str, title: str, now: str, before: str, against: str) -> Figure:
    places = decimals_for(now)
    shown, then = amount(now, places), amount(before, places)
    exact = Decimal(now) - Decimal(before)
    change = difference(shown, then, f"{exact:.12f}", places)
    return Figure(id_, title, shown, then, change, exact / Decimal(before) if Decimal(before) else None, against)


def _until_now(reports: Reports, start: datetime, moment: datetime, now_start: datetime | None = None) -> str:
    """What was spent from `start` for as long as from the present period's start until now, at most until that."""
    began = now_start or _midnight(moment)
    end = min(start + (moment - began), began)
    span = Span(microseconds_of(start), microseconds_of(end))
    if span.from_us == span.to_us:
        return _ZERO
    cost: str = reports.chargeback(span, (), {})["total"]["cost"]
    return cost


def _midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def _month_start(moment: datetime, month: Any) -> datetime:
    return _midnight(moment).replace(year=month.year, month=month.month, day=1)


def _at(moment: datetime, after: timedelta) -> int:
    """The midnight so long after the day's own."""
    return microseconds_of(_midnight(moment) + after)


def _sum(costs: Any) -> str:
    return f"{sum(map(Decimal, costs), Decimal()):.12f}"


def _daily(days: Mapping[str, str], month: str, last: str, currency: str) -> Chart:
    """Costs by the day of the month, this month's beside last month's. Days to come have no figure."""
    has_last = any(Decimal(cost) for day, cost in days.items() if day < month)
    months = (month[:8], last[:8]) if has_last else (month[:8],)
    newest = max((day for day in days if day >= month), default="")
    columns = [_month(days, prefix, newest) for prefix in months]
    rows = tuple(
        Row(str(number), tuple(column.get(number) for column in columns))
        for number in range(1, 32)
        if any(_is_day(f"{prefix}{number:02d}") for prefix in months)
    )
    names = tuple(datetime.fromisoformat(f"{prefix}01").strftime("%B %Y") for prefix in months)
    empty = not any(Decimal(cost) for cost in days.values())
    return Chart("daily", "Cost per day", currency, "bars-and-line", "Day (UTC)", names, () if empty else rows)


def _month(days: Mapping[str, str], prefix: str, newest: str) -> Mapping[int, Amount]:
    """The costs of a month's days until the newest there is: as shown, they add up to what the month is shown with."""
    asked = [f"{prefix}{number:02d}" for number in range(1, 32)]
    known = {int(day[8:]): days.get(day, _ZERO) for day in asked if day <= newest and _is_day(day)}
    shown, _ = column(list(known.values()), decimals_for(_sum(known.values())))
    return dict(zip(known, shown, strict=True))


def _is_day(text: str) -> bool:
    first = datetime.fromisoformat(f"{text[:8]}01").date()
    return int(text[8:]) <= (next_month(first) - DAY).day


def _movers(moved: Mapping[str, Any]) -> Sequence[Line]:
    return table_of(moved).lines[:MOVERS]
