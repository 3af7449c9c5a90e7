"""The audit log: who did what, and whether anyone altered it since."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Request, Response
from fastapi import Query as Asked
from fastapi.responses import RedirectResponse

from meterhouse.api import audit_desk
from meterhouse.api.auth.caller import Permission
from meterhouse.api.auth.guard import only
from meterhouse.api.dependencies import HouseOf
from meterhouse.api.figures import Span
from meterhouse.api.operations import PAGES
from meterhouse.api.pages.asked import DaysOf, days_of
from meterhouse.api.pages.forms import FieldsOf
from meterhouse.api.pages.links import Query
from meterhouse.api.tables import flatten
from meterhouse.warehouse.audit import AuditFilter
from meterhouse.warehouse.audit_chain import MAX_TEXT

router = APIRouter(include_in_schema=False, tags=[PAGES], dependencies=only(Permission.read_audit))

LINES: Final = 50
"""Of one page: a screen or two."""
_TEXT = Asked(max_length=MAX_TEXT)


@router.get("/audit")
def audit_page(
    request: Request,
    house: HouseOf,
    span: DaysOf,
    actor: Annotated[str | None, _TEXT] = None,
    action: Annotated[str | None, _TEXT] = None,
    after: Annotated[str | None, Asked(max_length=20)] = None,
) -> Response:
    matching = AuditFilter(span.from_us, span.to_us, actor or None, action or None)
    report, head = audit_desk.page(house, matching, after, LINES), house.audit.head()
    site = request.app.state.pages
    shown = {
        "title": "Audit log",
        "entries": [{**entry, "detail": flatten(entry["detail"])} for entry in report["entries"]],
        "next": report["next"],
        "is_first": after is None,
        "is_filtered": bool(actor or action or span != Span()),
        "head": {"seq": head.seq, "hash": head.hash.hex()},
        "chain": site.chain.last,
        "asked": {"actor": actor or "", "action": action or "", **days_of(span)},
        "query": Query.of(request).only("actor", "action", "from", "to"),
    }
    response: Response = site.page(request, "audit.html", shown)
    return response


@router.post("/audit/verification")
def verify_chain(request: Request, house: HouseOf, fields: FieldsOf) -> Response:
    """Reads the whole log."""
    request.app.state.pages.chain.make(partial(audit_desk.verification, house))
    return RedirectResponse("/audit#chain", HTTPStatus.SEE_OTHER)
