"""The alert sender: delivers what waits in the outbox, by webhook or as a line of the program's log."""

from __future__ import annotations

import hashlib
import hmac
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import httpx
import structlog

from meterhouse.streams.alert import Alert
from meterhouse.streams.alerts import AlertOutbox, OutboxEntry, OutboxUnavailable
from meterhouse.streams.watch import AlertWatch, Delivered, Unwatched

ROUND: Final = 100
"""Alerts of one round: what became due meanwhile waits no longer than these take."""
IDLE_S: Final = 0.25
"""Between two rounds: an alert is posted within a second of being raised."""
MAX_WAIT_S: Final = 30.0
MAX_OUTBOX_FAILURES: Final = 20
"""One after another: about seven minutes without a control database, then stop loudly."""

_log = structlog.get_logger("meterhouse.alerts")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a delivery that failed is tried again: after base × 2^(failures - 1), at most `max_delay_s`, less up to half
    of it by chance, so that many alerts do not come back at once. As it stands: for about half a day, which outlasts a
    night's trouble at the receiver; then the alert is given up, and kept for people to see."""

    base_s: float = 1.0
    max_delay_s: float = 3_600.0
    max_attempts: int = 24
    chance: Callable[[], float] = random.random  # in [0, 1)

    def next_attempt_us(self, failures: int, now_us: int) -> int | None:
        """When to try again after `failures` (1 or more); None: give up."""
        if failures >= self.max_attempts:
            return None
        delay_s = min(self.max_delay_s, self.base_s * 2.0 ** min(failures - 1, 60))
        return now_us + int(delay_s * (1 - self.chance() / 2) * 1e6)


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
        watch: AlertWatch | None = None,
    ) -> None:
        self._watch = watch or Unwatched()
        self._outbox = outbox
        self._webhook = webhook
        self._clock = clock
        self._make_client = client
        self._policy = policy or RetryPolicy()

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
            self._tell("delivered", alert)
            return
        error = self._post(client, self._webhook, alert)
        if error is None:
            self._outbox.delivered(alert.id, self._clock(), "webhook")
            self._tell("delivered", alert)
            return
        again_us = self._policy.next_attempt_us(entry.attempts + 1, self._clock())
        level = _log.warning if again_us is not None else _log.error
        level("alert not delivered", id=alert.id, reason=error, attempt=entry.attempts + 1, given_up=again_us is None)
        self._outbox.failed(alert.id, error, again_us)
        self._tell("given_up" if again_us is None else "failed", alert)

    def _tell(self, outcome: Delivered, alert: Alert) -> None:
        self._watch.tried(outcome, max(0.0, (self._clock() - alert.created_us) / 1e6))

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
