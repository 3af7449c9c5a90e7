"""Alerts: the outbox that they wait in until they are delivered (`alert_sender`).

*Outbox*: alerts by id, each with the story of its delivery: *waiting*, *delivered*, or *given up* (kept, with its
last error, for people to see).
*Open*: an alert whose reason stands: no other alert resolves it, and its window, if it has one, is not over. Whoever
*acknowledges* it says that it is being looked after; it stays open.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple, Protocol

from meterhouse.streams.alert import Alert, AlertKind

__all__ = ["Alert", "AlertFilter", "AlertOutbox", "AlertPlace", "MemoryOutbox", "OutboxEntry", "OutboxUnavailable"]

DeliveredBy = Literal["webhook", "logged"]
DeliveryState = Literal["waiting", "delivered", "given_up"]
AlertStatus = Literal["open", "acknowledged", "resolved"]

MAX_ERROR_TEXT: Final = 500
"""Characters of a delivery error that are kept: enough for a person, whatever a server answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxEntry:
    """An alert and its delivery so far."""

    alert: Alert
    attempts: int = 0  # failed ones
    next_attempt_us: int | None  # None: delivered or given up
    delivered_us: int | None = None
    delivered_by: DeliveredBy | None = None
    last_error: str | None = None
    resolved_us: int | None = None  # when another alert said that its reason is gone
    acknowledged_us: int | None = None
    acknowledged_by: str | None = None
    note: str | None = None  # of whoever acknowledged it

    @property
    def place(self) -> AlertPlace:
        return AlertPlace(self.alert.created_us, self.alert.id)

    def is_open(self, now_us: int) -> bool:
        """Does its reason stand? Never of an alert that resolves another."""
        over = self.alert.window_end_us is not None and self.alert.window_end_us <= now_us
        return self.alert.resolves is None and self.resolved_us is None and not over

    @property
    def state(self) -> DeliveryState:
        if self.delivered_us is not None:
            return "delivered"
        return "given_up" if self.next_attempt_us is None else "waiting"


class AlertPlace(NamedTuple):
    """Where an alert stands among all: newest first."""

    created_us: int
    id: str

    @property
    def token(self) -> str:
        return f"{self.created_us}.{self.id}"

    @classmethod
    def from_token(cls, token: str) -> AlertPlace:
        """Raises ValueError."""
        created, dot, id_ = token.partition(".")
        if not (dot and id_ and created.removeprefix("-").isdecimal()):
            raise ValueError("`after` is the `next` of the page before, as it is")
        return cls(int(created), id_)


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertFilter:
    """Which alerts are asked for; None: all. A status is that of `at_us`: *open*, *acknowledged* (an open one), or
    *resolved* (no longer open). Alerts that resolve others have none of these."""

    from_us: int | None = None  # from_us <= created_us < to_us
    to_us: int | None = None
    kind: AlertKind | None = None
    subject: str | None = None
    status: AlertStatus | None = None
    at_us: int = 0

    def matches(self, entry: OutboxEntry) -> bool:
        alert = entry.alert
        return (
            (self.from_us is None or alert.created_us >= self.from_us)
            and (self.to_us is None or alert.created_us < self.to_us)
            and self.kind in (None, alert.kind)
            and self.subject in (None, alert.subject)
            and (self.status is None or self._has_status(entry))
        )

    def _has_status(self, entry: OutboxEntry) -> bool:
        is_open = entry.is_open(self.at_us)
        if self.status == "resolved":
            return not is_open and entry.alert.resolves is None
        return is_open and (self.status == "open" or entry.acknowledged_us is not None)


EVERY_ALERT: Final = AlertFilter()


class OutboxUnavailable(Exception):
    """Passing trouble (database locked or down): nothing was changed; trying again may help."""


