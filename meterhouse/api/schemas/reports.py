"""Shapes of reports."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from meterhouse.api.schemas.common import Amount, AsOf, Column, Count, Money, Window


class Tokens(BaseModel):
    """Tokens by disjoint kind; with a group `kind` a line has only its own."""

    input: Count | None = None
    cache_read: Count | None = None
    cache_write: Count | None = None
    output: Count | None = None
    reasoning: Count | None = None


class Groups(BaseModel):
    """The group columns that were asked for; others are absent."""

    tenant: str | None = None
    org_unit: str | None = None
    cost_center: str | None = None
    application: str | None = None
    environment: str | None = None
    model: str | None = None
    provider: str | None = None
    operation: str | None = None
    kind: str | None = None
    day: Annotated[str | None, Column.day] = None
    hour: Annotated[str | None, Column.time] = None
    month: str | None = None


class ChargeFigures(BaseModel):
    requests: Count
    billed_requests: Count
    unpriced_requests: Count = Field(description="billable, but no price was in force: not free, priced later")
    tokens: Tokens = Field(description="of billed requests, so that tokens × price = cost")
    cost: Money


class ChargeLine(ChargeFigures, Groups):
    pass


class Paged(BaseModel):
    next: str | None = Field(
        default=None,
        description="where a page was asked for: give it as `after` for the next one; null: this is the last",
    )


class Chargeback(Paged):
    model_config = ConfigDict(populate_by_name=True)
    currency: str
    from_: datetime = Field(alias="from")
    to: datetime
    group_by: list[str]
    lines: list[ChargeLine]
    total: ChargeFigures
    as_of: AsOf


class Kinds(BaseModel):
    """A text per token kind; only the one that was asked for, where one was."""

    input: Amount | None = None
    cache_read: Amount | None = None
    cache_write: Amount | None = None
    output: Amount | None = None
    reasoning: Amount | None = None


class Charge(BaseModel):
    """One request, and what explains its cost."""

    time: datetime = Field(description="when the request ended")
    source: str
    tenant: str
    application: str
    environment: str | None
    model: str
    provider: str
    operation: str | None
    status: str
    disposition: Literal["billed", "unpriced", "unbilled"]
    request_id: str | None
    http_status: int | None
    tokens: Tokens = Field(description="as the event told; only a billed charge's cost anything")
    rate_card: int | None = Field(description="id of the rate card that priced it; null: unpriced or unbilled")
    per_million: Kinds = Field(description="the card's price of a million tokens, by kind")
    costs: Kinds = Field(description="by kind; they add up to `cost`")
    cost: Money | None = Field(description="null: unpriced")
    control_version: int = Field(description="of the control data that rated it")
    key: UUID = Field(description="of (tenant, source, id): an event that comes twice has the same")
    arrived: datetime = Field(description="when the log appended its record")
    partition: int
    offset: int
    index: int = Field(description="place in the record's array")


class Removed(BaseModel):
    """Charges that retention removed, of whole days of UTC."""

    requests: int
    cost: str
    before: datetime = Field(description="the end of the newest of these days")


class Charges(Paged):
    model_config = ConfigDict(populate_by_name=True)
    currency: str
    from_: datetime = Field(alias="from")
    to: datetime
    kind: str | None
    charges: list[Charge]
    total: ChargeFigures = Field(
        description="of the whole range: the charges of all pages add up to it, with those that were removed"
    )
    removed: Removed | None = Field(
        None, description="charges of these days that retention removed; null: all are there"
    )
    as_of: AsOf


class Record(BaseModel):
    """Where a charge's event stands in the log."""

    topic: str
    partition: int
    offset: int
    index: int
    arrived: datetime
    kept: bool = Field(description="whether the log still has the record")
    bytes: int | None = Field(description="of the record, which may hold other events too; null: it is not kept")


class ChargeAndRecord(BaseModel):
    currency: str
    charge: Charge
    record: Record


class UsageFigures(BaseModel):
    requests: Count
    by_status: dict[str, int]
    tokens: Tokens = Field(description="of every request, whatever its status")


class UsageLine(UsageFigures, Groups):
    time: datetime = Field(description="start of the bucket")


class Usage(Paged):
    model_config = ConfigDict(populate_by_name=True)
    from_: datetime = Field(alias="from")
    to: datetime
    every: Literal["minute", "hour", "day"]
    group_by: list[str]
    lines: list[UsageLine]
    total: UsageFigures
    as_of: AsOf


