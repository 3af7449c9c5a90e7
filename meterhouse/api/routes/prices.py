"""Prices in force, for gateways that bound the cost of a request themselves."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from meterhouse.api.auth.caller import Permission
from meterhouse.api.auth.guard import CallerOf, only
from meterhouse.api.clock import now_us
from meterhouse.api.dependencies import HouseOf
from meterhouse.api.problems import responses
from meterhouse.api.schemas import admissions as schemas
from meterhouse.streams.money import price_text
from meterhouse.warehouse.reports.to_json import rfc3339

router = APIRouter(prefix="/v1", tags=["admissions"], dependencies=only(Permission.read_prices))


@router.get(
    "/prices",
    response_model=schemas.Prices,
    summary="Prices in force",
    responses=responses("invalid-parameter", "unauthenticated", "forbidden", "rate-limited", "unavailable"),
)
def prices(
    house: HouseOf,
    who: CallerOf,
    tenant: Annotated[str | None, Query(description="whose negotiated prices count; none: list prices")] = None,
    provider: Annotated[str | None, Query(description="only this provider's")] = None,
    model: Annotated[str | None, Query(description="only this model's")] = None,
) -> dict[str, Any]:
    """The price of each model now: a token's upper bound follows from them. Models without a price are not there."""
    current, at_us = house.admissions.prices.current, now_us()
    seen = who.view.tenants
    # A tenant that is not seen has the prices of one that is not there: the list's.
    cards = current.in_force(tenant if seen is None or tenant in seen else None, provider, model, at_us)
    return {
        "currency": current.currency,
        "at": rfc3339(at_us),
        "control_version": current.version,
        "prices": [
            {
                "provider": card.provider,
                "model": card.model,
                "per_million": {kind: price_text(pico) for kind, pico in card.pico_per_token.items()},
                "negotiated": card.tenant is not None,
                "valid_from": rfc3339(card.valid_from_us),
                "valid_to": None if card.valid_to_us is None else rfc3339(card.valid_to_us),
            }
            for card in cards
        ],
    }
