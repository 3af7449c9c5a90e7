"""Shapes of what changed, of what will be, and of the tree of org units."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from meterhouse.api.schemas.common import AsOf, Money
from meterhouse.api.schemas.reports import ChargeFigures, Groups

Relative = Annotated[str, Field(pattern=r"^-?\d+\.\d{6}$", examples=["0.250000"])]


class Range(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    from_: datetime = Field(alias="from")
    to: datetime


class TenantFigures(ChargeFigures):
    tenant: str


class OrgNode(BaseModel):
    path: str | None = Field(description="names from the root, joined by `/`; null: the root, above all org units")
    name: str | None
    level: int = Field(ge=0, description="0: the root")
    tenants: list[TenantFigures] = Field(description="that stood in this very unit, with what they spent there")
    own: ChargeFigures = Field(description="of those tenants; of all nodes they add up to the total")
    with_below: ChargeFigures = Field(description="own, and of all units below")


class OrgTree(Range):
    currency: str
    nodes: list[OrgNode] = Field(description="depth first, from the root")
    total: ChargeFigures
    as_of: AsOf


class Compared(BaseModel):
    now: ChargeFigures | None = Field(description="null: nothing in the range")
    before: ChargeFigures | None = Field(description="null: nothing in the range before")
    difference: Money = Field(description="cost now less cost before, exact")
    relative: Relative | None = Field(description="difference / cost before; null where that was nothing")


class ComparedLine(Compared, Groups):
    state: Literal["kept", "new", "gone"]


class Comparison(Range):
    currency: str
    compared_with: Range
    group_by: list[str]
    lines: list[ComparedLine]
    total: Compared
    as_of: AsOf


class Parts(BaseModel):
    """What brought the difference about. They add up to it, exactly."""

    price: Money = Field(description="other prices for the same tokens")
    volume: Money = Field(description="more or fewer tokens")
    model_mix: Money = Field(description="the tokens went to other models")
    output_share: Money = Field(description="more or less of the tokens are output or reasoning")
    cache_share: Money = Field(description="more or less of the input was read from or written to the cache")
    new_models: Money = Field(description="models that the tenant did not use in the range before")
    gone_models: Money = Field(description="models that the tenant used in the range before only")


class Explained(BaseModel):
    before: Money
    now: Money
    difference: Money
    parts: Parts


class ExplainedLine(Explained):
    tenant: str
    provider: str
    model: str


class Explanation(Explained, Range):
    currency: str
    compared_with: Range
    lines: list[ExplainedLine]
    as_of: AsOf


class ForecastAmounts(BaseModel):
    spent: Money = Field(description="in the range, so far")
    forecast: Money = Field(description="at the range's end")


class ForecastLine(ForecastAmounts, Groups):
    pass


class Forecast(Range):
    currency: str
    at: datetime = Field(description="when it was made")
    group_by: list[str]
    lines: list[ForecastLine]
    total: ForecastAmounts = Field(description="sums of the lines; without groups, the forecast of all together")
    as_of: AsOf
