"""What the client sends, and what comes back. Fields and values that are not known here are ignored or kept as text."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal

import msgspec


class Shape(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename={"from_": "from"}):
    """A JSON object. A field `from_` is `from` on the wire."""


class Tokens(Shape, frozen=True, kw_only=True):
    """By disjoint kind. With a group `kind` a line has only its own."""

    input: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None
    output: int | None = None
    reasoning: int | None = None


class AdmissionRequest(Shape, frozen=True, kw_only=True):
    """A request that would run. Its upper bound is `max_cost`, or follows from both token counts and the price."""

    tenant: str
    application: str
    model: str
    provider: str | None = None
    max_cost: Decimal | None = None
    input_tokens: int | None = None
    max_tokens: int | None = None


class Admission(Shape, frozen=True, kw_only=True):
    """`reservation`: to be settled or cancelled; None: no budget looks at the request."""

    outcome: str
    reservation: str | None
    bound: Decimal | None
    budget: str | None
    unit: str | None
    remaining: Decimal | None
    throttle_per_minute: int | None


class Position(Shape, frozen=True, kw_only=True):
    partition: int
    offset: int


class Settlement(Shape, frozen=True, kw_only=True):
    cost: Decimal | None = None
    tokens: int | None = None
    position: Position | None = None


class Price(Shape, frozen=True, kw_only=True):
    provider: str
    model: str
    per_million: Mapping[str, Decimal]
    negotiated: bool
    valid_from: datetime
    valid_to: datetime | None


class Prices(Shape, frozen=True, kw_only=True):
    currency: str
    at: datetime
    control_version: int
    prices: list[Price]


class AsOf(Shape, frozen=True, kw_only=True):
    """What the figures include: one snapshot of the lake."""

    snapshot: int
    watermark: datetime | None
    lag_seconds: float | None
    offsets: Mapping[str, int]


class Groups(Shape, frozen=True, kw_only=True):
    """The group columns that were asked for. (A struct has one base, so lines repeat their figures.)"""

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


class ChargeFigures(Shape, frozen=True, kw_only=True):
    requests: int
    billed_requests: int
    unpriced_requests: int
    tokens: Tokens
    cost: Decimal


class ChargeLine(Groups, frozen=True, kw_only=True):
    requests: int
    billed_requests: int
    unpriced_requests: int
    tokens: Tokens
    cost: Decimal


class Chargeback(Shape, frozen=True, kw_only=True):
    currency: str
    from_: datetime
    to: datetime
    group_by: list[str]
    lines: list[ChargeLine]
    total: ChargeFigures
    as_of: AsOf


class UsageFigures(Shape, frozen=True, kw_only=True):
    requests: int
    by_status: Mapping[str, int]
    tokens: Tokens


class UsageLine(Groups, frozen=True, kw_only=True):
    time: datetime
    requests: int
    by_status: Mapping[str, int]
    tokens: Tokens


class Usage(Shape, frozen=True, kw_only=True):
    from_: datetime
    to: datetime
    every: str
    group_by: list[str]
    lines: list[UsageLine]
    total: UsageFigures
    as_of: AsOf


class SloWindow(Shape, frozen=True, kw_only=True):
    from_: datetime
    to: datetime
    days: int


class Burning(Shape, frozen=True, kw_only=True):
    long: str
    short: str
    factor: float
    severity: str


class Objective(Shape, frozen=True, kw_only=True):
    id: str
    scope: Mapping[str, str]
    sli: str
    below_ms: int | None
    target: Decimal
    window: SloWindow
    good: int
    total: int
    compliance: float | None
    state: str
    error_budget_left: float | None
    burn_rates: Mapping[str, float | None]
    burning: list[Burning]
    duration_ms: Mapping[str, float | None]
    time_to_first_token_ms: Mapping[str, float | None]


class Slo(Shape, frozen=True, kw_only=True):
    at: datetime
    objectives: list[Objective]
    as_of: AsOf


class Window(Shape, frozen=True, kw_only=True):
    start: datetime
    end: datetime


class BudgetWindow(Window, frozen=True, kw_only=True):
    every: str
    time_zone: str


class Budget(Shape, frozen=True, kw_only=True):
    """Amounts are money or, where `unit` is `tokens`, whole numbers."""

    id: str
    scope: Mapping[str, str]
    unit: str
    window: BudgetWindow
    limit: Decimal
    spent: Decimal
    reserved: Decimal
    remaining: Decimal
    state: str
    thresholds_crossed: list[Decimal]
    on_exceeded: str
    forecast: Decimal
    exceeds_on: date | None


class Budgets(Shape, frozen=True, kw_only=True):
    currency: str
    at: datetime
    budgets: list[Budget]
    as_of: AsOf


class Reject(Shape, frozen=True, kw_only=True):
    arrived: datetime
    topic: str
    partition: int
    offset: int
    index: int
    reason: str
    detail: str
    tenant: str | None
    payload: str
    payload_encoding: str
    state: str
    resolved: datetime | None
    resolved_by: str | None
    note: str | None


class RejectPage(Shape, frozen=True, kw_only=True):
    rejects: list[Reject]
    next: str | None


class Channel(Shape, frozen=True, kw_only=True):
    state: str
    attempts: int
    delivered: datetime | None
    next_attempt: datetime | None
    last_error: str | None


class Alert(Shape, frozen=True, kw_only=True):
    id: str
    kind: str
    status: str
    standing: str | None
    subject: str
    summary: str
    resolves: str | None
    budget: str | None
    window: Window | None
    threshold: Decimal | None
    spent: Decimal | None
    limit: Decimal | None
    created: datetime
    resolved: datetime | None
    acknowledged: datetime | None
    acknowledged_by: str | None
    note: str | None
    state: str
    attempts: int
    delivered: datetime | None
    last_error: str | None
    channels: Mapping[str, Channel]


class AlertPage(Shape, frozen=True, kw_only=True):
    alerts: list[Alert]
    next: str | None


class Happened(Shape, frozen=True, kw_only=True):
    at: datetime
    what: str
    channel: str | None
    by: str | None
    detail: str | None


class AlertStory(Alert, frozen=True, kw_only=True):
    history: list[Happened]


class Acknowledgement(Shape, frozen=True, kw_only=True):
    by: str
    note: str | None = None


class NewSilence(Shape, frozen=True, kw_only=True):
    """Alerts of `kind`, about `subject`, or both, until `until`; from now on, or from `from_`."""

    until: datetime
    reason: str
    by: str
    kind: str | None = None
    subject: str | None = None
    from_: datetime | None = None


class Silence(Shape, frozen=True, kw_only=True):
    id: str
    kind: str | None
    subject: str | None
    from_: datetime
    until: datetime
    by: str
    reason: str
    created: datetime


class Silences(Shape, frozen=True, kw_only=True):
    silences: list[Silence]
