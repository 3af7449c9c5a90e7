"""Filters that a reader adds in one field (`tenant: acme`). Each is then a parameter of the address of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request, Response
from fastapi import Query as Asked
from fastapi.responses import RedirectResponse

from meterhouse.api.auth.caller import Permission
from meterhouse.api.auth.guard import only
from meterhouse.api.dependencies import FiltersOf, ReportsOf
from meterhouse.api.figures import Reports, Span
from meterhouse.api.operations import PAGES
from meterhouse.api.pages.asked import GROUPS, RangeOf, span_of
from meterhouse.api.pages.charts import NONE
from meterhouse.api.pages.links import Query
from meterhouse.api.problems import Problem
from meterhouse.warehouse.reports.groups import FILTERS, Filters

router = APIRouter(include_in_schema=False, tags=[PAGES], dependencies=only(Permission.read_reports))

MAX_OFFERED: Final = 50
"""Values of each name: what is looked through. Any other can be written."""


@dataclass(frozen=True, slots=True)
class Offered:
    """A value that a filter can have, as the field takes it and as the address has it."""

    text: str
    value: str
    cost: str


async def added_filter(text: Annotated[str | None, Asked(alias="only", max_length=600)] = None) -> str | None:
    return text.strip() if text and text.strip() else None


Names = Annotated[list[str] | None, Asked(max_length=len(FILTERS))]
AddedOf = Annotated[str | None, Depends(added_filter)]


def with_added(query: Query, text: str, names: Collection[str], single: str | None = None) -> Response:
    """Leads to the address with the filter that `text` says beside those that are there; of the name `single` there is
    one at a time. Raises Problem (`invalid-parameter`)."""
    said, colon, value = (part.strip() for part in text.partition(":"))
    name = said.lower().replace(" ", "_")
    if name not in names or not colon or not value:
        known = ", ".join(each.replace("_", " ") for each in names)
        raise Problem("invalid-parameter", f"only: write `name: value`, as in `tenant: acme`. Names are {known}.")
    values = [] if name == single else [kept for at, kept in query.pairs if at == name]
    changed: dict[str, Any] = {name: list(dict.fromkeys([*values, "" if value == NONE else value]))}
    return RedirectResponse(query.with_(**changed), HTTPStatus.SEE_OTHER)


def texts_of(filters: Filters) -> dict[str, list[str]]:
    """The filters as the address has them: empty stands for those without a value."""
    return {name: [value or "" for value in values] for name, values in filters.items()}


@router.get("/filters")
def filters_page(
    request: Request, reports: ReportsOf, chosen: RangeOf, filters: FiltersOf, name: Names = None
) -> Response:
    """What there is to filter by in a range, of these names or of all. The field of other pages loads it as a part once
    somebody turns to it."""
    names = [each for each in FILTERS if name is None or each in name]
    shown = {
        "title": "Filters",
        "chosen": chosen,
        "names": {each: GROUPS[each] for each in names},
        "offered": offered(reports, span_of(chosen), filters, names),
        "most": MAX_OFFERED,
        "query": Query.of(request).only("range", "from", "to", *FILTERS, "by", "then"),
    }
    response: Response = request.app.state.pages.page(request, "filters.html", shown)
    return response


def offered(reports: Reports, span: Span, filters: Filters, names: Collection[str]) -> Mapping[str, list[Offered]]:
    """By name what was charged in the range, most costly first: what its reader sees, and what the other filters
    leave."""
    with reports.at_once() as at_once:
        return {name: _of_name(at_once, span, filters, name) for name in names}


def _of_name(reports: Reports, span: Span, filters: Filters, name: str) -> list[Offered]:
    others = {each: values for each, values in filters.items() if each != name}
    lines = reports.chargeback(span, (name,), others)["lines"]
    ranked = sorted(lines, key=lambda line: -Decimal(line["cost"]))
    return [_offered(name, line) for line in ranked[:MAX_OFFERED]]


def _offered(name: str, line: Mapping[str, Any]) -> Offered:
    value: str = line[name] or ""
    return Offered(f"{name.replace('_', ' ')}: {value or NONE}", value, line["cost"])
