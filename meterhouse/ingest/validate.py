"""What a sound usage event is: the exact rules, one event at a time.

This is the definition. `columns.py` reads the same events many at a time and may accept only what this module accepts,
with the same values; whatever it is not sure of comes here.

Decided here, once:
- **Text** is UTF-8. A record is JSON as RFC 8259 has it; of two equal keys in an object the first counts.
- `null` is the same as absent. An empty text is the same as absent, so a required one is missing.
- A text is 1 to MAX_TEXT characters without control characters (they break catalogues, exports and terminals) and
  without lone surrogates (they are no text).
- A count is a JSON integer: `1.0`, `1e3` and `"12"` are of the wrong type, however close they look.
- Unknown attributes and fields are ignored and never stored. `datacontenttype` is one of them: `data` must be a JSON
  object, whatever is said about it.
- A `time` is RFC 3339 with a zone and any number of digits, floored to microseconds. A leap second is refused: UTC in
  microseconds since 1970 has no place for it.
- `NaN` and `Infinity` are not JSON, but many writers emit them: in an array they reject their own event alone.
- `status` of a request is required: whether it is billed depends on it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final, NoReturn

from meterhouse.ingest.batch import Reason
from meterhouse.ingest.event import (
    EVENT_TYPES,
    MAX_COUNT,
    MAX_EVENT_BYTES,
    MAX_LABEL_TEXT,
    MAX_LABELS,
    MAX_TEXT,
    STATUSES,
    TOKEN_KINDS,
    WIRE_TOKEN_COUNTS,
    Lateness,
)
from meterhouse.ingest.fields import FIELDS, HTTP_STATUSES, Field


@dataclass(frozen=True, slots=True)
class Sound:
    """An event that may be metered. `row` has every column of EVENT_SCHEMA but the place in the log and the arrival."""

    tenant: str
    row: dict[str, object]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an event is refused; `tenant` as it claims, None if it makes no usable claim."""

    reason: Reason
    detail: str
    tenant: str | None


@dataclass(frozen=True, slots=True)
class Rules:
    """What is judged besides the event itself: its record's append time, the known tenants (None: any), lateness."""

    arrived_us: int
    tenants: Collection[str] | None = None
    lateness: Lateness = field(default_factory=Lateness)


class _Refused(Exception):
    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(detail)


class _Inexact:
    """A JSON number with a fraction or an exponent; its value is never used."""


def event_key(tenant: str, source: str, id_: str) -> bytes:
    """The dedupe key of (tenant, source, id): 16 bytes.

    MD5(MD5(byte length of tenant ":" tenant source) id). The length makes the inner text one-to-one, the inner
    digest's fixed size the outer one; two levels because an inner digest is shared by all events of a gateway.
    """
    return hashlib.md5(pair_digest(tenant, source) + id_.encode(), usedforsecurity=False).digest()


@lru_cache(16_384)  # pairs of a meter's partitions; 2 MB
def pair_digest(tenant: str, source: str) -> bytes:
    """The inner half of `event_key`."""
    claimed = tenant.encode()
    return hashlib.md5(b"%d:%b%b" % (len(claimed), claimed, source.encode()), usedforsecurity=False).digest()


def judge(payload: bytes, rules: Rules) -> Sound | Refusal:
    """Decides about one event's bytes. Never raises; nesting must be bounded before (`split`)."""
    claimed: str | None = None
    try:
        if len(payload) > MAX_EVENT_BYTES:
            raise _Refused(
                Reason.TOO_LARGE,
                f"The event has {len(payload)} bytes, the limit is {MAX_EVENT_BYTES}: send counts, never prompt or "
                "completion text.",
            )
        event = _load(payload)
        claimed = claimed_tenant(event)
        kind, source, id_ = _identity(event)
        tenant = _tenant(event)
        time_us = _time(event)
        row: dict[str, object] = {"type": kind, "source": source, "tenant": tenant, "time": time_us}
        row.update(_data(event, FIELDS[kind]))
        _judge_time(time_us, rules)
    except _Refused as refused:
        return Refusal(refused.reason, refused.detail, claimed)
    if rules.tenants is not None and tenant not in rules.tenants:
        detail = f"The tenant {show(tenant)} is unknown: add it to the control file, or correct `subject`."
        return Refusal(Reason.UNKNOWN_TENANT, detail, claimed)
    row["key"] = event_key(tenant, source, id_)
    return Sound(tenant, row)


def check(payload: bytes, rules: Rules) -> Refusal | None:
    """None if the event would be metered when it arrived now, at `rules.arrived_us`; otherwise why not."""
    verdict = judge(payload, rules)
    return verdict if isinstance(verdict, Refusal) else None


def claimed_tenant(event: object) -> str | None:
    """The tenant that an event's JSON names, sound or not; None if it names none that could be one."""
    subject = event.get("subject") if isinstance(event, dict) else None
    return subject if isinstance(subject, str) and text_fault(subject) is None else None


