"""Event types of foreign clients: from the control file, to the diff, to and from their table. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from meterhouse.ingest.event import EVENT_TYPES, MAX_TEXT, STATUSES
from meterhouse.ingest.formats.event_types import BUILT_IN, FIELDS, KINDS, MAX_SOURCES, EventType
from meterhouse.ingest.formats.paths import PathError, is_path, steps
from meterhouse.warehouse.control_fields import Entry, Located, Problem, Unfit, name, nearest
from meterhouse.warehouse.control_yaml import Node

MAX_FIELD_TEXT: Final = 1_000
"""Of one path: eight steps with names of 120 characters."""
_NEEDED: Final = ("application", "model")
_BUILT_IN: Final = {built_in.type for built_in in BUILT_IN}


def event_type(node: Node, path: str, problems: list[Problem]) -> Located[EventType]:
    """An entry of `event_types`: a type, and for each field a path, a constant, or a list of them."""
    about = node.value.get("type") if isinstance(node.value, dict) else None
    label = about.value[:MAX_TEXT] if about is not None and isinstance(about.value, str) else ""
    entry = Entry(node, path, ("type", *FIELDS), problems, label)
    type_ = entry.take("type", _foreign, "")
    sources = {field: of for field in FIELDS if (of := _sources(entry, field))}
    if type_ and type_ not in _BUILT_IN:
        sources.setdefault("tenant", ("$.subject",))
        for field in _NEEDED:
            if not entry.has(field):
                entry.tell(
                    "is missing: say where it stands in the event, like $.data.model, or write a constant", field
                )
    return entry.located(EventType(type_, sources))


def event_type_fields(type_: EventType) -> dict[str, str | None]:
    """For the diff."""
    return {field: ", ".join(type_.sources[field]) if field in type_.sources else None for field in FIELDS}


def event_type_row(type_: EventType, place: int) -> dict[str, Any]:
    return {"id": type_.type, "place": place, "sources": {field: list(of) for field, of in type_.sources.items()}}


def stored_event_type(row: Mapping[Any, Any]) -> EventType:
    return EventType(row["id"], {field: tuple(of) for field, of in row["sources"].items()})


def _foreign(text: str) -> str:
    if text in EVENT_TYPES:
        raise Unfit(f'is "{text}", which is a type of our own: its events are read as they are')
    return name(text)


def _sources(entry: Entry, field: str) -> tuple[str, ...]:
    def source(text: str) -> str:
        return _source(field, text)

    if not entry.has(field):
        return ()
    if isinstance(entry.nodes[field].value, list):
        return entry.many(field, source, MAX_SOURCES)
    one = entry.maybe(field, source)
    return () if one is None else (one,)


def _source(field: str, text: str) -> str:
    """A path, or a constant that the field may have."""
    if is_path(text):
        if len(text) > MAX_FIELD_TEXT:
            raise Unfit(f"has {len(text)} characters: a path has at most {MAX_FIELD_TEXT}")
        try:
            steps(text)
        except PathError as wrong:
            raise Unfit(str(wrong)) from None
        return text
    match KINDS[field]:
        case "count" | "http_status":
            if not (text.isascii() and text.isdigit() and len(text) <= 12):
                raise Unfit(f'is "{text}": write a path like $.data.tokens, or a whole number')
        case "flag":
            if text not in ("true", "false"):
                raise Unfit(f'is "{text}": write a path like $.data.stream, or true or false')
        case "status":
            if text not in STATUSES:
                known = ", ".join(f"`{status}`" for status in STATUSES)
                raise Unfit(f'is "{text}"{nearest(text, STATUSES)}: write a path like $.data.status, or one of {known}')
        case _:
            name(text)
    return text
