"""The charges behind a line: each event with its tokens, prices and place in the log."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Path, Request, Response
from fastapi import Query as Asked

from meterhouse.api.auth.caller import Permission
from meterhouse.api.auth.guard import only
from meterhouse.api.dependencies import FiltersOf, ReportsOf
from meterhouse.api.operations import PAGES
from meterhouse.api.pages.asked import RangeOf, span_of
from meterhouse.api.pages.links import Query
from meterhouse.api.paging import MAX_TOKEN, Page
from meterhouse.warehouse.reports.groups import FILTERS

router = APIRouter(include_in_schema=False, tags=[PAGES], dependencies=only(Permission.read_reports))

LINES: Final = 50
"""Of one page: what fits a screen or two."""


@router.get("/charges")
def charges_page(
    request: Request,
    reports: ReportsOf,
    chosen: RangeOf,
    filters: FiltersOf,
    kind: Literal["input", "cache_read", "cache_write", "output", "reasoning"] | None = None,
    after: Annotated[str | None, Asked(max_length=MAX_TOKEN)] = None,
) -> Response:
    report = reports.charges(span_of(chosen), filters, kind, Page(LINES, after))
    shown = {
        "title": "Charges",
        "currency": report["currency"],
        "chosen": chosen,
        "filters": {name: [value or "" for value in values] for name, values in filters.items()},
        "kind": kind,
        "charges": report["charges"],
        "total": report["total"],
        "removed": report["removed"],
        "next": report["next"],
        "is_first": after is None,
        "query": Query.of(request).only("range", "from", "to", *FILTERS, "kind"),
    }
    response: Response = request.app.state.pages.page(request, "charges.html", shown, as_of=report["as_of"])
    return response


@router.get("/charges/{partition}/{offset}/{index}")
def charge_page(
    request: Request,
    reports: ReportsOf,
    partition: Annotated[int, Path(ge=0, lt=2**31)],
    offset: Annotated[int, Path(ge=0, lt=2**63)],
    index: Annotated[int, Path(ge=0, lt=2**31)],
) -> Response:
    found = reports.charge(partition, offset, index)
    shown = {"title": "One charge", **found}
    response: Response = request.app.state.pages.page(request, "charge.html", shown)
    return response
