"""Shapes of admissions and prices."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.config import JsonDict

from meterhouse.api.schemas.common import Money, Whole, as_whole
from meterhouse.ingest.event import MAX_COUNT, MAX_TEXT

_TOKENS: Final = ("input_tokens", "max_tokens")
EventText = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
BoundTokens = Annotated[int, Field(strict=True, ge=0, le=MAX_COUNT), BeforeValidator(as_whole)]
MoneyText = Annotated[str, Field(json_schema_extra={"pattern": r"^[0-9]{1,20}(\.[0-9]{1,12})?$"})]
"""Our own error says more of a wrong one than a validator's."""
_BOTH_OR_NEITHER: Final[JsonDict] = {
    "anyOf": [
        {"required": ["input_tokens", "max_tokens"], "properties": {n: {"type": "integer"} for n in _TOKENS}},
        {"properties": {n: {"type": "null"} for n in _TOKENS}},
        {"required": ["max_cost"], "properties": {"max_cost": {"type": "string"}}},
    ]
}
"""A bound needs both counts, where no cost is given."""


class AdmissionRequest(BaseModel):
    """A request that would run. Its upper bound is `max_cost`, or follows from both token counts and the price in
    force; a bound that is not known is not held against it, so only a limit that is reached stops it."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_BOTH_OR_NEITHER)
    tenant: EventText = Field(examples=["acme-retail"])
    application: EventText = Field(examples=["assistant"])
    model: EventText = Field(examples=["atlas-large"])
    provider: EventText | None = Field(None, description="may be left out where one provider alone has a price")
    max_cost: MoneyText | None = Field(None, description="money, at most twelve decimals", examples=["0.012"])
    input_tokens: BoundTokens | None = Field(None, description="of the prompt, cached ones included")
    max_tokens: BoundTokens | None = Field(None, description="most tokens that may come out; 0: none do")


class Admission(BaseModel):
    """A request that is admitted. `budget`, `unit` and `remaining` are of the tightest budget that looks at it."""

    outcome: Literal["allow"]
    reservation: str | None = Field(description="to be settled or cancelled; null: no budget looks at the request")
    bound: Money | None = Field(description="upper bound of its cost; null: not known")
    budget: str | None
    unit: str | None = Field(description="the currency, or `tokens`")
    remaining: str | None = Field(description="of the limit: money with twelve decimals, or whole tokens")
    throttle_per_minute: int | None = Field(description="the rate in force, where a budget is spent and throttles")


class Position(BaseModel):
    model_config = ConfigDict(extra="forbid")
    partition: Whole
    offset: Whole


class Settlement(BaseModel):
    """What a request came to. What is left out is not known, and taken for as much as was reserved."""

    model_config = ConfigDict(extra="forbid")
    cost: MoneyText | None = Field(None, description="money, at most twelve decimals", examples=["0.01"])
    tokens: BoundTokens | None = Field(None, description="all kinds added up")
    position: Position | None = Field(None, description="of its event in `usage.events`, where it is known")


class Price(BaseModel):
    provider: str
    model: str
    per_million: dict[str, str] = Field(
        description="by token kind, per million tokens; a kind that is not there has no price"
    )
    negotiated: bool = Field(description="the tenant's own price")
    valid_from: datetime
    valid_to: datetime | None = Field(description="null: until another takes its place")


class Prices(BaseModel):
    currency: str
    at: datetime
    control_version: int
    prices: list[Price]
