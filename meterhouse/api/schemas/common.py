"""Shapes that several routes share."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Column(StrEnum):
    """What a text of JSON is in forms that have types for it. JSON Schema does not show it."""

    amount = "amount"  # money with twelve decimals, or a whole number
    day = "day"
    time = "time"


Money = Annotated[str, Field(pattern=r"^-?\d+\.\d{12}$", examples=["0.000123450000"]), Column.amount]
Amount = Annotated[str, Column.amount]


def as_whole(value: object) -> object:
    """JSON has one kind of number: 5.0 is the whole number 5."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, Field(strict=True, ge=0), BeforeValidator(as_whole)]
"""A whole number that a client gives; text is none."""
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


class Window(BaseModel):
    start: datetime
    end: datetime


class Health(BaseModel):
    status: Literal["ok", "unready"]
    checks: dict[str, Any] = Field(default_factory=dict)
