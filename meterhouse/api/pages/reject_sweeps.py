"""All rejects that match, dealt with at once: first how many there are, and what would become of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi import Query as Asked

from meterhouse.api.auth.caller import Caller, Permission
from meterhouse.api.auth.guard import CallerOf, only
from meterhouse.api.dependencies import HouseOf, ReportsOf
from meterhouse.api.figures import place_of
from meterhouse.api.operations import PAGES
from meterhouse.api.pages.asked import DaysOf
from meterhouse.api.pages.forms import fields_of
from meterhouse.api.pages.links import Query
from meterhouse.api.problems import Problem
from meterhouse.api.resolving import AGAIN, Outcome, RejectDesk
from meterhouse.api.wiring import House
from meterhouse.ingest.batch import Reason
from meterhouse.warehouse.reports.rejects import RejectFilter, RejectLine

router = APIRouter(include_in_schema=False, tags=[PAGES], dependencies=only(Permission.resolve_rejects))

MOST: Final = 500
"""Rejects at a time: their intents are one transaction and their bytes one append, and somebody waits for it."""
LINES: Final = 12
"""Of what is counted by kind; beyond them a reader looks at the rejects themselves."""
_FORM_BYTES: Final = MOST * 160
"""A place of each, escaped, with a topic's name of any length that we give."""

Action = Literal["requeue", "discard"]
SweepOf = Annotated[Mapping[str, str], Depends(fields_of(_FORM_BYTES))]


def matching_of(reason: str | None, tenant: str | None, from_us: int | None, to_us: int | None) -> RejectFilter:
    """Empty texts stand for any. Raises Problem (`invalid-parameter`)."""
    if reason and reason not in list(Reason):
        raise Problem("invalid-parameter", f"{reason!r} is no reason: {', '.join(Reason)} are.")
    return RejectFilter(from_us, to_us, (reason,) if reason else (), tenant or None)


@router.get("/rejects/matching")
def matching_page(
    request: Request,
    house: HouseOf,
    reports: ReportsOf,
    who: CallerOf,
    span: DaysOf,
    action: Action = "requeue",
    reason: Annotated[str | None, Asked(max_length=40)] = None,
    tenant: str | None = None,
) -> Response:
    """How many match, and of those that would be sent again how many would be taken. Nothing is changed."""
    found = reports.open_rejects(matching_of(reason, tenant, span.from_us, span.to_us), MOST + 1)
    lines = found[:MOST]
    ranked = Counter((line.tenant, line.reason) for line in lines).most_common()
    left: Sequence[Outcome] = ()
    if action == "requeue":
        left = [each for each in _desk(house, who).requeue(lines, dry_run=True) if not each.done]
    shown = {
        "title": "Send all that match again" if action == "requeue" else "Discard all that match",
        "action": action,
        "lines": lines,
        "more": len(found) > MOST,
        "most": MOST,
        "of_tenants": ranked[:LINES],
        "of_more": sum(number for _, number in ranked[LINES:]),
        "left": len(left),
        "whys": Counter(each.told.removeprefix(AGAIN) for each in left).most_common(LINES),
        "kept": {"reason": reason or "", "tenant": tenant or "", **_arrivals(lines)},
        "places": " ".join(str(place_of(line)) for line in lines),
        "query": Query.of(request).only("reason", "tenant", "from", "to"),
    }
    response: Response = request.app.state.pages.page(request, "reject_sweep.html", shown)
    return response


@router.post("/rejects/matching")
def sweep(request: Request, house: HouseOf, reports: ReportsOf, who: CallerOf, fields: SweepOf) -> Response:
    """Deals with those that were shown, and with no other: what arrived since is for another look. Sent anew it does
    nothing twice, since what is done with matches no more."""
    action, note = fields.get("action", ""), fields.get("note", "").strip()
    if action not in ("requeue", "discard"):
        raise Problem("invalid-parameter", "action: choose one of requeue, discard.")
    if action == "discard" and not note:
        raise Problem("invalid-parameter", "Say in `note` why these are not to be billed, and send it again.")
    between = [_whole(fields.get(name, ""), name) for name in ("from_us", "to_us")]
    seen = set(fields.get("places", "").split())
    matching = matching_of(fields.get("reason"), fields.get("tenant"), *between)
    lines = [line for line in reports.open_rejects(matching, MOST) if str(place_of(line)) in seen]
    desk = _desk(house, who)
    outcomes = desk.discard(lines, note) if action == "discard" else desk.requeue(lines, dry_run=False)
    shown = {"title": "What became of it", "outcomes": outcomes, "action": action, "gone": len(seen) - len(lines)}
    response: Response = request.app.state.pages.page(request, "reject_outcomes.html", shown)
    return response


def _desk(house: House, who: Caller) -> RejectDesk:
    return RejectDesk(house, who.signs(None) or who.name)


def _arrivals(lines: Sequence[RejectLine]) -> Mapping[str, int]:
    """From the first arrival to the last, the newest being first."""
    return {"from_us": lines[-1].place.arrived_us, "to_us": lines[0].place.arrived_us + 1} if lines else {}


def _whole(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Problem("invalid-parameter", f"{name}: open `All that match` anew and use its form.")
    return int(text)
