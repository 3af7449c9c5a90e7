"""Alerts: the outbox that they wait in until they are delivered (`alert_sender`).

*Alert*: the news that a budget's spend reached a threshold in a window. Its id follows from what it is about, so
however often it is raised it is one alert.
*Outbox*: alerts by id, each with the story of its delivery: *waiting*, *delivered*, or *given up* (kept, with its
last error, for people to see).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol

from meterhouse.streams.alert import Alert

__all__ = ["Alert", "AlertOutbox", "MemoryOutbox", "OutboxEntry", "OutboxUnavailable"]

DeliveredBy = Literal["webhook", "logged"]
DeliveryState = Literal["waiting", "delivered", "given_up"]

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

    @property
    def state(self) -> DeliveryState:
        if self.delivered_us is not None:
            return "delivered"
        return "given_up" if self.next_attempt_us is None else "waiting"


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

    def list(self, *, from_us: int | None = None, to_us: int | None = None, limit: int = 100) -> Sequence[OutboxEntry]:
        """For reports: those with from_us <= created_us < to_us (None: open), by (created_us, id) descending."""
        ...


class MemoryOutbox:
    """The AlertOutbox twin in memory: for tests, and for a run that keeps nothing."""

    def __init__(self) -> None:
        self._entries: dict[str, OutboxEntry] = {}
        self._lock = threading.Lock()

    def add(self, alerts: Sequence[Alert]) -> int:
        with self._lock:
            before = len(self._entries)
            for alert in alerts:
                self._entries.setdefault(alert.id, OutboxEntry(alert=alert, next_attempt_us=alert.created_us))
            return len(self._entries) - before

    def due(self, now_us: int, limit: int) -> Sequence[OutboxEntry]:
        with self._lock:
            waiting = [
                (e.next_attempt_us, e.alert.id, e) for e in self._entries.values() if e.next_attempt_us is not None
            ]
        return [entry for at_us, _, entry in sorted(waiting, key=lambda row: row[:2]) if at_us <= now_us][:limit]

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

    def list(self, *, from_us: int | None = None, to_us: int | None = None, limit: int = 100) -> Sequence[OutboxEntry]:
        with self._lock:
            entries = [
                entry
                for entry in self._entries.values()
                if (from_us is None or entry.alert.created_us >= from_us)
                and (to_us is None or entry.alert.created_us < to_us)
            ]
        return sorted(entries, key=lambda e: (e.alert.created_us, e.alert.id), reverse=True)[:limit]
