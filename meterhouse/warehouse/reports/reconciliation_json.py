"""Reconciliation as JSON types: see `to_json`."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from meterhouse.streams.reconciliation import KINDS, Counted, Tally
from meterhouse.warehouse.reports.change_json import relative
from meterhouse.warehouse.reports.reconciliation import Reconciliation
from meterhouse.warehouse.reports.reconciliation_requests import ReconciledRequest, ReconciledRequests, Side
from meterhouse.warehouse.reports.to_json import as_of_json, rfc3339

Json = dict[str, Any]


def reconciliation_json(report: Reconciliation) -> Json:
    limits, all_ = report.terms.limits, report.total.all
    return {
        "from": rfc3339(report.from_us),
        "to": rfc3339(report.to_us),
        "grace_seconds": report.terms.grace_us // 1_000_000,
        "limits": {
            "share": None if limits.share is None else relative(Fraction(limits.share)),
            "requests": limits.requests,
            "device_seconds": limits.device_s,
        },
        "lines": [
            {"tenant": line.tenant, "provider": line.provider, "model": line.model, **_counted(line.counted)}
            for line in report.lines
        ],
        "total": _counted(report.total),
        "kinds": {kind: _tally(report.total.kinds[kind]) for kind in KINDS},
        "in_range": {"gateway_events": report.gateway_in_range, "node_events": report.node_in_range},
        "across_edges": {
            "gateway_events": all_.gateway_events - report.gateway_in_range,
            "node_events": all_.node_events - report.node_in_range,
        },
        "exceeded": {tenant: list(names) for tenant, names in sorted(report.exceeded.items())},
        "as_of": as_of_json(report.as_of),
    }


def reconciled_requests_json(report: ReconciledRequests) -> Json:
    return {
        "from": rfc3339(report.from_us),
        "to": rfc3339(report.to_us),
        "kind": report.kind,
        "requests": [_request(line) for line in report.lines],
        "as_of": as_of_json(report.as_of),
    }


def _counted(counted: Counted) -> Json:
    all_ = counted.all
    return {
        "requests": {kind: counted.kinds[kind].requests for kind in KINDS},
        "gateway_events": all_.gateway_events,
        "node_events": all_.node_events,
        "compared": counted.compared,
        "gaps": counted.gaps,
        "share": relative(counted.share),
        "device_us_without_request": counted.device_us,
    }


def _tally(tally: Tally) -> Json:
    return {
        "requests": tally.requests,
        "gateway_events": tally.gateway_events,
        "node_events": tally.node_events,
    }


def _request(line: ReconciledRequest) -> Json:
    return {
        "time": rfc3339(line.place.time_us),
        "kind": line.kind,
        "tenant": line.tenant,
        "request_id": line.request_id,
        "provider": line.provider,
        "model": line.model,
        "gateway": {**_side(line.gateway), "statuses": list(line.gateway.told)},
        "node": {**_side(line.node), "nodes": list(line.node.told), "device_us": line.device_us},
    }


def _side(side: Side) -> Json:
    return {
        "events": side.events,
        "input_tokens": side.input_tokens,
        "output_tokens": side.output_tokens,
        "places": list(side.places),
    }
