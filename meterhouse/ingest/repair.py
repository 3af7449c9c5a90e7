"""Edits of a rejected event's JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from meterhouse.ingest.split import Unparsable, split_exactly


class BadEdit(ValueError):
    """The edit cannot be made; the message says why and what to do."""


def edited(payload: bytes, edits: Sequence[str]) -> bytes:
    """The event with each `path=value` set: dots lead into objects, the value is JSON or, failing that, a text.

    `data.model=atlas-large`; `subject="7"` for a text of digits; `data.user=null` for none. Raises BadEdit.
    """
    try:
        pieces = split_exactly(payload)
    except Unparsable:
        pieces = []
    if len(pieces) != 1 or payload.lstrip()[:1] != b"{":
        raise BadEdit(
            "the kept bytes are not one JSON object, so there is nothing to set: give a whole event by --file"
        )
    event = json.loads(pieces[0], object_pairs_hook=_first_wins)
    for edit in edits:
        path, separator, value = edit.partition("=")
        if not separator or not path:
            raise BadEdit(f"{edit!r} is no edit: write data.model=atlas-large")
        _set(event, path, _value(value))
    return json.dumps(event, ensure_ascii=True, separators=(",", ":")).encode()


def _set(event: dict[str, Any], path: str, value: object) -> None:
    *objects, last = path.split(".")
    inner: Any = event
    for name in objects:
        inner = inner.setdefault(name, {})
        if not isinstance(inner, dict):
            raise BadEdit(f"{path}: {name} is no object: set all of it, or give a whole event by --file")
    inner[last] = value


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _first_wins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Of equal keys the first counts, as it does when the event is judged."""
    return dict(reversed(pairs))
