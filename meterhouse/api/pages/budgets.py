"""Budgets: where each stands and leads, what gates are told, alerts to acknowledge, and what another limit would do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request, Response
from fastapi import Query as Asked
from fastapi.responses import RedirectResponse

from meterhouse.api.alert_desk import AlertDesk
from meterhouse.api.auth.caller import Caller, Permission
from meterhouse.api.auth.guard import CallerOf, only
from meterhouse.api.clock import now_us
from meterhouse.api.dependencies import HouseOf, ReportsOf
from meterhouse.api.figures import Span
from meterhouse.api.operations import PAGES
from meterhouse.api.pages.forms import FieldsOf
from meterhouse.api.problems import Problem
from meterhouse.api.wiring import House
from meterhouse.streams.alerts import AlertFilter
from meterhouse.streams.gate_decision import Decision

router = APIRouter(include_in_schema=False, tags=[PAGES])

ALERTS: Final = 50
"""What a person answers; the API lists them all."""
_REASONS: Final[Mapping[str, str]] = {
    "exceeded": "the limit is spent",
    "does_not_fit": "less is left than a request may cost",
    "reserved": "what is left is reserved by requests that run",
    "stale": "the spend is not known, and this budget is closed then",
    "throttled": "the limit is spent, and the rate used up",
    "not_ready": "the gate has not caught up",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """Spent of a limit as a drawing, in percent of its width; the text beside it has the figures."""

    spent: Decimal
    forecast: Decimal
    thresholds: tuple[Decimal, ...]
    limit: Decimal


@router.get("/budgets", dependencies=only(Permission.read_reports))
def budgets_page(
    request: Request,
    house: HouseOf,
    reports: ReportsOf,
    who: CallerOf,
    budget: Annotated[str | None, Asked(max_length=500)] = None,
    limit: Annotated[str | None, Asked(max_length=50)] = None,
) -> Response:
    """With a budget and a limit also what that limit would come to; nothing of it is kept."""
    if limit and not budget:
        raise Problem("invalid-parameter", "limit: name the `budget` whose limit it would be.")
    report = reports.budgets(Span())
    known = {each["id"]: each for each in report["budgets"]}
    if budget and budget not in known:
        raise Problem("not-found", "There is no such budget. The page without `budget` lists them.")
    supposed = reports.budget_if(budget, limit.strip())["budget"] if budget and limit else None
    shown = {
        "title": "Budgets",
        "currency": report["currency"],
        "budgets": [each | {"bar": bar(each), "told": told(house, each)} for each in report["budgets"]],
        "alerts": _alerts(house, who),
        "may_answer": who.may(Permission.answer_alerts),
        "budget": budget,
        "limit": limit,
        "present": known[budget] if budget else None,
        "supposed": supposed,
        "bars": [bar(each) for each in (known[budget], supposed)] if budget and supposed else [],
    }
    response: Response = request.app.state.pages.page(request, "budgets.html", shown, as_of=report["as_of"])
    return response


@router.post("/budgets/alerts/{alert_id}/acknowledgement", dependencies=only(Permission.answer_alerts))
def acknowledge_on_page(
    house: HouseOf, who: CallerOf, fields: FieldsOf, alert_id: Annotated[str, Path(max_length=100)]
) -> Response:
    """As the API's acknowledgement: by who is signed in, with a note."""
    desk = AlertDesk(house, who.view, who.id)
    desk.acknowledge(alert_id, who.signs(fields.get("by") or None), fields.get("note") or None)
    return RedirectResponse("/budgets#alerts-title", HTTPStatus.SEE_OTHER)


def bar(budget: Mapping[str, Any]) -> Bar:
    """Its width is the most of limit, forecast and spent, so that what is beyond the limit is seen as such."""
    spent, forecast, limit = (Decimal(budget[name]) for name in ("spent", "forecast", "limit"))
    width = max(spent, forecast, limit, Decimal(1).scaleb(-12))

    def part(amount: Decimal) -> Decimal:
        return (amount * 100 / width).quantize(Decimal("0.01"))

    marks = tuple(part(limit * Decimal(each) / 100) for each in budget["thresholds"])
    return Bar(part(spent), part(max(spent, forecast)), tuple(each for each in marks if each < 100), part(limit))


def told(house: House, budget: Mapping[str, Any]) -> str:
    """What this server's gate says of a request that only this budget looks at."""
    decision = house.admissions.gate.outlook(budget["id"])
    return "nothing yet: the budget is not known at the gate" if decision is None else in_words(decision)


def in_words(decision: Decision) -> str:
    rate = decision.throttle_per_minute
    if decision.outcome == "allow":
        return "go on" if rate is None else f"go on, {rate:,} a minute at most"
    why = _REASONS.get(decision.reason or "", decision.reason or "")
    return f"{decision.outcome}: {why}"


def _alerts(house: House, who: Caller) -> list[dict[str, Any]]:
    """The newest thresholds that were crossed in windows that run, those that nobody looks after first."""
    if not who.may(Permission.read_alerts):
        return []
    matching = AlertFilter(kind="threshold", status="open", at_us=now_us())
    found = AlertDesk(house, who.view, who.id).page(matching, None, ALERTS)["alerts"]
    return sorted(found, key=lambda alert: bool(alert["standing"] != "open"))
