"""What comes back of data quality."""

from __future__ import annotations

from datetime import datetime

from meterhouse.client.shapes import Shape


class QualityCheck(Shape, frozen=True, kw_only=True):
    check: str
    kind: str
    says: str  # what holds when it passes
    passed: bool
    checked: int
    whole: bool
    offending: int
    rows: list[str]  # the first twenty of them
    trouble: str | None
    do: str | None


class QualitySuite(Shape, frozen=True, kw_only=True):
    suite: str
    at: datetime
    passed: bool
    watermark: datetime | None
    checks: list[QualityCheck]


class Quality(Shape, frozen=True, kw_only=True):
    passed: bool | None  # None: no suite was ever run
    suites: list[QualitySuite]