def text_fault(text: str) -> str | None:
    """What is wrong with a name's text, None if nothing is. The empty text is judged by the caller."""
    if not text:
        return "is empty"
    if len(text) > MAX_TEXT:
        return f"has {len(text)} characters, the limit is {MAX_TEXT}"
    if _UNFIT.search(text):
        return "has a control character or half of a surrogate pair in it"
    return None


def canonical_labels(labels: object) -> str | None:
    """Labels as the text that is stored: JSON with sorted keys, no spaces; None for no labels. Raises ValueError."""
    if labels is None or labels == {}:
        return None
    if not isinstance(labels, Mapping):
        raise ValueError(f"must be an object of texts, it is {_type_name(labels)}")
    if len(labels) > MAX_LABELS:
        raise ValueError(f"has {len(labels)} pairs, the limit is {MAX_LABELS}")
    for key, value in labels.items():
        for text in (key, value):
            if not isinstance(text, str):
                raise ValueError(f"must hold texts only, {show(key)} is {_type_name(text)}")
            if len(text) > MAX_LABEL_TEXT or _UNFIT.search(text) or not key:
                raise ValueError(
                    f"must hold short texts: {show(text)} is empty, has more than {MAX_LABEL_TEXT} characters, a "
                    "control character or half of a surrogate pair"
                )
    return json.dumps(labels, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def parse_time(text: str) -> int | None:
    """RFC 3339 with a zone → microseconds since 1970 UTC, floored; None if it is anything else."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = map(int, match.groups()[:6])
    fraction, sign, hours, minutes = match.groups()[6:]
    if sign and (int(hours) > 23 or int(minutes) > 59):
        return None
    try:
        local = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None
    micros = (local - _EPOCH) // timedelta(microseconds=1) + int((fraction or "")[:6].ljust(6, "0"))
    offset_minutes = int(hours) * 60 + int(minutes) if sign else 0
    return micros - (-1 if sign == "-" else 1) * offset_minutes * 60_000_000


def parse_json(text: str) -> object:
    """JSON text → Python, the first of equal keys kept, numbers exact or `_Inexact`. Raises ValueError."""
    return _STRICT.decode(text)


def show(value: object) -> str:
    """A short, printable, ASCII picture of a value for a message."""
    if not isinstance(value, str | int):
        return _type_name(value)
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNFIT: Final = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_TIME: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})"
    r"(?:\.([0-9]+))?(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _integer(text: str) -> int:
    """Any integer beyond 18 digits is out of every range here, and a long one would cost much or be refused by int."""
    return int(text) if len(text) <= 19 else (-(10**20) if text[0] == "-" else 10**20)


def _first_wins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    return dict(reversed(pairs))


def strict_decoder(parse_float: Callable[[str], object]) -> json.JSONDecoder:
    """JSON as `parse_json` reads it; a number with a fraction or an exponent becomes what `parse_float` makes of it."""
    return json.JSONDecoder(
        object_pairs_hook=_first_wins, parse_constant=_refuse_constant, parse_int=_integer, parse_float=parse_float
    )


_STRICT: Final = strict_decoder(lambda _: _Inexact())


def _load(payload: bytes) -> dict[str, object]:
    try:
        event = parse_json(payload.decode())
    except (ValueError, RecursionError) as error:
        raise _Refused(Reason.NOT_JSON, f"The event is not JSON ({error}): write it with a JSON library.") from None
    if not isinstance(event, dict):
        detail = f"An event is a JSON object, this is {_type_name(event)}: see CloudEvents 1.0, JSON format."
        raise _Refused(Reason.NOT_A_CLOUDEVENT, detail)
    return event


def _identity(event: Mapping[str, object]) -> tuple[str, str, str]:
    """(type, source, id), or not a CloudEvent that we know."""
    if event.get("specversion") != "1.0":
        detail = f'`specversion` must be the text "1.0", it is {show(event.get("specversion"))}: send CloudEvents 1.0.'
        raise _Refused(Reason.NOT_A_CLOUDEVENT, detail)
    for name in ("id", "source", "type"):
        value = event.get(name)
        if not isinstance(value, str) or not value:
            detail = f"A CloudEvent needs `{name}` as a text that is not empty, it is {show(value)}."
            raise _Refused(Reason.NOT_A_CLOUDEVENT, detail)
    kind = str(event["type"])
    if kind not in EVENT_TYPES:
        known = ", ".join(EVENT_TYPES)
        raise _Refused(Reason.UNKNOWN_TYPE, f"The type {show(kind)} is unknown here: send one of {known}.")
    return kind, _text("source", event["source"]) or "", _text("id", event["id"]) or ""


def _tenant(event: Mapping[str, object]) -> str:
    tenant = _text("subject", event.get("subject"))
    if tenant is None:
        raise _Refused(Reason.MISSING_FIELD, "`subject` is missing: set it to the tenant's id.")
    return tenant


def _time(event: Mapping[str, object]) -> int:
    value = event.get("time")
    if value is None or value == "":
        raise _Refused(Reason.MISSING_FIELD, "`time` is missing: set it to when the request ended, RFC 3339.")
    time_us = parse_time(value) if isinstance(value, str) else None
    if time_us is None:
        detail = f"`time` is {show(value)}: write RFC 3339 with a zone, like 2026-01-31T12:00:00.123456Z."
        raise _Refused(Reason.BAD_TIME, detail)
    return time_us


def _judge_time(time_us: int, rules: Rules) -> None:
    if time_us > rules.arrived_us + rules.lateness.ahead_us:
        seconds = (time_us - rules.arrived_us) // 1_000_000
        detail = f"`time` is {seconds} s after the event's arrival: set the sender's clock, and write UTC."
        raise _Refused(Reason.TOO_EARLY, detail)
    if time_us < rules.arrived_us - rules.lateness.behind_us:
        seconds = (rules.arrived_us - time_us) // 1_000_000
        limit = rules.lateness.behind_us // 1_000_000
        detail = f"`time` is {seconds} s before the event's arrival, the limit is {limit} s: its books may be closed."
        raise _Refused(Reason.TOO_LATE, detail)


def _data(event: Mapping[str, object], fields: tuple[Field, ...]) -> dict[str, object]:
    """The columns that come from `data`."""
    data = event.get("data")
    if data is None:
        detail = "`data` is missing: it is the JSON object with model, tokens and so on (not `data_base64`)."
        raise _Refused(Reason.MISSING_FIELD, detail)
    if not isinstance(data, dict):
        raise _Refused(Reason.WRONG_TYPE, f"`data` must be a JSON object, it is {_type_name(data)}.")
    values = {entry.name: _value(entry, data.get(entry.name)) for entry in fields}
    for entry in fields:
        if entry.required and values[entry.name] is None:
            raise _Refused(Reason.MISSING_FIELD, f"`data.{entry.name}` is missing: every {event['type']} needs it.")
    counts: dict[str, int] = {}
    for name in WIRE_TOKEN_COUNTS:
        count = values.pop(name)
        counts[name] = count if isinstance(count, int) else 0
    return {**values, **_disjoint(counts)}


def _value(entry: Field, value: object) -> object:
    """A field's value as it is stored; None if absent."""
    name = f"data.{entry.name}"
    if value is None:
        return None
    if entry.kind in ("name", "text", "status"):
        text = _text(name, value)
        if entry.kind == "status" and text is not None and text not in STATUSES:
            detail = f"`{name}` is {show(text)}: send one of {', '.join(STATUSES)}."
            raise _Refused(Reason.BAD_STATUS, detail)
        return text
    if entry.kind == "flag":
        if not isinstance(value, bool):
            raise _Refused(Reason.WRONG_TYPE, f"`{name}` must be true or false, it is {_type_name(value)}.")
        return value
    if entry.kind == "labels":
        try:
            return canonical_labels(value)
        except ValueError as error:
            raise _Refused(Reason.WRONG_TYPE, f"`{name}` {error}.") from None
    return _number(entry, name, value)


def _number(entry: Field, name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _Refused(Reason.WRONG_TYPE, f"`{name}` must be a whole JSON number like 12, it is {_type_name(value)}.")
    if entry.kind == "http_status" and value not in HTTP_STATUSES:
        raise _Refused(Reason.BAD_STATUS, f"`{name}` is {show(value)}: send three digits, or leave it out.")
    if not 0 <= value <= MAX_COUNT:
        detail = f"`{name}` is negative or over {MAX_COUNT} (2^40): correct the count at its source."
        raise _Refused(Reason.COUNT_OUT_OF_RANGE, detail)
    return value


def _disjoint(counts: Mapping[str, int]) -> dict[str, int]:
    """Inclusive wire counts → disjoint token kinds (TOKEN_KINDS)."""
    kinds: dict[str, int] = {}
    for kind in TOKEN_KINDS:
        parts = sum(counts[name] for name in kind.less)
        whole = counts[kind.counted_in]
        if parts > whole:
            names = " + ".join(kind.less)
            reason = Reason.CACHE_EXCEEDS_INPUT if kind.name == "input" else Reason.REASONING_EXCEEDS_OUTPUT
            detail = f"{names} is {parts}, more than {kind.counted_in} {whole}: {kind.counted_in} includes its parts."
            raise _Refused(reason, detail)
        kinds[kind.tokens] = whole - parts
    return kinds


def _text(name: str, value: object) -> str | None:
    """A name's text; None if absent or empty."""
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise _Refused(Reason.WRONG_TYPE, f"`{name}` must be a text, it is {_type_name(value)}.")
    fault = text_fault(value)
    if fault is not None:
        raise _Refused(Reason.WRONG_TYPE, f"`{name}` {fault}: it is a key of groups, not content.")
    return value


def _type_name(value: object) -> str:
    match value:
        case None:
            return "missing"
        case bool():
            return "true or false"
        case int():
            return "a number"
        case _Inexact():
            return "a number with a fraction or an exponent"
        case str():
            return "a text"
        case list():
            return "an array"
        case _:
            return "an object"
