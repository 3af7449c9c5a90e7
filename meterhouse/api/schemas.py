"""Shapes of the HTTP API as OpenAPI shows them. Money is text with twelve decimals, times are RFC 3339 in UTC."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from meterhouse.ingest.event import MAX_COUNT, MAX_TEXT

Money = Annotated[str, Field(pattern=r"^-?\d+\.\d{12}$", examples=["0.000123450000"])]
Count = Annotated[int, Field(ge=0)]


class ProblemDocument(BaseModel):
    """RFC 9457."""

    model_config = ConfigDict(extra="allow", title="Problem")
    type: str = Field(examples=["/problems/malformed-event"])
    title: str
    status: int
    detail: str = Field(description="what is wrong and what to do")
    instance: str


class AsOf(BaseModel):
    """What the figures include: one snapshot of the lake."""

    snapshot: int = Field(description="the lake's snapshot that was read")
    watermark: datetime | None = Field(description="events that arrived before this are in the figures")
    lag_seconds: float | None = Field(description="at most the age of the oldest event not in the figures; 0: none")
    offsets: dict[str, int] = Field(description="per partition of the log, the next offset to be committed")


class Tokens(BaseModel):
    """Tokens by disjoint kind; with a group `kind` a line has only its own."""

    input: Count | None = None
    cache_read: Count | None = None
    cache_write: Count | None = None
    output: Count | None = None
    reasoning: Count | None = None


class _Groups(BaseModel):
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
    day: str | None = None
    hour: str | None = None
    month: str | None = None


class ChargeFigures(BaseModel):
    requests: Count
    billed_requests: Count
    unpriced_requests: Count = Field(description="billable, but no price was in force: not free, priced later")
    tokens: Tokens = Field(description="of billed requests, so that tokens × price = cost")
    cost: Money


class ChargeLine(ChargeFigures, _Groups):
    pass


class Chargeback(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    currency: str
    from_: datetime = Field(alias="from")
    to: datetime
    group_by: list[str]
    lines: list[ChargeLine]
    total: ChargeFigures
    as_of: AsOf


class UsageFigures(BaseModel):
    requests: Count
    by_status: dict[str, int]
    tokens: Tokens = Field(description="of every request, whatever its status")


class UsageLine(UsageFigures, _Groups):
    time: datetime = Field(description="start of the bucket")


class Usage(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    from_: datetime = Field(alias="from")
    to: datetime
    every: Literal["minute", "hour", "day"]
    group_by: list[str]
    lines: list[UsageLine]
    total: UsageFigures
    as_of: AsOf


class Window(BaseModel):
    start: datetime
    end: datetime


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


class Budget(BaseModel):
    """Amounts are text: money with twelve decimals or, of a budget in tokens, whole numbers (`unit` says which)."""

    id: str
    scope: dict[str, str]
    unit: str
    window: BudgetWindow
    limit: str
    spent: str
    reserved: str
    remaining: str
    state: Literal["ok", "warned", "exceeded"]
    thresholds_crossed: list[str] = Field(description="percent of the limit")
    on_exceeded: Literal["notify", "throttle", "block"]
    forecast: str = Field(description="spend at the window's end, as weekdays of the last eight weeks went")
    exceeds_on: date | None = Field(
        description="the day, in the budget's time zone, on which the forecast reaches the limit; null: it does not,"
        " or has already"
    )


class Budgets(BaseModel):
    currency: str
    at: datetime
    budgets: list[Budget]
    as_of: AsOf


EventText = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
BoundTokens = Annotated[int, Field(strict=True, ge=0, le=MAX_COUNT)]


class AdmissionRequest(BaseModel):
    """A request that would run. Its upper bound is `max_cost`, or follows from both token counts and the price in
    force; a bound that is not known is not held against it, so only a limit that is reached stops it."""

    model_config = ConfigDict(extra="forbid")
    tenant: EventText = Field(examples=["acme-retail"])
    application: EventText = Field(examples=["assistant"])
    model: EventText = Field(examples=["atlas-large"])
    provider: EventText | None = Field(None, description="may be left out where one provider alone has a price")
    max_cost: str | None = Field(None, description="money, at most twelve decimals", examples=["0.012"])
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
    partition: Annotated[int, Field(strict=True, ge=0)]
    offset: Annotated[int, Field(strict=True, ge=0)]


class Settlement(BaseModel):
    """What a request came to. What is left out is not known, and taken for as much as was reserved."""

    model_config = ConfigDict(extra="forbid")
    cost: str | None = Field(None, description="money, at most twelve decimals", examples=["0.01"])
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


AlertKind = Literal["threshold", "forecast", "unpriced", "meter_behind"]
Name = Annotated[str, Field(min_length=1, max_length=500)]


class Channel(BaseModel):
    """What became of an alert on one channel."""

    state: Literal["waiting", "delivered", "given_up"]
    attempts: Count = Field(description="deliveries that failed")
    delivered: datetime | None
    next_attempt: datetime | None
    last_error: str | None


class Alert(BaseModel):
    id: str = Field(description="follows from what it is about: the same news always has the same id")
    kind: AlertKind
    status: Literal["firing", "resolved"]
    standing: Literal["open", "acknowledged", "resolved"] | None = Field(
        description="now; null: it is the news that another alert is over"
    )
    subject: str = Field(description="what it is about: a budget, provider/model, or topic/partition")
    summary: str = Field(description="a sentence for people")
    resolves: str | None = Field(description="the alert whose reason is gone")
    budget: str | None
    window: Window | None
    threshold: str | None = Field(description="percent of the limit")
    spent: str | None
    limit: str | None
    created: datetime
    resolved: datetime | None = Field(description="when another alert said that its reason is gone")
    acknowledged: datetime | None = Field(description="when somebody said to look after it")
    acknowledged_by: str | None
    note: str | None
    state: Literal["waiting", "delivered", "given_up", "silenced"]
    attempts: Count = Field(description="deliveries that failed, of all channels")
    delivered: datetime | None = Field(description="when the last channel had it")
    last_error: str | None
    channels: dict[str, Channel] = Field(description="those that were tried")


class Alerts(BaseModel):
    alerts: list[Alert]
    next: str | None = Field(description="give it as `after` for the next page; null: this is the last")


class Happened(BaseModel):
    at: datetime
    what: Literal["raised", "delivered", "silenced", "acknowledged", "resolved", "window_ended"]
    channel: str | None = Field(description="of a delivery")
    by: str | None = Field(description="who acknowledged it, or the alert that resolved it")
    detail: str | None


class AlertStory(Alert):
    history: list[Happened] = Field(description="the oldest first")


class Acknowledgement(BaseModel):
    """Who looks after an alert."""

    model_config = ConfigDict(extra="forbid")
    by: Name
    note: Annotated[str, Field(max_length=500)] | None = Field(None, description="what is being done")


class NewSilence(BaseModel):
    """Alerts of `kind`, about `subject`, or both."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    kind: AlertKind | None = None
    subject: Name | None = Field(None, description="a budget, provider/model, or topic/partition")
    from_: AwareDatetime | None = Field(None, alias="from", description="unset: now")
    until: AwareDatetime = Field(description="at most 90 days after its start")
    by: Name
    reason: Name


class Silence(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    id: str
    kind: AlertKind | None
    subject: str | None
    from_: datetime = Field(alias="from")
    until: datetime
    by: str
    reason: str
    created: datetime


class Silences(BaseModel):
    silences: list[Silence]


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


class Health(BaseModel):
    status: Literal["ok", "unready"]
    checks: dict[str, Any] = Field(default_factory=dict)
