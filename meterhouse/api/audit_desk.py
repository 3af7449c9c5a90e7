"""The audit log as JSON: one way for the command line and the HTTP API."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from meterhouse.api.wiring import House
from meterhouse.streams.alert import rfc3339
from meterhouse.warehouse.audit import AuditFilter, Entry, Head
from meterhouse.warehouse.audit_chain import Told
from meterhouse.warehouse.audit_heads import known_heads
from meterhouse.warehouse.lake import LakeMissing
from meterhouse.warehouse.reports.errors import ReportError

Json = dict[str, Any]


def page(house: House, matching: AuditFilter, after: str | None, limit: int) -> Json:
    """At most `limit` entries that match, the newest first, and `next`: what to give as `after` for those behind.
    Raises ReportError, ControlUnavailable."""
    if after is not None and not (after.isascii() and after.isdigit() and len(after) < 19):
        raise ReportError(f"{after!r} is no place in the list: give `next` of the page before")
    found = house.audit.page(matching, None if after is None else int(after), limit + 1)
    more = str(found[limit - 1].seq) if len(found) > limit else None
    return {"entries": [entry_json(entry) for entry in found[:limit]], "next": more}


def entry_json(entry: Entry) -> Json:
    return {
        "seq": entry.seq,
        "at": rfc3339(entry.at_us),
        "actor": entry.actor,
        "action": entry.action,
        "subject": entry.subject,
        "detail": json.loads(entry.detail),
        "hash": entry.hash.hex(),
    }


def verification(house: House, told: Told | None = None) -> Json:
    """Whether the log is what was written, and how far the lake vouches for it.

    Raises ControlUnavailable, LakeError.
    """
    found = house.audit.verify(_heads(house), told)  # the lake first: what it then knows of, the log must have
    fault = found.fault
    return {
        "whole": fault is None,
        "entries": found.entries,
        "lake_heads": found.heads,
        "vouched_for": found.proven,
        "fault": None if fault is None else {"seq": fault.seq, "detail": fault.told},
    }


def _heads(house: House) -> Iterable[Head]:
    try:
        return known_heads(house.lake)
    except LakeMissing:
        return ()
