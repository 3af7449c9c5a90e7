"""The oracle of reconciliation: each request's events laid side by side, one request after the other.

It shares no code with the product. Events are dicts: tenant, request_id, provider, model, time, arrived, input, output;
a gateway's has a status as well, a node's has none and device_us.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Event = Mapping[str, Any]
PAID = ("ok", "aborted")
REFUSED = ("throttled", "blocked")


@dataclass(frozen=True)
class Range:
    start: int
    end: int
    grace: int
    now: int  # what arrived before is known

    def has(self, time: int) -> bool:
        return self.start <= time < self.end

    def reads(self, time: int) -> bool:
        return self.start - self.grace <= time < self.end + self.grace


@dataclass
class Found:
    """Per (tenant, provider, model, kind): requests, gateways' events, nodes' events."""

    requests: Counter[tuple[str, ...]] = field(default_factory=Counter)
    gateway: Counter[tuple[str, ...]] = field(default_factory=Counter)
    node: Counter[tuple[str, ...]] = field(default_factory=Counter)
    device_us: int = 0  # without a request


def reconciled(gateway: Sequence[Event], node: Sequence[Event], of: Range) -> Found:
    gateway = [event for event in gateway if of.reads(event["time"])]
    node = [event for event in node if of.reads(event["time"])]
    found = Found()
    for event in gateway:
        if event["request_id"] is None and of.has(event["time"]):
            key = (event["tenant"], event["provider"], event["model"], "no_request_id")
            found.requests[key] += 1
            found.gateway[key] += 1
    named = {(event["tenant"], event["request_id"]) for event in (*gateway, *node) if event["request_id"] is not None}
    for request in named:
        mine = [event for event in gateway if (event["tenant"], event["request_id"]) == request]
        theirs = [event for event in node if (event["tenant"], event["request_id"]) == request]
        first = min(mine or theirs, key=lambda event: (event["time"], event["provider"], event["model"]))
        if not of.has(first["time"]):
            continue
        nodes = [e for e in node if (e["tenant"], e["provider"]) == (request[0], first["provider"])]
        kind = kind_of(mine, theirs, nodes)
        gap = kind in ("tokens_differ", "gateway_only", "node_only", "refused_but_run")
        if gap and any(event["arrived"] >= of.now - of.grace for event in (*mine, *theirs)):
            kind = "pending"
        key = (request[0], first["provider"], first["model"], kind)
        found.requests[key] += 1
        found.gateway[key] += len(mine)
        found.node[key] += len(theirs)
        if kind in ("node_only", "refused_but_run"):
            found.device_us += sum(event["device_us"] for event in theirs)
    return found


def kind_of(mine: Sequence[Event], theirs: Sequence[Event], nodes: Sequence[Event]) -> str:
    """Of a request with these events; `nodes`: all that the provider's nodes tell of the tenant."""
    if not mine:
        return "node_only"
    paid = [sum(event[side] for event in mine if event["status"] in PAID) for side in ("input", "output")]
    if not theirs:
        if not any(paid):
            return "no_node_needed"
        return "gateway_only" if nodes else "no_node_events"
    if all(event["status"] in REFUSED for event in mine):
        return "refused_but_run"
    worked = [sum(event[side] for event in theirs) for side in ("input", "output")]
    if not any(event["input"] or event["output"] for event in (*nodes, *theirs)):
        return "matched"  # they tell of device time only
    cut_short = any(event["status"] in ("error", "aborted") for event in mine)
    for told, at_nodes in zip(paid, worked, strict=True):
        if at_nodes < told or (at_nodes > told and not cut_short):
            return "tokens_differ"
    return "matched"
