"""An application, as whoever owns it looks at it: cost, use, errors, latencies and cache, over time and by model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from http import HTTPStatus
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from meterhouse.api.auth.caller import Permission
from meterhouse.api.auth.guard import only
from meterhouse.api.clock import now_us
from meterhouse.api.dependencies import FiltersOf, ReportsOf
from meterhouse.api.figures import Reports
from meterhouse.api.operations import PAGES
from meterhouse.api.pages.asked import RangeOf, span_of
from meterhouse.api.pages.chargeback import timeline
from meterhouse.api.pages.charts import Chart, Row, label_of
from meterhouse.api.pages.compared import MAX_LINES, Line, table_of
from meterhouse.api.pages.filtering import AddedOf, texts_of, with_added
from meterhouse.api.pages.links import Query
from meterhouse.api.pages.ranges import AXES, NAMES, Range, Step, range_of
from meterhouse.api.pages.words import Amount, percent, seconds, whole
from meterhouse.warehouse.reports.groups import FILTERS, Filters
from meterhouse.warehouse.reports.latencies import LATENCY_GROUPS

router = APIRouter(include_in_schema=False, tags=[PAGES], dependencies=only(Permission.read_reports))

STATUSES: Final[Mapping[str, str]] = {
    "ok": "OK",
    "error": "Errors",
    "aborted": "Aborted",
    "throttled": "Throttled",
    "blocked": "Blocked",
}
QUANTILES: Final = ("p50", "p95", "p99")
METRICS: Final[Mapping[str, str]] = {"duration": "Duration", "time_to_first_token": "Time to first token"}
_INPUT: Final = ("input", "cache_read", "cache_write")


@dataclass(frozen=True, slots=True)
class Use:
    """Requests and tokens, of whatever was added up."""

    requests: int
    by_status: Mapping[str, int]
    tokens: Mapping[str, int]

    @classmethod
    def of(cls, lines: Iterable[Mapping[str, Any]]) -> Use:
        by_status, tokens, requests = dict.fromkeys(STATUSES, 0), dict[str, int](), 0
        for line in lines:
            requests += line["requests"]
            for name, count in line["by_status"].items():
                by_status[name] = by_status.get(name, 0) + count
            for name, count in line["tokens"].items():
                tokens[name] = tokens.get(name, 0) + count
        return cls(requests, by_status, tokens)

    @property
    def error_share(self) -> Decimal | None:
        return Decimal(self.by_status["error"]) / self.requests if self.requests else None

    @property
    def cache_share(self) -> Decimal | None:
        """Of all input tokens, those that were read from the cache."""
        read, all_input = self.tokens.get("cache_read", 0), sum(self.tokens.get(kind, 0) for kind in _INPUT)
        return Decimal(read) / all_input if all_input else None


@dataclass(frozen=True, slots=True)
class OfModel:
    """A line of the table. `cost`: None where nothing of it was billed, in neither range."""

    model: str
    use: Use
    cost: Line | None
    durations: Mapping[str, Amount | None]


@router.get("/application")
def application_page(
    request: Request, reports: ReportsOf, chosen: RangeOf, filters: FiltersOf, added: AddedOf
) -> Response:
    query = Query.of(request).only("range", "from", "to", *FILTERS)
    if added:
        return with_added(query, added, LATENCY_GROUPS, single="application")
    common = {
        "chosen": chosen,
        "ranges": NAMES,
        "query": query,
        "filters": texts_of(filters),
        "names": LATENCY_GROUPS,
        "to_go": chosen.seconds_to_go(now_us()),
    }
    if len(filters.get("application", ())) == 1:
        return _one(request, reports, common, filters)
    compared = reports.comparison(span_of(chosen), ("tenant", "application"), filters)
    table = table_of(compared, by_cost=True, most=MAX_LINES)
    if len(table.lines) == 1:
        return RedirectResponse(query.with_(**table.lines[0].groups), HTTPStatus.SEE_OTHER)
    shown = common | {
        "title": "Applications",
        "currency": compared["currency"],
        "table": table,
        "before_in_words": range_of(compared["compared_with"]).in_words,
    }
    response: Response = request.app.state.pages.page(request, "applications.html", shown, as_of=compared["as_of"])
    return response


def _one(request: Request, reports: Reports, common: Mapping[str, Any], filters: Filters) -> Response:
    chosen: Range = common["chosen"]
    span, step = span_of(chosen), chosen.step
    with reports.at_once() as at_once:
        compared = at_once.comparison(span, ("model",), filters)
        usage = at_once.usage(span, "hour" if step == "hour" else "day", ("model",), filters)
        over_time = at_once.latencies(span, (), step, filters)
        by_model = at_once.latencies(span, ("model",), "whole", filters)
        costs = timeline(at_once, chosen, "model", filters)
    table = table_of(compared)
    shown = dict(common) | {
        "title": common["filters"]["application"][0],
        "filters_beside": {name: values for name, values in common["filters"].items() if name != "application"},
        "currency": compared["currency"],
        "total": table.total,
        "before_in_words": range_of(compared["compared_with"]).in_words,
        "use": Use.of(usage["lines"]),
        "latencies": {name: of_quantiles(over_time["total"], name) for name in METRICS},
        "metrics": METRICS,
        "models": _models(table.lines, usage["lines"], by_model["lines"]),
        "timeline": costs,
        "charts": charts(chosen, usage["lines"], over_time["lines"]),
    }
    response: Response = request.app.state.pages.page(request, "application.html", shown, as_of=compared["as_of"])
    return response


def of_quantiles(line: Mapping[str, Any], metric: str) -> dict[str, Amount | None]:
    return {name: seconds(line[f"{metric}_ms"][name]) for name in QUANTILES}


def _models(
    costs: Iterable[Line], usage: Iterable[Mapping[str, Any]], latencies: Iterable[Mapping[str, Any]]
) -> list[OfModel]:
    """Those with most requests first."""
    cost_of = {str(line.groups["model"]): line for line in costs}
    durations = {line["model"]: of_quantiles(line, "duration") for line in latencies}
    used: dict[str, list[Mapping[str, Any]]] = {name: [] for name in cost_of}
    for line in usage:
        used.setdefault(line["model"], []).append(line)
    none = dict.fromkeys(QUANTILES)
    found = [OfModel(name, Use.of(used[name]), cost_of.get(name), durations.get(name, none)) for name in used]
    return sorted(found, key=lambda each: (-each.use.requests, each.model))


def charts(chosen: Range, usage: Iterable[Mapping[str, Any]], latencies: Iterable[Mapping[str, Any]]) -> list[Chart]:
    """Requests by status, both latencies, the cache's share: over time."""
    step = chosen.step
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for line in usage:
        lines.setdefault(_start(line["time"], step), []).append(line)
    measured = {_start(line["time"], step): line for line in latencies}
    times = _times(chosen, sorted(lines.keys() | measured.keys()))
    uses = {time: Use.of(lines.get(time, ())) for time in times}
    asked = [name for name in STATUSES if name == "ok" or any(use.by_status[name] for use in uses.values())]
    labels = {time: label_of(time, step) for time in times}
    requests = tuple(
        Row(labels[time], tuple(whole(use.by_status[name]) for name in asked)) for time, use in uses.items()
    )
    cached = tuple(Row(labels[time], (percent(use.cache_share),)) for time, use in uses.items())
    per, axis = f"per {step}", AXES[step]
    latency_charts = [
        Chart(
            f"latency-{metric}".replace("_", "-"),
            f"{title} {per}",
            "s",
            "line",
            axis,
            QUANTILES,
            tuple(
                Row(labels[time], tuple(of_quantiles(measured[time], metric).values() if time in measured else _NONE))
                for time in times
            ),
        )
        for metric, title in METRICS.items()
    ]
    series = tuple(STATUSES[name] for name in asked)
    return [
        Chart("requests", f"Requests {per} by status", "requests", "stacked", axis, series, requests),
        Chart("cache", f"Input tokens read from the cache {per}", "%", "line", axis, ("Cache share",), cached),
        *latency_charts,
    ]


_NONE: Final = (None, None, None)


def _start(time: str, step: Step) -> str:
    """The step that a time of the API lies in."""
    return time if step != "month" else f"{time[:7]}-01T00:00:00Z"


def _times(chosen: Range, known: list[str]) -> list[str]:
    """Those that are known, and of hours and days those without a request too, up to the last with one."""
    if not known or chosen.step == "month":
        return known
    return [time for time in chosen.times() if time <= known[-1]]
