"""Alerts: the outbox that they wait in until they are delivered, and the sender that delivers them.

*Alert*: the news that a budget's spend reached a threshold in a window. Its id follows from what it is about, so
however often it is raised it is one alert.
*Outbox*: alerts by id, each with the story of its delivery: *waiting*, *delivered*, or *given up* (kept, with its
last error, for people to see).
"""

from __future__ import annotations

import hashlib
import hmac
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, Protocol

import httpx
import structlog

from meterhouse.streams.budget_state import Alert

__all__ = [
    "Alert",
    "AlertOutbox",
    "AlertSender",
    "MemoryOutbox",
    "OutboxEntry",
    "OutboxUnavailable",
    "RetryPolicy",
    "Webhook",
]

DeliveredBy = Literal["webhook", "logged"]
DeliveryState = Literal["waiting", "delivered", "given_up"]

MAX_ERROR_TEXT: Final = 500
"""Characters of a delivery error that are kept: enough for a person, whatever a server answers."""
ROUND: Final = 100
"""Alerts of one round: what became due meanwhile waits no longer than these take."""
IDLE_S: Final = 0.25
"""Between two rounds: an alert is posted within a second of being raised."""
MAX_WAIT_S: Final = 30.0
MAX_OUTBOX_FAILURES: Final = 20
"""One after another: about seven minutes without a control database, then stop loudly."""

_log = structlog.get_logger("meterhouse.alerts")


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


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a delivery that failed is tried again: after base × 2^(failures - 1), at most `max_delay_s`, less up to half
    of it by chance, so that many alerts do not come back at once. As it stands: for about half a day, which outlasts a
    night's trouble at the receiver; then the alert is given up, and kept for people to see."""

    base_s: float = 1.0
    max_delay_s: float = 3_600.0
    max_attempts: int = 24

    def next_attempt_us(self, failures: int, now_us: int, chance: float) -> int | None:
        """When to try again after `failures` (1 or more); None: give up. `chance`: in [0, 1)."""
        if failures >= self.max_attempts:
            return None
        delay_s = min(self.max_delay_s, self.base_s * 2.0 ** min(failures - 1, 60))
        return now_us + int(delay_s * (1 - chance / 2) * 1e6)


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where alerts are posted. With a secret each request is signed (`signature`)."""

    url: str
    secret: bytes | None = field(default=None, repr=False)
    timeout_s: float = 5.0  # to connect, to send, and for each read: a receiver that needs longer should queue


def signature(secret: bytes, timestamp_s: int, body: bytes) -> str:
    """The header Meterhouse-Signature: `t=<seconds>,v1=<hex>`, where hex is HMAC-SHA256(secret, "<seconds>." + body).

    A receiver recomputes it over the body as it came, compares in constant time, and refuses an old timestamp.
    """
    digest = hmac.new(secret, f"{timestamp_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={timestamp_s},v1={digest}"


class AlertSender:
    """Delivers what is due in an outbox, at least once: what is posted but could not be marked is posted again, under
    the same id (header Idempotency-Key and the body's `id`), by which a receiver drops it.

    The body is `Alert.to_json`. Any answer of 2xx is delivery; everything else is a failure and tried again by
    `policy`. Without a webhook an alert is a line in the program's log, and delivered by that.
    """

    def __init__(
        self,
        outbox: AlertOutbox,
        webhook: Webhook | None,
        *,
        clock: Callable[[], int],
        client: Callable[[], httpx.Client] = httpx.Client,
        policy: RetryPolicy | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._outbox = outbox
        self._webhook = webhook
        self._clock = clock
        self._make_client = client
        self._policy = policy or RetryPolicy()
        self._chance = chance

    def run(self, stop: threading.Event) -> None:
        """Delivers until `stop` is set. Raises OutboxUnavailable when the outbox stays away."""
        trouble = 0
        with self._make_client() as client:
            while not stop.is_set():
                try:
                    self._round(client, stop)
                    trouble = 0
                except OutboxUnavailable as reason:
                    trouble += 1
                    if trouble >= MAX_OUTBOX_FAILURES:
                        raise
                    _log.warning("alert outbox unavailable, will try again", reason=str(reason))
                stop.wait(min(MAX_WAIT_S, IDLE_S * 2**trouble))

    def run_once(self) -> int:
        """One round: tries each alert that is due once, at most ROUND of them; returns how many it tried.

        Raises OutboxUnavailable.
        """
        with self._make_client() as client:
            return self._round(client, threading.Event())

    def idle(self) -> bool:
        """Is nothing due now? (What failed may be due later.)"""
        return not self._outbox.due(self._clock(), 1)

    def _round(self, client: httpx.Client, stop: threading.Event) -> int:
        tried = 0
        for entry in self._outbox.due(self._clock(), ROUND):
            if stop.is_set():
                break
            self._deliver(client, entry)
            tried += 1
        return tried

    def _deliver(self, client: httpx.Client, entry: OutboxEntry) -> None:
        alert = entry.alert
        if self._webhook is None:
            about = {
                "budget": alert.budget_id,
                "threshold": alert.threshold,
                "spent": alert.spent,
                "limit": alert.limit,
            }
            _log.warning("budget alert", id=alert.id, **about)
            self._outbox.delivered(alert.id, self._clock(), "logged")
            return
        error = self._post(client, self._webhook, alert)
        if error is None:
            self._outbox.delivered(alert.id, self._clock(), "webhook")
            return
        again_us = self._policy.next_attempt_us(entry.attempts + 1, self._clock(), self._chance())
        level = _log.warning if again_us is not None else _log.error
        level("alert not delivered", id=alert.id, reason=error, attempt=entry.attempts + 1, given_up=again_us is None)
        self._outbox.failed(alert.id, error, again_us)

    def _post(self, client: httpx.Client, webhook: Webhook, alert: Alert) -> str | None:
        """None: delivered; else what went wrong, for people. The answer's body is not read: its size is not ours to
        choose."""
        body = alert.to_json()
        headers = {"content-type": "application/json", "idempotency-key": alert.id, "user-agent": "meterhouse"}
        if webhook.secret is not None:
            headers["meterhouse-signature"] = signature(webhook.secret, self._clock() // 1_000_000, body)
        try:
            with client.stream(
                "POST", webhook.url, content=body, headers=headers, timeout=webhook.timeout_s, follow_redirects=False
            ) as answer:
                return None if answer.is_success else f"the receiver answered {answer.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL) as wrong:
            return f"{type(wrong).__name__}: {wrong}"
