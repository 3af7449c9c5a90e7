"""Ingest over HTTP: a body becomes records of the event log."""

from __future__ import annotations

from collections.abc import Sequence

from meterhouse.api.clock import now_us
from meterhouse.api.problems import Problem
from meterhouse.api.wiring import House
from meterhouse.ingest.encode import Encoded, single_message, to_messages
from meterhouse.ingest.log import USAGE_EVENTS, LogFull, LogUnavailable, Message
from meterhouse.ingest.split import Unparsable, split
from meterhouse.ingest.validate import Rules, check, parse_json
from meterhouse.warehouse.view import View


def _application(payload: bytes) -> str:
    """The application that an event's JSON names; empty, which none is: it names none."""
    event = parse_json(payload.decode())
    data = event.get("data") if isinstance(event, dict) else None
    application = data.get("application") if isinstance(data, dict) else None
    return application if isinstance(application, str) else ""


class Ingest:
    """Takes a body's events into the log, the malformed ones too: the meter rejects them, with their bytes kept."""

    def __init__(self, house: House, view: View) -> None:
        """`view`: whose events are taken."""
        self._house = house
        self._view = view

    def take(self, body: bytes) -> None:
        """Returns once the log has every event durably.

        Raises Problem: `forbidden` (an event is not of the caller's tenants: none is taken), `malformed-body`,
        `malformed-event` (a single event; of an array each element stands for itself), `log-full`, `unavailable`.
        """
        try:
            events = split(body)
        except Unparsable as wrong:
            self._append([single_message(None, body)] if body else [])
            raise Problem("malformed-body", f"{wrong} It is kept among the rejects.") from None
        self._check_view(events)
        self._append(list(to_messages(Encoded(tenant, payload) for tenant, payload in events)))
        if len(events) == 1 and not body.lstrip().startswith(b"["):
            self._check(events[0][1])

    def _check_view(self, events: Sequence[tuple[str | None, bytes]]) -> None:
        """An event that names no tenant is nobody's: it is rejected later, with its bytes kept."""
        view = self._view
        if view.is_whole:
            return
        whole = view.whole_tenants or frozenset()
        for place, (tenant, payload) in enumerate(events):
            if tenant is None or tenant in whole or view.sees(tenant, _application(payload)):
                continue
            raise Problem(
                "forbidden",
                f"Event {place} is of a tenant or application that this key or token may not publish for. No event was"
                " taken. Send it with another key, or ask for a grant.",
            )

    def _check(self, payload: bytes) -> None:
        snapshot = self._house.control.snapshot()
        if refusal := check(payload, Rules(now_us(), snapshot.known_tenants, self._house.lateness)):
            raise Problem(
                "malformed-event", f"{refusal.detail} It is kept among the rejects.", reason=refusal.reason.value
            )

    def _append(self, messages: list[Message]) -> None:
        try:
            if messages:
                self._house.log.append(USAGE_EVENTS, messages)
        except LogFull as full:
            raise Problem("log-full", str(full)) from None
        except LogUnavailable as trouble:
            raise Problem("unavailable", f"{trouble}. Send it again.", headers={"Retry-After": "1"}) from None
