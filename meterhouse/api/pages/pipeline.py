"""The pipeline: how far the lake is, what became of every event, and whether the books balance."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from meterhouse.api.auth.caller import Permission
from meterhouse.api.auth.guard import only
from meterhouse.api.dependencies import HouseOf, ReportsOf
from meterhouse.api.operations import PAGES
from meterhouse.api.pages.forms import FieldsOf
from meterhouse.api.routes.health import readiness

router = APIRouter(include_in_schema=False, tags=[PAGES], dependencies=only(Permission.read_quality))


@router.get("/pipeline")
def pipeline_page(request: Request, house: HouseOf, reports: ReportsOf) -> Response:
    report = reports.ledger()
    site = request.app.state.pages
    shown = {
        "title": "Pipeline",
        "ledger": report,
        "ready": readiness(request.app, house),
        "laws": site.laws.last,
        "parts_of_read": PARTS,
    }
    response: Response = site.page(request, "pipeline.html", shown, as_of=report["as_of"])
    return response


PARTS = ("billed", "unpriced", "unbilled", "informational", "duplicates", "rejected", "forwarded")
"""What an event that was read became, in the order of the ledger."""


@router.post("/pipeline/verification")
def verify_laws(request: Request, reports: ReportsOf, fields: FieldsOf) -> Response:
    """Reads every charge: seconds for ten million, while other reports wait for their share of the machine."""
    request.app.state.pages.laws.make(reports.verify)
    return RedirectResponse("/pipeline#laws", HTTPStatus.SEE_OTHER)
