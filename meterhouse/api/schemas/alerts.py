"""Shapes of alerts and silences."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from meterhouse.api.schemas.common import Count, Window

AlertKind = Literal["threshold", "forecast", "unpriced", "meter_behind", "reconciliation", "quality"]
SUBJECT = "a budget, provider/model, topic/partition, a tenant, or suite/check"
SIGNED = "who does it, where that is not the caller: recorded with `via` and the caller's name"
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
    subject: str = Field(
        description="what it is about: a budget, provider/model, topic/partition, a tenant, or suite/check"
    )
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
    by: Name | None = Field(None, description=SIGNED)
    note: Annotated[str, Field(max_length=500)] | None = Field(None, description="what is being done")


class NewSilence(BaseModel):
    """Alerts of `kind`, about `subject`, or both."""

    model_config = ConfigDict(
        extra="forbid",
        populate_by_name=True,
        json_schema_extra={
            "anyOf": [
                {"required": ["kind"], "properties": {"kind": {"type": "string"}}},
                {"required": ["subject"], "properties": {"subject": {"type": "string"}}},
            ]
        },
    )
    kind: AlertKind | None = None
    subject: Name | None = Field(
        None, description="a budget, provider/model, topic/partition, a tenant, or suite/check"
    )
    from_: AwareDatetime | None = Field(None, alias="from", description="unset: now")
    until: AwareDatetime = Field(description="at most 90 days after its start")
    by: Name | None = Field(None, description=SIGNED)
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
