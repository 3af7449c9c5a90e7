"""The rate cards: prices in force, what changes next, and the history of each model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from meterhouse.api.auth.caller import Permission
from meterhouse.api.auth.guard import only
from meterhouse.api.dependencies import ReportsOf
from meterhouse.api.operations import PAGES
from meterhouse.api.pages.words import decimals_of
from meterhouse.api.problems import Problem
from meterhouse.ingest.event import TOKEN_KINDS

router = APIRouter(include_in_schema=False, tags=[PAGES], dependencies=only(Permission.read_reports))

KINDS: Final = tuple(kind.name for kind in TOKEN_KINDS)
STATES: Final = {
    "in_force": "in force",
    "ahead": "ahead",
    "over": "over",
    "interrupted": "interrupted",
    "replaced": "replaced",
}


def _prices(models: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for each in models:
        for card in each["cards"]:
            yield from card["per_million"].values()


@router.get("/rate-cards")
def rate_cards_page(
    request: Request, reports: ReportsOf, provider: str | None = None, model: str | None = None
) -> Response:
    """All models; with `provider` and `model` the history of one. Raises Problem (`not-found`)."""
    report = reports.rate_cards()
    models = report["models"]
    one = provider is not None or model is not None
    if one:
        models = [each for each in models if provider in (None, each["provider"]) and model in (None, each["model"])]
    if one and not models:
        raise Problem("not-found", "No model of this name has a rate card. /rate-cards lists those that have one.")
    shown = {
        "title": f"Rate cards of {models[0]['model']}" if one else "Rate cards",
        "currency": report["currency"],
        "at": report["at"],
        "control_version": report["control_version"],
        "models": models,
        "kinds": KINDS,
        "decimals": max(map(decimals_of, _prices(models)), default=0),
        "states": STATES,
        "ahead": [each for each in models if each["next_change"] is not None],
    }
    template = "rate_card.html" if one else "rate_cards.html"
    response: Response = request.app.state.pages.page(request, template, shown)
    return response
