"""CloudEvents of any type, as OpenMeter's clients send them → ours.

An event of a type of ours is passed on byte for byte. One of a type that an event type names is translated. Of any
other only this is kept, to be rejected as `unknown_type`: its attributes, the numbers of its `data`, and the texts
there that have the name of a field of ours. A foreign text may be a prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

import msgspec

from meterhouse.ingest.event import EVENT_TYPES, MAX_TEXT, REQUEST_TYPE
from meterhouse.ingest.fields import REQUEST_FIELDS
from meterhouse.ingest.formats.event_types import DOCUMENTS
from meterhouse.ingest.formats.translate import (
    Stamp,
    Terms,
    Told,
    count_of,
    parse,
    text_of,
    time_text,
    usage_event,
    withheld,
)

ATTRIBUTES: Final = ("specversion", "id", "source", "type", "subject", "time")
MAX_KEPT: Final = 64
"""Members of `data` that are kept of an event of an unknown type."""

_TEXTS: Final = frozenset(entry.name for entry in REQUEST_FIELDS if entry.kind in ("name", "status"))
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def translated(payload: bytes, terms: Terms, stamp: Stamp) -> bytes:
    """One event, as JSON. The bytes must be one JSON value (`split`)."""
    try:
        document = parse(payload.decode())
    except (ValueError, RecursionError):
        return msgspec.json.encode("(an event that is not JSON, withheld)")
    if not isinstance(document, dict):
        return msgspec.json.encode("(an event that is no object, withheld)")
    name = document.get("type")
    if name in EVENT_TYPES:
        return payload
    type_ = terms.types.get(name) if isinstance(name, str) and name not in DOCUMENTS else None
    if type_ is None or document.get("specversion") != "1.0" or not isinstance(document.get("data"), dict):
        return msgspec.json.encode(_kept(document, type_ is not None, stamp.arrived_us))
    told = Told(document.get("id"), document.get("source"), document.get("time"))
    return usage_event(document, type_, told, terms, stamp)


def _kept(document: Mapping[str, object], known: bool, arrived_us: int) -> dict[str, object]:
    event = {name: text_of(document.get(name)) for name in ATTRIBUTES}
    if known:
        # It is rejected for what it is, not for its type.
        event |= {"foreigntype": event["type"], "type": REQUEST_TYPE, "time": event["time"] or time_text(arrived_us)}
    data = document.get("data")
    if isinstance(data, dict):
        event["data"] = _numbers_and_names(data)
    elif data is not None:
        event["data"] = "(withheld: it is no JSON object)"
    return {name: value for name, value in event.items() if value is not None}


def _numbers_and_names(data: Mapping[str, object]) -> dict[str, object]:
    kept: dict[str, object] = {}
    for name, value in data.items():
        if len(kept) == MAX_KEPT or not _NAME.fullmatch(name):
            continue
        if isinstance(value, bool):
            kept[name] = value
        elif isinstance(value, int | Decimal):
            whole = count_of(value)
            kept[name] = whole if isinstance(whole, int) else msgspec.Raw(json.dumps(str(value)[:MAX_TEXT]).encode())
        elif name in _TEXTS:
            kept[name] = text_of(value)
        elif value is not None:
            kept[name] = withheld("it may be free text")
    return kept
