"""An alert: news that someone should hear once. What it says, what it is called, and how it travels.

A *threshold* alert says that a budget's spend reached a share of its limit; *forecast*, that it is on course to exceed
it; *unpriced*, that a model's requests have no price; *meter_behind*, that a partition is metered late or not at all;
*reconciliation*, that gateways and model nodes tell too differently of a tenant's requests;
*quality*, that a check of the data fails.
An alert that `resolves` another is the news that the other's reason is gone.

Ids follow from what an alert is about, so however often it is raised, by however many processes, it is one alert.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID, uuid5

import msgspec

AlertKind = Literal["threshold", "forecast", "unpriced", "meter_behind", "reconciliation", "quality"]

ALERT_TYPE: Final = "meterhouse.alert.v1"
_ALERTS: Final = UUID("5b0f6b0e-6c1e-4d0b-9a53-2f8d1c7e4a90")
"""Namespace of alert ids. Never change it: an alert would be a new one to everybody who had it."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One alert. `payload` holds JSON values only and travels in the webhook's body as it is."""

    id: str  # deterministic: of what it is about (`alert_id`)
    kind: AlertKind
    subject: str  # the budget's id, `provider/model`, the partition as `topic/number`, a tenant, or `suite/check`
    summary: str  # a sentence for people
    created_us: int  # when it was first raised
    resolves: str | None = None  # the id of the alert whose reason is gone: all else here is as that one said it
    budget_id: str | None = None  # this and what follows: of alerts about budgets
    window_start_us: int | None = None
    window_end_us: int | None = None
    threshold: str | None = None  # percent of the limit in plain digits: "80", "99.5"
    spent: str | None = None  # money with twelve decimals, or whole tokens (payload's `unit` says which)
    limit: str | None = None  # as `spent`
    payload: Mapping[str, object] = field(default_factory=dict)

    @property
    def status(self) -> Literal["firing", "resolved"]:
        return "firing" if self.resolves is None else "resolved"

    def to_json(self) -> bytes:
        """The alert as webhooks and the topic of alerts carry it; times are RFC 3339 in UTC, amounts are texts.

        `{"type": "meterhouse.alert.v1", "id", "kind", "status", "subject", "summary", "resolves", "budget_id",
        "window_start", "window_end", "threshold", "spent", "limit", "created", "details": {...}}`
        """
        return msgspec.json.encode(
            {
                "type": ALERT_TYPE,
                "id": self.id,
                "kind": self.kind,
                "status": self.status,
                "subject": self.subject,
                "summary": self.summary,
                "resolves": self.resolves,
                "budget_id": self.budget_id,
                "window_start": rfc3339(self.window_start_us),
                "window_end": rfc3339(self.window_end_us),
                "threshold": self.threshold,
                "spent": self.spent,
                "limit": self.limit,
                "created": rfc3339(self.created_us),
                "details": dict(self.payload),
            }
        )

    @classmethod
    def from_json(cls, value: bytes) -> Alert:
        """Reads what `to_json` wrote, also before there were other kinds than thresholds. Raises ValueError."""
        try:
            fields: dict[str, Any] = msgspec.json.decode(value)
            return cls(
                id=fields["id"],
                kind=fields["kind"],
                subject=fields.get("subject") or fields["budget_id"],
                summary=fields.get("summary", ""),
                created_us=_microseconds(fields["created"]),
                resolves=fields.get("resolves"),
                budget_id=fields["budget_id"],
                window_start_us=_microseconds_or_none(fields["window_start"]),
                window_end_us=_microseconds_or_none(fields["window_end"]),
                threshold=fields["threshold"],
                spent=fields["spent"],
                limit=fields["limit"],
                payload=fields.get("details", {}),
            )
        except (msgspec.DecodeError, KeyError, TypeError, ValueError, AttributeError) as wrong:
            raise ValueError(f"not an alert ({wrong!r}); see who else writes to this topic") from wrong


def alert_id(kind: AlertKind, *about: str | int) -> str:
    """The same news, the same id (UUID version 5). `about`, by kind: a threshold's budget, window start, window end and
    percent in plain digits; a forecast's budget, window start and end; else see who raises it."""
    return str(uuid5(_ALERTS, json.dumps([kind, *about])))


def resolution_of(alert: Alert, now_us: int, why: str) -> Alert:
    """The news that an alert's reason is gone; there is one of each alert at most."""
    return Alert(
        id=str(uuid5(_ALERTS, json.dumps(["resolved", alert.id]))),
        kind=alert.kind,
        subject=alert.subject,
        summary=f"{alert.subject}: back to normal ({why})",
        created_us=now_us,
        resolves=alert.id,
        budget_id=alert.budget_id,
        window_start_us=alert.window_start_us,
        window_end_us=alert.window_end_us,
        threshold=alert.threshold,
        spent=alert.spent,
        limit=alert.limit,
        payload={**alert.payload, "why": why},
    )


def rfc3339(time_us: int | None) -> str | None:
    """A time in UTC as text; None stays None."""
    if time_us is None:
        return None
    return (_EPOCH + timedelta(microseconds=time_us)).isoformat().replace("+00:00", "Z")


def _microseconds(text: str) -> int:
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(microseconds=1)


def _microseconds_or_none(text: str | None) -> int | None:
    return None if text is None else _microseconds(text)
