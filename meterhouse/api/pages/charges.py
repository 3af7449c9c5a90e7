"""The charges behind a line: each event with its tokens, prices and place in the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Path, Request, Response
from fastapi import Query as Asked

from meterhouse.api.auth.caller import Permission
from meterhouse.api.auth.guard import only
from meterhouse.api.dependencies import FiltersOf, ReportsOf
from meterhouse.api.operations import PAGES
from meterhouse.api.pages.asked import RangeOf, span_of
from meterhouse.api.pages.filtering import AddedOf, texts_of, with_added
from meterhouse.api.pages.links import Query
from meterhouse.api.pages.ranges import NAMES
from meterhouse.api.pages.words import Amount, column
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
    added: AddedOf,
    kind: Literal["input", "cache_read", "cache_write", "output", "reasoning"] | None = None,
    after: Annotated[str | None, Asked(max_length=MAX_TOKEN)] = None,
) -> Response:
    query = Query.of(request).only("range", "from", "to", *FILTERS, "kind")
    if added:
        return with_added(query, added, (*FILTERS, "kind"), single="kind")
    report = reports.charges(span_of(chosen), filters, kind, Page(LINES, after))
    shown = {
        "title": "Charges",
        "currency": report["currency"],
        "chosen": chosen,
        "ranges": NAMES,
        "filters": texts_of(filters) | ({"kind": [kind]} if kind else {}),
        "charges": report["charges"],
        "costs": _costs(report["charges"]),
        "total": report["total"],
        "removed": report["removed"],
        "next": report["next"],
        "is_first": after is None,
        "query": query,
    }
    response: Response = request.app.state.pages.page(request, "charges.html", shown, as_of=report["as_of"])
    return response


def _costs(charges: Sequence[Mapping[str, Any]]) -> list[Amount | None]:
    """As a column that adds up; None: of what has no cost."""
    shown = iter(column([each["cost"] for each in charges if each["cost"] is not None], 6)[0])
    return [None if each["cost"] is None else next(shown) for each in charges]


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
