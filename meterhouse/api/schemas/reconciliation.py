"""Shapes of reconciliation."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from meterhouse.api.schemas.common import AsOf, Count
from meterhouse.api.schemas.reports import Paged

Share = Annotated[str, Field(pattern=r"^\d+\.\d{6}$", examples=["0.012345"])]
RequestKind = Literal[
    "matched", "tokens_differ", "gateway_only", "node_only", "refused_but_run", "pending", "no_node_needed",
    "no_node_events", "no_request_id",
]  # fmt: skip


class RequestsByKind(BaseModel):
    """Each request is of exactly one kind."""

    matched: Count = Field(description="both sides saw it and agree")
    tokens_differ: Count = Field(description="a gap: both saw it and count its tokens otherwise")
    gateway_only: Count = Field(description="a gap: tokens that no node tells of")
    node_only: Count = Field(description="a gap: a node's work that no gateway tells of")
    refused_but_run: Count = Field(description="a gap: a node's work on what the gateway says it refused")
    pending: Count = Field(description="it would be a gap, but may be waiting for its other half")
    no_node_needed: Count = Field(description="refused, failed or answered without tokens, and no node tells of it")
    no_node_events: Count = Field(description="no node of its provider tells of any request of its tenant")
    no_request_id: Count = Field(description="the gateway does not say which request it is")


class Reconciled(BaseModel):
    requests: RequestsByKind
    gateway_events: Count
    node_events: Count
    compared: Count = Field(description="requests that both sides were expected to tell of: matched, and gaps")
    gaps: Count
    share: Share | None = Field(description="gaps / compared; null: nothing was compared")
    device_us_without_request: Count = Field(description="of `node_only` and `refused_but_run`")


class ReconciledLine(Reconciled):
    tenant: str
    provider: str
    model: str = Field(description="as the request's first event at the gateway names it, else at the node")


class EventsOfSides(BaseModel):
    gateway_events: int
    node_events: int


class RequestTally(EventsOfSides):
    requests: Count


class ReconciliationLimits(BaseModel):
    """What a tenant may have; null: no such limit."""

    share: Share | None
    requests: Count | None = Field(description="gaps")
    device_seconds: Count | None = Field(description="device time without a request")


class Reconciliation(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    from_: datetime = Field(alias="from")
    to: datetime
    grace_seconds: Count = Field(description="how far apart, and how late, events of one request may be")
    limits: ReconciliationLimits
    lines: list[ReconciledLine]
    total: Reconciled
    kinds: dict[str, RequestTally] = Field(description="the total by kind, with the events of both sides")
    in_range: EventsOfSides = Field(description="events whose own time is in the range")
    across_edges: EventsOfSides = Field(
        description="what the total has more than that: events of its requests beyond the range, less events in the"
        " range whose request is beyond"
    )
    exceeded: dict[str, list[Literal["share", "requests", "device_s"]]] = Field(
        description="per tenant that exceeds any limit: which"
    )
    as_of: AsOf


class GatewaySide(BaseModel):
    events: Count
    input_tokens: Count = Field(description="billable ones; cached parts included")
    output_tokens: Count = Field(description="reasoning included")
    places: list[str] = Field(description="partition/offset/index of the first ten events: `GET /v1/charges/...`")
    statuses: list[str] = Field(description="of the same events")


class NodeSide(BaseModel):
    events: Count
    input_tokens: Count
    output_tokens: Count
    places: list[str] = Field(description="partition/offset/index of the first ten events")
    nodes: list[str] = Field(description="of the same events")
    device_us: Count


class ReconciledRequest(BaseModel):
    time: datetime = Field(description="of its first event at the gateway, else at a node")
    kind: RequestKind
    tenant: str
    request_id: str | None
    provider: str
    model: str
    gateway: GatewaySide
    node: NodeSide


class ReconciledRequests(Paged):
    model_config = ConfigDict(populate_by_name=True)
    from_: datetime = Field(alias="from")
    to: datetime
    kind: RequestKind | None = Field(description="null: all gaps")
    requests: list[ReconciledRequest]
    as_of: AsOf
