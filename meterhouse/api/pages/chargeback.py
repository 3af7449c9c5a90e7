"""The chargeback page: any range laid out by any group against the period before, and why it changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from meterhouse.api.answers import Answer
from meterhouse.api.auth.caller import Permission
from meterhouse.api.auth.guard import CallerOf, only
from meterhouse.api.clock import now_us
from meterhouse.api.dependencies import FiltersOf, ReportsOf
from meterhouse.api.figures import Reports
from meterhouse.api.forms import Form
from meterhouse.api.operations import PAGES
from meterhouse.api.pages.asked import GROUPS, GroupsOf, RangeOf, span_of
from meterhouse.api.pages.charts import Chart, Row, label_of, over_time
from meterhouse.api.pages.compared import MAX_LINES, Table, table_of
from meterhouse.api.pages.filtering import AddedOf, texts_of, with_added
from meterhouse.api.pages.links import Query
from meterhouse.api.pages.ranges import AXES, NAMES, Range, range_of
from meterhouse.api.pages.words import amount, decimals_for, parts_of
from meterhouse.api.problems import Problem
from meterhouse.api.schemas import reports as schemas
from meterhouse.warehouse.reports.groups import FILTERS, Filters
from meterhouse.warehouse.reports.to_json import rfc3339

router = APIRouter(include_in_schema=False, tags=[PAGES], dependencies=only(Permission.read_reports))

DEEPER: Final[Mapping[str, str]] = {
    "org_unit": "tenant",
    "cost_center": "tenant",
    "tenant": "application",
    "application": "model",
    "provider": "model",
    "environment": "application",
    "operation": "application",
    "model": "kind",
}
"""What a line is laid out by when it is opened."""
PARTS: Final[Mapping[str, str]] = {
    "price": "Prices",
    "volume": "Volume",
    "model_mix": "Model mix",
    "output_share": "Output share",
    "cache_share": "Cache share",
    "new_models": "New models",
    "gone_models": "Gone models",
}


@router.get("/chargeback")
def chargeback_page(
    request: Request,
    reports: ReportsOf,
    chosen: RangeOf,
    filters: FiltersOf,
    groups: GroupsOf,
    added: AddedOf,
) -> Response:
    query = Query.of(request).only("range", "from", "to", *FILTERS, "by", "then")
    if added:
        return with_added(query, added, FILTERS)
    with reports.at_once() as at_once:
        compared = at_once.comparison(span_of(chosen), groups, filters)
        explained = at_once.explanation(span_of(chosen), filters)
        costs = timeline(at_once, chosen, groups[0], filters)
    table = table_of(compared, most=MAX_LINES)
    shown = {
        "title": "Chargeback",
        "currency": compared["currency"],
        "chosen": chosen,
        "to_go": chosen.seconds_to_go(now_us()),
        "ranges": NAMES,
        "groups": GROUPS,
        "asked_groups": groups,
        "by": groups[0],
        "then": groups[1] if len(groups) > 1 else None,
        "by_kind": "kind" in groups,
        "filters": texts_of(filters),
        "query": query,
        "table": table,
        "total": table.total,
        "before_in_words": range_of(compared["compared_with"]).in_words,
        "deeper": DEEPER,
        "timeline": costs,
        "why": why(explained, table),
        "api_query": api_query(query, chosen),
    }
    response: Response = request.app.state.pages.page(request, "chargeback.html", shown, as_of=compared["as_of"])
    return response


@router.get("/files/chargeback", response_model=schemas.Chargeback)
def chargeback_file(
    request: Request,
    reports: ReportsOf,
    who: CallerOf,
    chosen: RangeOf,
    filters: FiltersOf,
    groups: GroupsOf,
    form: str = "csv",
) -> Any:
    """The table as a file, exact: what `/v1/chargeback` answers to whoever accepts that form."""
    if form not in ("csv", "parquet"):
        raise Problem("invalid-parameter", "form: a file is `csv` or `parquet`.")
    report = reports.chargeback(span_of(chosen), groups, filters)
    return Answer(request, Response(), Form[form], False, who)(report)


def api_query(query: Query, chosen: Range) -> Query:
    """The same range and filters as the API takes them."""
    bounds = (("from", rfc3339(chosen.from_us)), ("to", rfc3339(chosen.to_us)))
    return Query("/v1/chargeback", (*bounds, *query.only(*FILTERS).pairs))


def timeline(reports: Reports, chosen: Range, group: str, filters: Filters) -> Chart:
    """Costs over time by one group, each step of the range there."""
    step = chosen.step
    report = reports.chargeback(span_of(chosen), (step, group), filters)
    series, rows = over_time(report["lines"], step, group, decimals_for(report["total"]["cost"]))
    if group == "kind":
        series = tuple(name.replace("_", " ") for name in series)
    if step != "month" and rows:
        rows = _each_step(rows, chosen, len(series))
    rows = tuple(replace(row, label=label_of(row.label, step)) for row in rows)
    title = f"Cost per {step} by {GROUPS[group].lower()}"
    return Chart("timeline", title, report["currency"], "stacked", AXES[step], series, rows)


def _each_step(rows: tuple[Row, ...], chosen: Range, width: int) -> tuple[Row, ...]:
    """Hours or days without a charge too, up to the last with one: a gap is a finding."""
    known = {row.label: row for row in rows}
    nothing = tuple(amount("0.000000000000") for _ in range(width))
    times = (time if chosen.step == "hour" else time[:10] for time in chosen.times())
    return tuple(known.get(time) or Row(time, nothing) for time in times if time <= rows[-1].label)


def why(explained: Mapping[str, Any], table: Table) -> Chart:
    """What each cause added to the cost of the range before, or took from it: as shown, the change that is shown."""
    causes = {title: explained["parts"][name] for name, title in PARTS.items()}
    found = {title: exact for title, exact in causes.items() if exact.strip("-0.")}
    change = table.total.change
    shown = parts_of(change, list(found.values()), table.decimals)
    rows = tuple(Row(title, (each,)) for title, each in zip(found, shown, strict=True))
    note = f"The causes add up to the change, {change.shown} {explained['currency']}."
    return Chart("why", "Why the cost changed", explained["currency"], "causes", "Cause", ("Change",), rows, note)
