"""What comes back of an objective's error budget, and of latencies."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from meterhouse.client.shapes import AsOf, Shape


class BurnDownStep(Shape, frozen=True, kw_only=True):
    """An hour or a day of UTC; the range cuts the first and the last."""

    time: datetime
    good: int
    total: int
    error_budget_left: float | None
    even: float


class WorstMinute(Shape, frozen=True, kw_only=True):
    time: datetime
    good: int
    total: int


class BurnDown(Shape, frozen=True, kw_only=True):
    objective: str
    from_: datetime
    to: datetime
    step_seconds: int
    good: int
    total: int
    steps: list[BurnDownStep]
    worst_minutes: list[WorstMinute]
    as_of: AsOf


class Percentiles(Shape, frozen=True, kw_only=True):
    """p50, p95 and p99, milliseconds."""

    duration_ms: Mapping[str, float | None]
    time_to_first_token_ms: Mapping[str, float | None]


class LatencyLine(Percentiles, frozen=True, kw_only=True):
    """`time` is the start of its bucket; None: the whole range. Of the groups those that were asked for are set."""

    time: datetime | None
    tenant: str | None = None
    application: str | None = None
    model: str | None = None
    provider: str | None = None


class Latencies(Shape, frozen=True, kw_only=True):
    from_: datetime
    to: datetime
    every: str
    group_by: list[str]
    lines: list[LatencyLine]
    total: Percentiles
    as_of: AsOf
