"""Alerts: the outbox that they wait in until they are delivered (`alert_sender`).

*Outbox*: alerts by id, each with the story of its delivery on every *channel*: *waiting*, *delivered* (each channel
has it), *silenced* (nobody was to hear of it), or *given up* (kept, with its last error, for people to see).
*Open*: an alert whose reason stands: no other alert resolves it, and its window, if it has one, is not over. Whoever
*acknowledges* it says that it is being looked after; it stays open.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple, Protocol

from meterhouse.streams.alert import Alert, AlertKind

DeliveryState = Literal["waiting", "delivered", "given_up", "silenced"]
AlertStatus = Literal["open", "acknowledged", "resolved"]

MAX_ERROR_TEXT: Final = 500
"""Characters of a delivery error that are kept: enough for a person, whatever a server answers."""
SILENCED: Final = "silenced"
"""Stands in `delivered_by` of an alert that no channel was given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What became of an alert on one channel."""

    attempts: int = 0  # failed ones
    next_attempt_us: int | None = None  # None: delivered or given up
    delivered_us: int | None = None
    last_error: str | None = None

    @property
    def state(self) -> Literal["waiting", "delivered", "given_up"]:
        if self.delivered_us is not None:
            return "delivered"
        return "given_up" if self.next_attempt_us is None else "waiting"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxEntry:
    """An alert and its delivery so far."""

    alert: Alert
    attempts: int = 0  # failed ones, of all channels
    next_attempt_us: int | None  # the next of any channel; None: delivered, silenced or given up
    delivered_us: int | None = None  # when the last channel had it, or it was silenced
    delivered_by: str | None = None  # names of channels, or SILENCED
    last_error: str | None = None
    channels: Mapping[str, Delivery] = field(default_factory=dict)  # of those that were tried
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
    def posted(self) -> bool:
        """Has any channel got it?"""
        somewhere = any(each.delivered_us is not None for each in self.channels.values())
        return somewhere or (self.delivered_us is not None and self.delivered_by != SILENCED)

    def is_due(self, channel: str, now_us: int) -> bool:
        """Is it to be tried on this channel now?"""
        if self.next_attempt_us is None:
            return False
        had = self.channels.get(channel)
        return had is None or (had.next_attempt_us is not None and had.next_attempt_us <= now_us)

    @property
    def state(self) -> DeliveryState:
        if self.delivered_by == SILENCED:
            return "silenced"
        if self.delivered_us is not None:
            return "delivered"
        return "given_up" if self.next_attempt_us is None else "waiting"


def recorded(entry: OutboxEntry, deliveries: Mapping[str, Delivery], wanted: Sequence[str]) -> OutboxEntry:
    """`entry` after `deliveries` by channel. It is done with when each of the `wanted` channels is, and delivered when
    each has it. What a channel has it keeps; an entry that is delivered or silenced stays as it is."""
    if entry.delivered_us is not None:
        return entry
    channels = dict(entry.channels)
    for name, delivery in deliveries.items():
        if name not in channels or channels[name].delivered_us is None:
            error = delivery.last_error
            channels[name] = replace(delivery, last_error=None if error is None else storable(error)[:MAX_ERROR_TEXT])
    waiting = [
        at_us
        for at_us in (channels[n].next_attempt_us if n in channels else entry.alert.created_us for n in wanted)
        if at_us is not None
    ]
    had = {name: channels[name].delivered_us for name in wanted if name in channels}
    times = [at_us for at_us in had.values() if at_us is not None]
    everywhere = len(times) == len(wanted)
    errors = [channels[name].last_error for name in deliveries if channels[name].last_error is not None]
    return replace(
        entry,
        channels=channels,
        attempts=sum(each.attempts for each in channels.values()),
        next_attempt_us=min(waiting, default=None),
        last_error=errors[-1] if errors else entry.last_error,
        delivered_us=max(times, default=None) if everywhere else None,
        delivered_by=",".join(wanted) if everywhere else None,
    )


def silenced(entry: OutboxEntry, now_us: int) -> OutboxEntry:
    """`entry` after it was silenced; one that a channel has stays as it is."""
    if entry.delivered_us is not None or entry.posted:
        return entry
    return replace(entry, next_attempt_us=None, delivered_us=now_us, delivered_by=SILENCED)


def storable(text: str) -> str:
    """Without what a database does not take as text: lone surrogates, and NUL (PostgreSQL)."""
    return text.encode("utf-8", "replace").decode().replace("\x00", "?")


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
    budgets: frozenset[str] | None = None  # only alerts about these budgets

    def matches(self, entry: OutboxEntry) -> bool:
        alert = entry.alert
        return (
            (self.from_us is None or alert.created_us >= self.from_us)
            and (self.to_us is None or alert.created_us < self.to_us)
            and self.kind in (None, alert.kind)
            and self.subject in (None, alert.subject)
            and (self.budgets is None or alert.budget_id in self.budgets)
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


class ChannelMissing(Exception):
    """A channel that is configured cannot be made; the message says what to do, without secrets."""


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

    def waiting(self) -> tuple[int, int | None]:
        """How many entries wait, due now or later, and when the first of them was raised (`created_us`)."""
        ...

    def record(self, alert_id: str, deliveries: Mapping[str, Delivery], wanted: Sequence[str]) -> None:
        """What became of it on these channels, as `recorded` says; `wanted`: the channels that shall have it."""
        ...

    def silence(self, alert_id: str, now_us: int) -> None:
        """It is done with, and nobody hears of it. No effect on one that a channel has, or that is done with."""
        ...

    def get(self, alert_id: str, budgets: frozenset[str] | None = None) -> OutboxEntry:
        """One alert with its story. KeyError too when `budgets` are given and it is about none of them."""
        ...

    def open(self, now_us: int, limit: int, kind: AlertKind | None = None) -> Sequence[OutboxEntry]:
        """At most `limit` open alerts, by (created_us, id) descending."""
        ...

    def acknowledge(self, alert_id: str, by: str, note: str | None, now_us: int) -> OutboxEntry:
        """Notes who looks after it, and returns it. Said otherwise, the last one stands; the same again changes
        nothing."""
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

    def waiting(self) -> tuple[int, int | None]:
        with self._lock:
            raised = [e.alert.created_us for e in self._entries.values() if e.next_attempt_us is not None]
        return len(raised), min(raised, default=None)

    def record(self, alert_id: str, deliveries: Mapping[str, Delivery], wanted: Sequence[str]) -> None:
        with self._lock:
            self._entries[alert_id] = recorded(self._entries[alert_id], deliveries, wanted)

    def silence(self, alert_id: str, now_us: int) -> None:
        with self._lock:
            self._entries[alert_id] = silenced(self._entries[alert_id], now_us)

    def get(self, alert_id: str, budgets: frozenset[str] | None = None) -> OutboxEntry:
        with self._lock:
            entry = self._told(self._entries[alert_id])
        if not AlertFilter(budgets=budgets).matches(entry):
            raise KeyError(alert_id)
        return entry

    def open(self, now_us: int, limit: int, kind: AlertKind | None = None) -> Sequence[OutboxEntry]:
        return self.list(AlertFilter(kind=kind, status="open", at_us=now_us), limit=limit)

    def acknowledge(self, alert_id: str, by: str, note: str | None, now_us: int) -> OutboxEntry:
        with self._lock:
            entry = self._entries[alert_id]
            if (entry.acknowledged_by, entry.note) != (by, note):
                entry = replace(entry, acknowledged_us=now_us, acknowledged_by=by, note=note)
                self._entries[alert_id] = entry
            return self._told(entry)

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
