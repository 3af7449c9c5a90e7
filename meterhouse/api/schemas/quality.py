"""Shapes of data quality."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from meterhouse.api.schemas.common import Count


class QualityCheck(BaseModel):
    check: str = Field(description="its id within the suite; an alert's subject is suite/check")
    kind: Literal["range", "set", "freshness", "completeness", "drift"]
    says: str = Field(description="what holds when it passes")
    passed: bool
    checked: Count = Field(description="rows of the small table that it looked at")
    whole: bool = Field(description="false: there were more rows than are looked at")
    offending: Count = Field(description="rows that fail it")
    rows: list[str] = Field(description="the first twenty of them, named")
    trouble: str | None = Field(description="why it could not be checked, which is no pass")
    do: str | None = Field(description="what to do about it; null: it passed")


class QualitySuite(BaseModel):
    """The newest run of a suite."""

    suite: Literal["events", "rollups", "control"]
    at: datetime
    passed: bool
    lake_snapshot: int
    watermark: datetime | None = Field(description="every event that arrived before it was looked at")
    control_version: int
    checks: list[QualityCheck]


class Quality(BaseModel):
    passed: bool | None = Field(description="all suites below, as of their `at`; null: none was ever run")
    suites: list[QualitySuite] = Field(description="those that were ever run")
