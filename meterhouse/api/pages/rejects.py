"""The rejects: what was not taken and why, byte by byte, and what to do about it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi import Query as Asked

from meterhouse.api.auth.caller import Permission
from meterhouse.api.auth.guard import CallerOf, only
from meterhouse.api.dependencies import MAX_FORM_BYTES, HouseOf, ReportsOf
from meterhouse.api.operations import PAGES
from meterhouse.api.pages.asked import DaysOf, days_of
from meterhouse.api.pages.forms import fields_of
from meterhouse.api.pages.links import Query
from meterhouse.api.pages.payloads import MAX_HEX, MAX_TEXT, as_hex, as_text
from meterhouse.api.pages.reject_sweeps import matching_of
from meterhouse.api.paging import MAX_TOKEN
from meterhouse.api.problems import Problem
from meterhouse.api.resolving import Outcome, RejectDesk, parse_place
from meterhouse.ingest.batch import Reason
from meterhouse.ingest.event import MAX_EVENT_BYTES
from meterhouse.warehouse.reject_resolutions import RejectPlace
from meterhouse.warehouse.reports.errors import ReportError
from meterhouse.warehouse.reports.rejects import RejectLine

router = APIRouter(include_in_schema=False, tags=[PAGES], dependencies=only(Permission.read_rejects))

LINES: Final = 25
"""Of one page: a form has a field for each, and a screen or two is what is looked through."""
_AT: Final = "at:"
"""Fields that name a place: its checkbox says `at:usage.events/0/17/0`."""
_FORM_BYTES: Final = 3 * MAX_EVENT_BYTES + MAX_FORM_BYTES
"""An event each of whose bytes is escaped, and the rest of the form."""

RepairOf = Annotated[Mapping[str, str], Depends(fields_of(_FORM_BYTES))]


@router.get("/rejects")
def rejects_page(
    request: Request,
    reports: ReportsOf,
    who: CallerOf,
    span: DaysOf,
    reason: Annotated[str | None, Asked(max_length=40)] = None,
    tenant: str | None = None,
    resolved: bool = False,
    after: Annotated[str | None, Asked(max_length=MAX_TOKEN)] = None,
) -> Response:
    matching = matching_of(reason, tenant, span.from_us, span.to_us)
    report = reports.rejects(matching, after, LINES, resolved=resolved)
    shown = {
        "title": "Rejects",
        "rejects": [{**line, "size": len(payload_of(line))} for line in report["rejects"]],
        "next": report["next"],
        "is_first": after is None,
        "is_filtered": bool(reason or tenant or span.from_us is not None or span.to_us is not None),
        "reasons": list(Reason),
        "tenants": sorted({line["tenant"] for line in report["rejects"] if line["tenant"]}),
        "asked": {"reason": reason, "tenant": tenant or "", "resolved": resolved, **days_of(span)},
        "may_resolve": who.may(Permission.resolve_rejects),
        "query": Query.of(request).only("reason", "tenant", "resolved", "from", "to"),
    }
    response: Response = request.app.state.pages.page(request, "rejects.html", shown, as_of=report["as_of"])
    return response


@router.get("/rejects/{topic}/{partition}/{offset}/{index}")
def reject_page(
    request: Request,
    reports: ReportsOf,
    who: CallerOf,
    topic: Annotated[str, Path(max_length=249)],  # Kafka's limit of a name
    partition: Annotated[int, Path(ge=0, lt=2**31)],
    offset: Annotated[int, Path(ge=0, lt=2**63)],
    index: Annotated[int, Path(ge=-1, lt=2**31)],
    view: Literal["text", "hex"] = "text",
) -> Response:
    line = reports.reject(RejectPlace(topic, partition, offset, index))
    payload = payload_of(line)
    limit = MAX_TEXT if view == "text" else MAX_HEX
    shown = {
        "title": "One reject",
        "reject": line,
        "place": f"{topic}/{partition}/{offset}/{index}",
        "view": view,
        "bytes": as_text(payload) if view == "text" else as_hex(payload),
        "size": len(payload),
        "beyond": max(0, len(payload) - limit),
        "draft": _draft(line, payload),
        "may_resolve": who.may(Permission.resolve_rejects),
        "is_open": line["state"] in ("open", "pending"),
    }
    response: Response = request.app.state.pages.page(request, "reject.html", shown)
    return response


@router.post("/rejects/resolutions", dependencies=only(Permission.resolve_rejects))
def resolve(request: Request, house: HouseOf, who: CallerOf, fields: RepairOf) -> Response:
    """Deals with the rejects that the form names, and answers with what became of each: sent anew it does nothing
    twice, since the desk knows what is done."""
    action, note = fields.get("action", ""), fields.get("note", "").strip()
    desk = RejectDesk(house, who.signs(None) or who.name)
    acts: Mapping[str, Callable[[list[RejectLine]], list[Outcome]]] = {
        "requeue": lambda lines: desk.requeue(lines, dry_run=False),
        "repair": lambda lines: [_repaired(desk, line, fields.get("payload", ""), note) for line in lines],
        "discard": lambda lines: desk.discard(lines, note),
    }
    if action not in acts:
        raise Problem("invalid-parameter", f"action: choose one of {', '.join(acts)}.")
    if action == "discard" and not note:
        raise Problem("invalid-parameter", "Say in `note` why these are not to be billed, and send it again.")
    places = [name.removeprefix(_AT) for name in fields if name.startswith(_AT)]
    if not places or (action == "repair" and len(places) > 1):
        raise Problem("invalid-parameter", "Choose at least one reject; a repair is of one.")
    outcomes = acts[action]([desk.find(parse_place(place)) for place in places])
    shown = {"title": "What became of it", "outcomes": outcomes, "action": action, "gone": 0}
    response: Response = request.app.state.pages.page(request, "reject_outcomes.html", shown)
    return response


def payload_of(line: Mapping[str, Any]) -> bytes:
    """The bytes of a reject, from its JSON."""
    text: str = line["payload"]
    return text.encode() if line["payload_encoding"] == "utf-8" else base64.b64decode(text)


def _draft(line: Mapping[str, Any], payload: bytes) -> str | None:
    """What a repair begins with; None: it is no text that a form could hold."""
    fits = line["payload_encoding"] == "utf-8" and len(payload) <= MAX_EVENT_BYTES
    return line["payload"] if fits else None


def _repaired(desk: RejectDesk, line: RejectLine, payload: str, note: str) -> Outcome:
    sent = payload.encode("utf-8", "surrogatepass")
    if len(sent) > MAX_EVENT_BYTES:
        raise Problem("too-large", f"An event has at most {MAX_EVENT_BYTES:,} bytes, this one {len(sent):,}.")
    try:
        return desk.repair(line, sent, note or None)
    except ReportError as refused:
        place = RejectPlace(line.topic, line.place.partition, line.place.offset, line.place.index)
        return Outcome(place, False, str(refused))
