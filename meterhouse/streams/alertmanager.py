"""The channel to Prometheus's Alertmanager (API v2), which groups, routes and notifies by its own configuration.

Labels say what an alert is about: the same news has the same labels when it is posted again, and when it is resolved.
Alertmanager keeps alerts in its memory, so it is told of all that are open again and again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final

import httpx
import msgspec

from meterhouse.streams.alert import Alert, AlertKind, rfc3339
from meterhouse.streams.alerts import OutboxEntry
from meterhouse.streams.channels import described, post_json

REPOST_EVERY_S: Final = 60.0
"""As Prometheus does. An alert without a window has no `endsAt`: Alertmanager takes it for resolved when it has not
heard of it for its `resolve_timeout`, five minutes unless configured, so four repeats in a row may be lost."""

_ALERTNAMES: Final[Mapping[AlertKind, str]] = {
    "threshold": "MeterhouseBudgetThreshold",
    "forecast": "MeterhouseBudgetForecast",
    "unpriced": "MeterhouseUnpricedModel",
    "meter_behind": "MeterhouseMeterBehind",
    "quality": "MeterhouseDataQuality",
    "reconciliation": "MeterhouseReconciliation",
}


class Alertmanager:
    """Posts to `<url>/api/v2/alerts`. One thread: what is open and what is resolved do not overtake each other."""

    name = "alertmanager"
    threads = 1
    every_s = REPOST_EVERY_S

    def __init__(self, url: str, *, client: httpx.Client | None = None) -> None:
        self._url = f"{url.rstrip('/')}/api/v2/alerts"
        self._client = client or httpx.Client()

    def post(self, entry: OutboxEntry, about: OutboxEntry) -> str | None:
        return self.repost([about])

    def repost(self, entries: Sequence[OutboxEntry]) -> str | None:
        return post_json(self._client, self._url, msgspec.json.encode([posted(entry) for entry in entries]), {})

    def close(self) -> None:
        self._client.close()


def posted(entry: OutboxEntry) -> dict[str, object]:
    """An alert as Alertmanager takes it: `labels`, `annotations`, `startsAt`, and `endsAt` when it was resolved, else
    at its window's end."""
    alert = entry.alert
    ends = [at_us for at_us in (entry.resolved_us, alert.window_end_us) if at_us is not None]
    ends_us = min(ends, default=None)
    # An alert raised when its window was over is refused unless it begins before it ends.
    starts_us = alert.created_us if ends_us is None else min(alert.created_us, ends_us)
    times = {"startsAt": rfc3339(starts_us)}
    if ends_us is not None:
        times["endsAt"] = rfc3339(ends_us)
    return {"labels": labels(alert), "annotations": _annotations(entry), **times}


def labels(alert: Alert) -> dict[str, str]:
    """What the alert is about. Labels of a resolution are those of the alert that it resolves."""
    scope = alert.payload.get("scope")
    parts = {name: str(value) for name, value in scope.items()} if isinstance(scope, Mapping) else {}
    found = {
        **parts,  # tenant, org_unit, application, model: of those that the budget's scope has
        "alertname": _ALERTNAMES[alert.kind],
        "kind": alert.kind,
        "severity": severity(alert),
        "subject": alert.subject,
        "budget": alert.budget_id,
        "threshold": alert.threshold,
        "window": rfc3339(alert.window_start_us),
    }
    return {name: value for name, value in found.items() if value is not None}


def severity(alert: Alert) -> str:
    """critical: a limit is reached, or metering stands; else warning."""
    at_limit = alert.kind == "threshold" and alert.threshold is not None and Decimal(alert.threshold) >= 100
    return "critical" if at_limit or alert.kind == "meter_behind" else "warning"


def _annotations(entry: OutboxEntry) -> dict[str, str]:
    alert = entry.alert
    said = {
        "summary": alert.summary,
        "description": described(alert),
        "acknowledged_by": entry.acknowledged_by,
        "note": entry.note,
    }
    return {name: value for name, value in said.items() if value}
