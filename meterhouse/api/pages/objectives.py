"""Objectives: each with what is left of its error budget, and one of them in full: how its budget went, how fast it
burns, and its worst minutes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final

from fastapi import APIRouter, Request, Response
from fastapi import Query as Asked

from meterhouse.api.auth.caller import Permission
from meterhouse.api.auth.guard import only
from meterhouse.api.dependencies import ReportsOf
from meterhouse.api.figures import Span
from meterhouse.api.operations import PAGES
from meterhouse.api.pages.charts import Chart, Row, label_of
from meterhouse.api.pages.words import percent
from meterhouse.api.problems import Problem
from meterhouse.warehouse.reports.slo import burn_rules

router = APIRouter(include_in_schema=False, tags=[PAGES], dependencies=only(Permission.read_reports))

_SLI: Final = {"duration": "duration", "time_to_first_token": "time to the first token"}
_HOUR_S: Final = 3_600


@dataclass(frozen=True, slots=True)
class Rule:
    """A burn-rate rule of an objective: it fires while both of its windows burn at `factor` or faster."""

    severity: str
    long: str
    short: str
    factor: float
    rates: tuple[float | None, float | None]  # of the long window, of the short one
    fires: bool


@router.get("/slo")
def objectives_page(
    request: Request, reports: ReportsOf, objective: Annotated[str | None, Asked(max_length=500)] = None
) -> Response:
    """Without an objective, that with the least of its error budget left is shown in full."""
    report = reports.slo(Span())
    found = {each["id"]: each for each in report["objectives"]}
    if objective and objective not in found:
        raise Problem("not-found", "There is no such objective. The page without `objective` lists them.")
    chosen = found[objective] if objective else min(found.values(), key=_left, default=None)
    shown: dict[str, Any] = {
        "title": "Objectives",
        "objectives": [each | {"measures": measures(each)} for each in report["objectives"]],
        "chosen": None,
    }
    if chosen is not None:
        burnt = reports.burn_down(chosen["id"], Span())
        shown |= {
            "chosen": chosen | {"measures": measures(chosen)},
            "allowed": allowed(chosen),
            "burn_down": burn_down_chart(burnt),
            "rules": rules_of(chosen),
            "rates": chosen["burn_rates"],
            "worst": [minute | {"until": _minute_later(minute["time"])} for minute in burnt["worst_minutes"]],
        }
    response: Response = request.app.state.pages.page(request, "objectives.html", shown, as_of=report["as_of"])
    return response


def measures(objective: Mapping[str, Any]) -> str:
    """What is good, in words."""
    if objective["sli"] == "availability":
        return "answered without an error"
    below_ms = objective["below_ms"]
    limit = f"{below_ms / 1000:g} s" if below_ms >= 1000 else f"{below_ms} ms"
    return f"{_SLI[objective['sli']]} below {limit}"


def rules_of(objective: Mapping[str, Any]) -> list[Rule]:
    fire = {(rule["long"], rule["short"]) for rule in objective["burning"]}
    rates = objective["burn_rates"]
    return [
        Rule(
            rule.severity,
            rule.long,
            rule.short,
            float(rule.factor),
            (rates[rule.long], rates[rule.short]),
            (rule.long, rule.short) in fire,
        )
        for rule in burn_rules(objective["window"]["days"])
    ]


def allowed(objective: Mapping[str, Any]) -> int:
    """Whole bad requests that the target allows of those there were."""
    numerator, denominator = (1 - Decimal(objective["target"])).as_integer_ratio()
    return int(objective["total"] * numerator // denominator)


def burn_down_chart(report: Mapping[str, Any]) -> Chart:
    name = "hour" if report["step_seconds"] == _HOUR_S else "day"
    steps = report["steps"] if report["total"] else ()
    rows = tuple(
        Row(
            label_of(step["time"], name),
            (percent(step["error_budget_left"]), percent(step["even"])),
        )
        for step in steps
    )
    axis, series = f"{name.capitalize()} (UTC)", ("Left", "If used evenly")
    note = f"At the end of each {name}, of what the target allows in the whole window. Below 0 the objective is missed."
    return Chart("burn-down", "Error budget left", "%", "line", axis, series, rows, note)


def _left(objective: Mapping[str, Any]) -> float:
    left: float | None = objective["error_budget_left"]
    return 1.0 if left is None else left


def _minute_later(time: str) -> str:
    return (datetime.fromisoformat(time) + timedelta(minutes=1)).isoformat().replace("+00:00", "Z")
