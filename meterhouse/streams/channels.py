"""Channels: where alerts are posted. The port, a line in the program's log, and the signed webhook."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from typing import Final, Protocol, runtime_checkable

import httpx
import structlog

from meterhouse.streams.alert import Alert, rfc3339
from meterhouse.streams.alerts import OutboxEntry

POST_TIMEOUT_S: Final = 5.0
"""To connect, to send, and for each read: a receiver that needs longer should queue."""

_log = structlog.get_logger("meterhouse.alerts")


class Channel(Protocol):
    """One way to people or programs. Called from `threads` threads at most."""

    @property
    def name(self) -> str:
        """What the outbox and the metrics call it: never a secret, and the same after a restart."""
        ...

    @property
    def threads(self) -> int:
        """Posts at once. 1: in the order in which they were handed over."""
        ...

    def post(self, entry: OutboxEntry, about: OutboxEntry) -> str | None:
        """Posts `entry.alert`; `about` is the alert that it resolves, else `entry` itself. None: it is delivered; else
        what went wrong, for people, without secrets."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Reposting(Channel, Protocol):
    """A channel that forgets: it is told of everything that is open again and again."""

    @property
    def every_s(self) -> float: ...

    def repost(self, entries: Sequence[OutboxEntry]) -> str | None:
        """As `post`, of many at once: alerts that are open, and some that were resolved lately."""
        ...


class LogLine:
    """An alert is a line in the program's log, and delivered by that."""

    name = "log"
    threads = 1

    def post(self, entry: OutboxEntry, about: OutboxEntry) -> None:
        alert = entry.alert
        said = {"threshold": alert.threshold, "spent": alert.spent, "limit": alert.limit}
        told = {name: value for name, value in said.items() if value is not None}
        _log.warning(alert.summary, id=alert.id, kind=alert.kind, status=alert.status, subject=alert.subject, **told)

    def close(self) -> None:
        pass


class Webhook:
    """Posts `Alert.to_json`, under the alert's id in the header Idempotency-Key; signed where there is a secret
    (`signature`). Any answer of 2xx is delivery."""

    name = "webhook"
    threads = 4  # a receiver that answers in 50 ms takes 80 a second, and four that hang are all that wait for it

    def __init__(
        self,
        url: str,
        secret: bytes | None = None,
        *,
        clock: Callable[[], int],
        client: httpx.Client | None = None,
        timeout_s: float = POST_TIMEOUT_S,
    ) -> None:
        self._url = url
        self._secret = secret
        self._clock = clock
        self._client = client or httpx.Client()
        self._timeout_s = timeout_s

    def post(self, entry: OutboxEntry, about: OutboxEntry) -> str | None:
        body = entry.alert.to_json()
        headers = {"idempotency-key": entry.alert.id}
        if self._secret is not None:
            headers["meterhouse-signature"] = signature(self._secret, self._clock() // 1_000_000, body)
        return post_json(self._client, self._url, body, headers, self._timeout_s)

    def close(self) -> None:
        self._client.close()


def signature(secret: bytes, timestamp_s: int, body: bytes) -> str:
    """The header Meterhouse-Signature: `t=<seconds>,v1=<hex>`, where hex is HMAC-SHA256(secret, "<seconds>." + body).

    A receiver recomputes it over the body as it came, compares in constant time, and refuses an old timestamp.
    """
    digest = hmac.new(secret, f"{timestamp_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={timestamp_s},v1={digest}"


def post_json(
    client: httpx.Client, url: str, body: bytes, headers: dict[str, str], timeout_s: float = POST_TIMEOUT_S
) -> str | None:
    """None: the receiver answered 2xx; else what went wrong, for people. The answer's body is not read: its size is not
    ours to choose."""
    headers = {"content-type": "application/json", "user-agent": "meterhouse", **headers}
    try:
        with client.stream(
            "POST", url, content=body, headers=headers, timeout=timeout_s, follow_redirects=False
        ) as answer:
            return None if answer.is_success else f"the receiver answered {answer.status_code}"
    except (httpx.HTTPError, httpx.InvalidURL) as wrong:
        return f"{type(wrong).__name__}: {wrong}"


def described(alert: Alert) -> str:
    """What else people want to know beside the summary, in a line or two."""
    parts = []
    if alert.limit is not None:
        unit = alert.payload.get("unit", "")
        parts.append(f"spent {alert.spent} of {alert.limit} {unit}".rstrip())
    if alert.window_start_us is not None:
        parts.append(f"window {rfc3339(alert.window_start_us)} to {rfc3339(alert.window_end_us)}")
    return "; ".join([*parts, f"alert {alert.id}"])
