"""What comes back of reconciliation: counts of requests by kind, and the requests behind them."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from meterhouse.client.shapes import AsOf, Shape


class RequestsByKind(Shape, frozen=True, kw_only=True):
    """Each request is of exactly one kind."""

    matched: int
    tokens_differ: int
    gateway_only: int
    node_only: int
    refused_but_run: int
    pending: int
    no_node_needed: int
    no_node_events: int
    no_request_id: int


class Reconciled(Shape, frozen=True, kw_only=True):
    requests: RequestsByKind
    gateway_events: int
    node_events: int
    compared: int
    gaps: int
    share: Decimal | None
    device_us_without_request: int


class ReconciledLine(Reconciled, frozen=True, kw_only=True):
    tenant: str
    provider: str
    model: str


class EventsOfSides(Shape, frozen=True, kw_only=True):
    gateway_events: int
    node_events: int


class RequestTally(EventsOfSides, frozen=True, kw_only=True):
    requests: int


class ReconciliationLimits(Shape, frozen=True, kw_only=True):
    """None: no such limit."""

    share: Decimal | None
    requests: int | None
    device_seconds: int | None


class Reconciliation(Shape, frozen=True, kw_only=True):
    limits: ReconciliationLimits
    grace_seconds: int
    lines: list[ReconciledLine]
    total: Reconciled
    kinds: dict[str, RequestTally]
    in_range: EventsOfSides
    across_edges: EventsOfSides
    exceeded: dict[str, list[str]]
    """By tenant that exceeds any limit: which."""
    as_of: AsOf


class GatewaySide(Shape, frozen=True, kw_only=True):
    events: int
    input_tokens: int
    output_tokens: int
    places: list[str]
    statuses: list[str]


class NodeSide(Shape, frozen=True, kw_only=True):
    events: int
    input_tokens: int
    output_tokens: int
    places: list[str]
    nodes: list[str]
    device_us: int


class ReconciledRequest(Shape, frozen=True, kw_only=True):
    """A request, and what either side says of it."""

    time: datetime
    kind: str
    tenant: str
    request_id: str | None
    provider: str
    model: str
    gateway: GatewaySide
    node: NodeSide


class ReconciledRequestPage(Shape, frozen=True, kw_only=True):
    requests: list[ReconciledRequest]
    next: str | None = None