class BudgetWindow(Window):
    every: Literal["day", "week", "month"]
    time_zone: str = Field(description="IANA; the calendar that start and end are midnights of")


class SloWindow(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    from_: datetime = Field(alias="from")
    to: datetime
    days: int = Field(description="the objective's window; a given range takes its place")


class Burning(BaseModel):
    """A burn-rate rule that fires: both of its windows burn at `factor` or more."""

    long: str
    short: str
    factor: float
    severity: str


class Objective(BaseModel):
    id: str
    scope: dict[str, str]
    sli: Literal["duration", "time_to_first_token", "availability"]
    below_ms: int | None
    target: str
    window: SloWindow
    good: Count
    total: Count
    compliance: float | None = Field(description="good / total; null where there was no request")
    state: str
    error_budget_left: float | None = Field(description="share of the allowed failures that is left; below 0: missed")
    burn_rates: dict[str, float | None]
    burning: list[Burning]
    duration_ms: dict[str, float | None] = Field(description="p50, p95, p99; within 1 % of the exact value")
    time_to_first_token_ms: dict[str, float | None]


class Slo(BaseModel):
    at: datetime
    objectives: list[Objective]
    as_of: AsOf


class BurnDownStep(BaseModel):
    time: datetime = Field(description="start of the hour or day of UTC; the range cuts the first and the last")
    good: Count
    total: Count
    error_budget_left: float | None = Field(
        description="when the step ends; null where nothing was judged in the range"
    )
    even: float = Field(description="what would be left if it were used evenly")


class WorstMinute(BaseModel):
    time: datetime = Field(description="start of the minute")
    good: Count
    total: Count


class BurnDown(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    objective: str
    from_: datetime = Field(alias="from")
    to: datetime
    step_seconds: int
    good: Count
    total: Count
    steps: list[BurnDownStep]
    # A tuple, since the lines of a file are the one list that a report has.
    worst_minutes: tuple[WorstMinute, ...] = Field(
        description="those with most bad requests, the latest of equals first"
    )
    as_of: AsOf


class Percentiles(BaseModel):
    duration_ms: dict[str, float | None] = Field(description="p50, p95, p99; within 1 % of the exact value")
    time_to_first_token_ms: dict[str, float | None]


class LatencyGroups(BaseModel):
    """The group columns that were asked for; others are absent."""

    tenant: str | None = None
    application: str | None = None
    model: str | None = None
    provider: str | None = None


class LatencyLine(Percentiles, LatencyGroups):
    time: datetime | None = Field(description="start of the bucket; null where it is the whole range")


class Latencies(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    from_: datetime = Field(alias="from")
    to: datetime
    every: Literal["whole", "hour", "day", "month"]
    group_by: list[str]
    lines: list[LatencyLine]
    total: Percentiles
    as_of: AsOf


class Budget(BaseModel):
    """Amounts are text: money with twelve decimals or, of a budget in tokens, whole numbers (`unit` says which)."""

    id: str
    scope: dict[str, str]
    unit: str
    window: BudgetWindow
    limit: Amount
    spent: Amount
    reserved: Amount
    remaining: Amount
    state: Literal["ok", "warned", "exceeded"]
    thresholds: list[str] = Field(description="percent of the limit")
    thresholds_crossed: list[str] = Field(description="those that are reached")
    on_exceeded: Literal["notify", "throttle", "block"]
    forecast: Amount = Field(description="spend at the window's end, as weekdays of the last eight weeks went")
    exceeds_on: date | None = Field(
        description="the day, in the budget's time zone, on which the forecast reaches the limit; null: it does not,"
        " or has already"
    )


class Budgets(BaseModel):
    currency: str
    at: datetime
    budgets: list[Budget]
    as_of: AsOf


class Reject(BaseModel):
    arrived: datetime
    topic: str
    partition: int
    offset: int
    index: int = Field(description="place in the record's array; -1: the whole record")
    reason: str
    detail: str
    tenant: str | None = Field(description="as the event claims it")
    payload: str
    payload_encoding: Literal["utf-8", "base64"]
    state: Literal["open", "pending", "requeued", "repaired", "discarded"]
    resolved: datetime | None = Field(description="when somebody dealt with it")
    resolved_by: str | None
    note: str | None


class Rejects(BaseModel):
    rejects: list[Reject]
    next: str | None = Field(description="give it as `after` for the next page; null: this is the last")
    as_of: AsOf
