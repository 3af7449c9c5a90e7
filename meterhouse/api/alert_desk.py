"""What people see of alerts and do about them, as JSON: one way for the command line and the HTTP API."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from meterhouse.api.clock import now_us
from meterhouse.api.wiring import House
from meterhouse.streams.alert import Alert, AlertKind, resolution_of, rfc3339
from meterhouse.streams.alerts import SILENCED, AlertFilter, AlertPlace, Delivery, OutboxEntry
from meterhouse.streams.silences import MAX_TEXT, BadSilence, Silence
from meterhouse.warehouse.audit import UNKNOWN
from meterhouse.warehouse.idempotency import Keep
from meterhouse.warehouse.reports.errors import ReportError
from meterhouse.warehouse.view import View

Json = dict[str, Any]


class NoSuch(Exception):
    """There is none of this name, or none that is seen; the message says where names are found."""


class AlertDesk:
    """Alerts, acknowledgements and silences of a house. Wrong input raises ReportError, an unknown id NoSuch, and a
    database that does not answer OutboxUnavailable. May be shared between threads."""

    def __init__(self, house: House, view: View, actor: str = UNKNOWN) -> None:
        """`view`: what of alerts and silences is seen: those of the budgets that are. `actor`: who the audit log says
        did what is done here."""
        self._house = house
        self._view = view
        self._actor = actor

    @property
    def _budgets(self) -> frozenset[str] | None:
        """Budgets whose alerts and silences are seen; None: all alerts and silences are, of whatever kind."""
        if self._view.is_whole:
            return None
        return frozenset(budget.id for budget in self._view.cut(self._house.control.snapshot()).budgets)

    def page(self, matching: AlertFilter, after: str | None, limit: int) -> Json:
        """At most `limit` alerts that match, the newest first, and `next`: what to give as `after` for those behind."""
        try:
            place = None if after is None else AlertPlace.from_token(after)
        except ValueError as wrong:
            raise ReportError(str(wrong)) from None
        found = self._house.outbox.list(replace(matching, budgets=self._budgets), after=place, limit=limit + 1)
        page, at_us = found[:limit], now_us()
        more = page[-1].place.token if len(found) > limit else None
        return {"alerts": [alert_json(entry, at_us) for entry in page], "next": more}

    def alert(self, alert_id: str) -> Json:
        """One alert with its history, the oldest first."""
        return self._told(self._entry(alert_id))

    def acknowledge(self, alert_id: str, by: str, note: str | None) -> Json:
        """Notes who looks after an alert, and returns it with its history. Said otherwise, the last one stands."""
        if not by.strip() or len(by) > MAX_TEXT or len(note or "") > MAX_TEXT:
            raise ReportError(f"`by` is a text of 1 to {MAX_TEXT} characters, and `note` has no more")
        resolved = self._entry(alert_id).alert.resolves
        if resolved is not None:
            raise ReportError(f"{alert_id} says that another alert is over: acknowledge {resolved}, or nothing")
        return self._told(self._house.outbox.acknowledge(alert_id, by, note, now_us(), self._actor))

    def silences(self) -> Json:
        """Silences that are not over, the first to end first."""
        return {"silences": [silence_json(each) for each in self._standing()]}

    def silence(
        self,
        subject: str | None,
        kind: AlertKind | None,
        span_us: tuple[int | None, int],
        by: str,
        reason: str,
        keep: Keep | None = None,
    ) -> Json:
        """A new silence for `span_us`: its start (None: now) and its end. `keep`: keeps the answer with it."""
        budgets, at_us = self._budgets, now_us()
        if budgets is not None and subject not in budgets:
            raise NoSuch(f"there is no budget {subject!r}: GET /v1/budgets lists them")
        start_us, until_us = span_us
        try:
            made = Silence(
                id=secrets.token_hex(6),  # short, since people type it
                kind=kind,
                subject=subject,
                from_us=at_us if start_us is None else start_us,
                until_us=until_us,
                by=by,
                reason=reason,
                created_us=at_us,
            )
            if until_us <= at_us:
                raise BadSilence("a silence ends later than now")
            told = silence_json(made)
            self._house.silences.add(made, self._actor, keep and keep(told))
        except BadSilence as wrong:
            raise ReportError(str(wrong)) from None
        return told

    def end_silence(self, silence_id: str) -> None:
        try:
            if silence_id not in {each.id for each in self._standing()}:
                raise KeyError(silence_id)
            self._house.silences.end(silence_id, now_us(), self._actor)
        except KeyError:
            raise NoSuch(f"no silence {silence_id} stands: `alerts silences` (GET /v1/silences) lists them") from None

    def _standing(self) -> Sequence[Silence]:
        budgets = self._budgets
        return [each for each in self._house.silences.standing(now_us()) if budgets is None or each.subject in budgets]

    def _entry(self, alert_id: str) -> OutboxEntry:
        # What is not seen is not looked for: it takes as long as what is not there.
        try:
            return self._house.outbox.get(alert_id, self._budgets)
        except KeyError:
            raise NoSuch(f"there is no alert {alert_id}: `alerts` (GET /v1/alerts) lists them all") from None

    @staticmethod
    def _told(entry: OutboxEntry) -> Json:
        at_us = now_us()
        return {**alert_json(entry, at_us), "history": history_json(entry, at_us)}


def alert_json(entry: OutboxEntry, at_us: int) -> Json:
    """An alert as it stood at `at_us`, with the story of its delivery."""
    alert = entry.alert
    return {
        "id": alert.id,
        "kind": alert.kind,
        "status": alert.status,
        "standing": standing(entry, at_us),
        "subject": alert.subject,
        "summary": alert.summary,
        "resolves": alert.resolves,
        "budget": alert.budget_id,
        "window": _window_json(alert),
        "threshold": alert.threshold,
        "spent": alert.spent,
        "limit": alert.limit,
        "created": rfc3339(alert.created_us),
        "resolved": rfc3339(entry.resolved_us),
        "acknowledged": rfc3339(entry.acknowledged_us),
        "acknowledged_by": entry.acknowledged_by,
        "note": entry.note,
        "state": entry.state,
        "attempts": entry.attempts,
        "delivered": None if entry.delivered_by == SILENCED else rfc3339(entry.delivered_us),
        "last_error": entry.last_error,
        "channels": {name: _delivery_json(each) for name, each in sorted(entry.channels.items())},
    }


def standing(entry: OutboxEntry, at_us: int) -> str | None:
    """open, acknowledged or resolved; None: it is the news that another alert is over."""
    if entry.alert.resolves is not None:
        return None
    if not entry.is_open(at_us):
        return "resolved"
    return "open" if entry.acknowledged_us is None else "acknowledged"


def history_json(entry: OutboxEntry, at_us: int) -> list[Json]:
    """What happened to an alert up to `at_us`: {"at", "what", "channel", "by", "detail"}, the oldest first. Of failed
    tries there is the number and the last error, with the channel's entry."""
    alert = entry.alert
    told = [(alert.created_us, _happened("raised", detail=alert.summary))]
    for name, each in entry.channels.items():
        if each.delivered_us is not None:
            tries = f"after {each.attempts} failed tries: {each.last_error}" if each.attempts else None
            told.append((each.delivered_us, _happened("delivered", channel=name, detail=tries)))
    if entry.delivered_by == SILENCED and entry.delivered_us is not None:
        told.append((entry.delivered_us, _happened("silenced")))
    if entry.acknowledged_us is not None:
        told.append((entry.acknowledged_us, _happened("acknowledged", by=entry.acknowledged_by, detail=entry.note)))
    if entry.resolved_us is not None:
        told.append((entry.resolved_us, _happened("resolved", by=resolution_of(alert, 0, "").id)))
    elif alert.window_end_us is not None and alert.window_end_us <= at_us:
        told.append((alert.window_end_us, _happened("window_ended")))
    return [{"at": rfc3339(happened_us), **what} for happened_us, what in sorted(told, key=lambda each: each[0])]


def silence_json(silence: Silence) -> Json:
    return {
        "id": silence.id,
        "kind": silence.kind,
        "subject": silence.subject,
        "from": rfc3339(silence.from_us),
        "until": rfc3339(silence.until_us),
        "by": silence.by,
        "reason": silence.reason,
        "created": rfc3339(silence.created_us),
    }


def _happened(what: str, *, channel: str | None = None, by: str | None = None, detail: str | None = None) -> Json:
    return {"what": what, "channel": channel, "by": by, "detail": detail}


def _delivery_json(delivery: Delivery) -> Mapping[str, object]:
    return {
        "state": delivery.state,
        "attempts": delivery.attempts,
        "delivered": rfc3339(delivery.delivered_us),
        "next_attempt": rfc3339(delivery.next_attempt_us),
        "last_error": delivery.last_error,
    }


def _window_json(alert: Alert) -> Json | None:
    if alert.window_start_us is None or alert.window_end_us is None:
        return None
    return {"start": rfc3339(alert.window_start_us), "end": rfc3339(alert.window_end_us)}