class AlertOutbox(Protocol):
    """May be shared between threads. Every method raises OutboxUnavailable on passing trouble; an id that is not
    there raises KeyError."""

    def add(self, alerts: Sequence[Alert]) -> int:
        """Stores those whose id is new, due at once (`next_attempt_us` = `created_us`); the others are ignored and
        what is stored of them stays. All or none. Returns how many were new."""
        ...

    def due(self, now_us: int, limit: int) -> Sequence[OutboxEntry]:
        """At most `limit` waiting entries with `next_attempt_us` <= now, by (next_attempt_us, id) ascending."""
        ...

    def delivered(self, alert_id: str, now_us: int, by: DeliveredBy = "webhook") -> None:
        """Sets delivered_us, delivered_by; clears next_attempt_us. `attempts` and `last_error` stay. Once delivered,
        it stays as first delivered."""
        ...

    def failed(self, alert_id: str, error: str, next_attempt_us: int | None) -> None:
        """Counts an attempt, keeps its error (cut at MAX_ERROR_TEXT) and when to try again; None: given up.
        No effect on a delivered one."""
        ...

    def get(self, alert_id: str) -> OutboxEntry:
        """One alert with its story."""
        ...

    def open(self, now_us: int, limit: int, kind: AlertKind | None = None) -> Sequence[OutboxEntry]:
        """At most `limit` open alerts, by (created_us, id) descending."""
        ...

    def acknowledge(self, alert_id: str, by: str, note: str | None, now_us: int) -> OutboxEntry:
        """Notes who looks after it, and returns it. Said again, the last one stands."""
        ...

    def list(
        self, matching: AlertFilter = EVERY_ALERT, *, after: AlertPlace | None = None, limit: int = 100
    ) -> Sequence[OutboxEntry]:
        """At most `limit` of those that match, by (created_us, id) descending; `after`: from behind this place on."""
        ...


class MemoryOutbox:
    """The AlertOutbox twin in memory: for tests, and for a run that keeps nothing."""

    def __init__(self) -> None:
        self._entries: dict[str, OutboxEntry] = {}
        self._resolved_us: dict[str, int] = {}  # alert id → when it was resolved
        self._lock = threading.Lock()

    def add(self, alerts: Sequence[Alert]) -> int:
        with self._lock:
            before = len(self._entries)
            for alert in alerts:
                self._entries.setdefault(alert.id, OutboxEntry(alert=alert, next_attempt_us=alert.created_us))
                if alert.resolves is not None:
                    self._resolved_us.setdefault(alert.resolves, self._entries[alert.id].alert.created_us)
            return len(self._entries) - before

    def due(self, now_us: int, limit: int) -> Sequence[OutboxEntry]:
        with self._lock:
            waiting = [
                (e.next_attempt_us, e.alert.id, e) for e in self._entries.values() if e.next_attempt_us is not None
            ]
            due = [entry for at_us, _, entry in sorted(waiting, key=lambda row: row[:2]) if at_us <= now_us][:limit]
            return [self._told(entry) for entry in due]

    def delivered(self, alert_id: str, now_us: int, by: DeliveredBy = "webhook") -> None:
        with self._lock:
            entry = self._entries[alert_id]
            if entry.delivered_us is None:
                self._entries[alert_id] = replace(entry, delivered_us=now_us, delivered_by=by, next_attempt_us=None)

    def failed(self, alert_id: str, error: str, next_attempt_us: int | None) -> None:
        with self._lock:
            entry = self._entries[alert_id]
            if entry.delivered_us is None:
                self._entries[alert_id] = replace(
                    entry,
                    attempts=entry.attempts + 1,
                    next_attempt_us=next_attempt_us,
                    last_error=error[:MAX_ERROR_TEXT],
                )

    def get(self, alert_id: str) -> OutboxEntry:
        with self._lock:
            return self._told(self._entries[alert_id])

    def open(self, now_us: int, limit: int, kind: AlertKind | None = None) -> Sequence[OutboxEntry]:
        return self.list(AlertFilter(kind=kind, status="open", at_us=now_us), limit=limit)

    def acknowledge(self, alert_id: str, by: str, note: str | None, now_us: int) -> OutboxEntry:
        with self._lock:
            said = replace(self._entries[alert_id], acknowledged_us=now_us, acknowledged_by=by, note=note)
            self._entries[alert_id] = said
            return self._told(said)

    def list(
        self, matching: AlertFilter = EVERY_ALERT, *, after: AlertPlace | None = None, limit: int = 100
    ) -> Sequence[OutboxEntry]:
        with self._lock:
            entries = [entry for each in self._entries.values() if matching.matches(entry := self._told(each))]
        behind = [entry for entry in entries if after is None or entry.place < after]
        return sorted(behind, key=lambda entry: entry.place, reverse=True)[:limit]

    def _told(self, entry: OutboxEntry) -> OutboxEntry:
        """With when it was resolved."""
        return replace(entry, resolved_us=self._resolved_us.get(entry.alert.id))
