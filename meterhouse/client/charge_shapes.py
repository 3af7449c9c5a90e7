"""What comes back of single charges, and of reports that compare, explain, forecast and add up by org unit."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from meterhouse.client.shapes import AsOf, ChargeFigures, Groups, Shape, Tokens


class Kinds(Shape, frozen=True, kw_only=True):
    """An amount per token kind."""

    input: Decimal | None = None
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None
    output: Decimal | None = None
    reasoning: Decimal | None = None


class Charge(Shape, frozen=True, kw_only=True):
    """One request, and what explains its cost."""

    time: datetime
    source: str
    tenant: str
    application: str
    environment: str | None
    model: str
    provider: str
    operation: str | None
    status: str
    disposition: str
    request_id: str | None
    http_status: int | None
    tokens: Tokens
    rate_card: int | None
    per_million: Kinds
    costs: Kinds
    cost: Decimal | None
    control_version: int
    key: str
    arrived: datetime
    partition: int
    offset: int
    index: int


class ChargePage(Shape, frozen=True, kw_only=True):
    charges: list[Charge]
    next: str | None = None


class Record(Shape, frozen=True, kw_only=True):
    """Where a charge's event stands in the log."""

    topic: str
    partition: int
    offset: int
    index: int
    arrived: datetime
    kept: bool
    bytes: int | None


class ChargeAndRecord(Shape, frozen=True, kw_only=True):
    currency: str
    charge: Charge
    record: Record


class Range(Shape, frozen=True, kw_only=True):
    from_: datetime
    to: datetime


class TenantFigures(ChargeFigures, frozen=True, kw_only=True):
    tenant: str


class OrgNode(Shape, frozen=True, kw_only=True):
    path: str | None
    name: str | None
    level: int
    tenants: list[TenantFigures]
    own: ChargeFigures
    with_below: ChargeFigures


class OrgTree(Range, frozen=True, kw_only=True):
    currency: str
    nodes: list[OrgNode]
    total: ChargeFigures
    as_of: AsOf


class Compared(Shape, frozen=True, kw_only=True):
    now: ChargeFigures | None
    before: ChargeFigures | None
    difference: Decimal
    relative: Decimal | None


class ComparedLine(Groups, frozen=True, kw_only=True):
    state: str
    now: ChargeFigures | None
    before: ChargeFigures | None
    difference: Decimal
    relative: Decimal | None


class Comparison(Range, frozen=True, kw_only=True):
    currency: str
    compared_with: Range
    group_by: list[str]
    lines: list[ComparedLine]
    total: Compared
    as_of: AsOf


class Parts(Shape, frozen=True, kw_only=True):
    price: Decimal
    volume: Decimal
    model_mix: Decimal
    output_share: Decimal
    cache_share: Decimal
    new_models: Decimal
    gone_models: Decimal


class Explained(Shape, frozen=True, kw_only=True):
    """`parts` add up to the difference, exactly."""

    before: Decimal
    now: Decimal
    difference: Decimal
    parts: Parts


class ExplainedLine(Explained, frozen=True, kw_only=True):
    tenant: str
    provider: str
    model: str


class Explanation(Explained, frozen=True, kw_only=True):
    from_: datetime
    to: datetime
    currency: str
    compared_with: Range
    lines: list[ExplainedLine]
    as_of: AsOf


class ForecastAmounts(Shape, frozen=True, kw_only=True):
    spent: Decimal
    forecast: Decimal


class ForecastLine(Groups, frozen=True, kw_only=True):
    spent: Decimal
    forecast: Decimal


class Forecast(Range, frozen=True, kw_only=True):
    currency: str
    at: datetime
    group_by: list[str]
    lines: list[ForecastLine]
    total: ForecastAmounts
    as_of: AsOf
