"""From a foreign document to our own CloudEvent, before the log: the meter knows one format.

Only what an event type names is read, so no text of a prompt, answer, e-mail or address gets in: texts are short names,
an e-mail address is never one, and a value that does not fit its field is *withheld*: an object that says so stands in
its place, which the meter rejects. What can be translated in part is sent on in part, and rejected there with its
reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Final

import msgspec

from meterhouse.ingest.event import REQUEST_TYPE, STATUSES
from meterhouse.ingest.fields import REQUEST_FIELDS, Field
from meterhouse.ingest.formats.event_types import TENANT, EventType
from meterhouse.ingest.formats.paths import is_path, look_up
from meterhouse.ingest.validate import parse_time, strict_decoder, text_fault

UNKNOWN_PROVIDER: Final = "unknown"
"""Where a client names none and the rate card has the model of several or of none: such an event is unpriced."""
WITHHELD_TENANT: Final = "(an e-mail address, withheld)"
TOO_MANY_REQUESTS: Final = 429
CLIENT_CLOSED_REQUEST: Final = 499
_FIRST_ERROR: Final = 400

_STATUS_WORDS: Final[Mapping[str, str]] = {
    **{status: status for status in STATUSES},
    "success": "ok",
    "succeeded": "ok",
    "failure": "error",
    "failed": "error",
    "cancelled": "aborted",
    "canceled": "aborted",
    "rate_limited": "throttled",
}
_EMAIL: Final = re.compile(r"[^\s@<>]+@[\w-]+(\.[\w-]+)*\.[A-Za-z]{2,}")
_WORD: Final = re.compile(r"[A-Za-z_]{1,32}")
_WHOLE: Final = re.compile(r"\d{1,19}", re.ASCII)
_INT64: Final = 2**63
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_US: Final = 253_402_300_799_999_999
"""The end of year 9999."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What translation goes by, of one version of control data."""

    types: Mapping[str, EventType]
    tenants: frozenset[str] | None  # those that are known; None: anyone's events are taken
    models: frozenset[tuple[str, str]]  # (provider, model) of the rate card
    providers: Mapping[str, tuple[str, ...]]  # of each model of it


def terms(types: Mapping[str, EventType], tenants: frozenset[str] | None, models: Iterable[tuple[str, str]]) -> Terms:
    providers: dict[str, list[str]] = {}
    pairs = frozenset(models)
    for provider, model in sorted(pairs):
        providers.setdefault(model, []).append(provider)
    return Terms(types, tenants, pairs, {model: tuple(of) for model, of in providers.items()})


@dataclass(frozen=True, slots=True)
class Stamp:
    """What is known of a document from whoever sent it: the one tenant, and application, that they publish for."""

    arrived_us: int
    tenant: str | None = None
    application: str | None = None
    takes: Callable[[str, str], bool] = lambda tenant, application: True  # whether they publish for these


@dataclass(frozen=True, slots=True)
class Told:
    """What a format tells by itself. `time`: RFC 3339, or None where it tells none: then it is the arrival."""

    id: object
    source: object
    time: object = None
    data: Mapping[str, object] = field(default_factory=dict)


def parse(text: str) -> object:
    """A foreign document; fractions are Decimal, to the last digit. Raises ValueError."""
    return _DOCUMENT.decode(text)


def usage_event(document: object, type_: EventType, told: Told, terms: Terms, stamp: Stamp) -> bytes:
    """The CloudEvent of a foreign document, as JSON; sound or not, which the meter decides."""
    sources = type_.sources
    data: dict[str, object] = {}
    for entry in REQUEST_FIELDS:
        if entry.name in ("model", "provider", "labels"):
            continue
        value = _chosen(entry, document, sources.get(entry.name, ()))
        value = told.data.get(entry.name) if value is None else value
        if value is not None:
            data[entry.name] = value
    if stamp.application is not None:
        data["application"] = stamp.application
    data["status"] = _status(data.get("status"), data.get("http_status"))
    provider, model = _model(document, sources, terms)
    data |= {name: value for name, value in (("provider", provider), ("model", model)) if value is not None}
    if labels := told.data.get("labels"):
        data["labels"] = labels
    tenant, application = stamp.tenant or _tenant(document, sources.get(TENANT, ()), terms), data.get("application")
    if isinstance(tenant, str) and not stamp.takes(tenant, application if isinstance(application, str) else ""):
        # As a claim it would have the whole body refused, which these clients never send again.
        tenant = withheld("it is no tenant or application that this caller publishes for")
    event = {
        "specversion": "1.0",
        "type": REQUEST_TYPE,
        "id": text_of(told.id),
        "source": text_of(told.source),
        "subject": tenant,
        "time": _time(told.time, stamp),
        "data": data,
    }
    return msgspec.json.encode({name: value for name, value in event.items() if value is not None})


def withheld(why: str) -> dict[str, str]:
    """What stands in place of a value that is not kept: of a type that no field has."""
    return {"withheld": why}


def text_of(value: object) -> object:
    """A name's text: None where there is none, or an e-mail address; withheld where it is no name."""
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        return withheld("it is no text")
    if fault := text_fault(value):
        return withheld(f"it {fault}")
    return None if _EMAIL.search(value) else value


def count_of(value: object) -> object:
    """A whole number, however a client writes it: 12, 12.0 or "12"; None where there is none."""
    match value:
        case None:
            return None
        case bool():
            return withheld("it is no whole number")
        case Decimal() if value.is_finite() and abs(value.adjusted()) < 19 and value == int(value):
            value = int(value)
        case str() if _WHOLE.fullmatch(value):
            value = int(value)
    if isinstance(value, int) and abs(value) < _INT64:
        return value
    return withheld("it is no whole number of 64 bits")


def microseconds(value: object, per_unit: int = 1_000_000) -> int | None:
    """A time or duration in seconds (or units of `per_unit` microseconds), rounded down; None where it is none."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = Decimal(value)
    if not isinstance(value, Decimal) or not value.is_finite() or value.adjusted() > 12:
        return None
    exact = value * per_unit
    return int(exact) - (exact < int(exact))


def time_text(at_us: int) -> object:
    """Microseconds since 1970 as RFC 3339 in UTC."""
    if not 0 <= at_us <= _LAST_US:
        return withheld("it is no time of this age")
    return (_EPOCH + timedelta(microseconds=at_us)).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def found(document: object, sources: Iterable[str]) -> Iterator[object]:
    """What stands at each source, in order; None where nothing does."""
    return (look_up(document, source) if is_path(source) else source for source in sources)


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:  # of an exponent beyond Decimal's
        return Decimal("NaN")


_DOCUMENT: Final = strict_decoder(_decimal)


def _chosen(entry: Field, document: object, sources: Iterable[str]) -> object:
    """The first value that fits; failing that, a withheld one; None where there is nothing."""
    unfit = None
    for value in found(document, sources):
        fitted = _fitted(entry, value)
        if not isinstance(fitted, dict):
            if fitted is not None:
                return fitted
        elif unfit is None:
            unfit = fitted
    return unfit


def _fitted(entry: Field, value: object) -> object:
    match entry.kind:
        case "count" | "http_status":
            return count_of(value)
        case "flag":
            if value is None or isinstance(value, bool):
                return value
            return value == "true" if value in ("true", "false") else withheld("it is neither true nor false")
        case "status":
            word = text_of(value)
            if not isinstance(word, str):
                return word
            return word if _WORD.fullmatch(word) else withheld("it is no word")
    return text_of(value)


def _status(word: object, http_status: object) -> object:
    """One of ours, by a client's word for it and by the HTTP status; another word stays, and is rejected."""
    status = word if isinstance(word, dict) else _STATUS_WORDS.get(str(word).lower(), word)
    failed = isinstance(http_status, int) and http_status >= _FIRST_ERROR
    if status in (None, "error") and failed:
        return {TOO_MANY_REQUESTS: "throttled", CLIENT_CLOSED_REQUEST: "aborted"}.get(int(str(http_status)), "error")
    return "ok" if status is None else status


def _tenant(document: object, sources: Iterable[str], terms: Terms) -> object:
    """The first that is known; failing that the first claim, for which the event is rejected."""
    values = [value for value in found(document, sources) if value not in (None, "")]
    claims = [text_of(value) for value in values]
    known = [claim for claim in claims if isinstance(claim, str) and (terms.tenants is None or claim in terms.tenants)]
    if known:
        return known[0]
    claim = next((claim for claim in claims if claim is not None), None)
    if claim is None and values:
        # Without strict tenants a text would do as one.
        return WITHHELD_TENANT if terms.tenants is not None else withheld("it is an e-mail address")
    return claim


def _model(document: object, sources: Mapping[str, tuple[str, ...]], terms: Terms) -> tuple[object, object]:
    """(provider, model) by the rate card's names where it has them. LiteLLM writes a model as `openai/gpt-4o` here and
    as `gpt-4o` there; who names no provider means the one that the rate card has for the model."""
    candidates = [text_of(value) for value in found(document, sources.get("model", ()))]
    models = [model for model in candidates if isinstance(model, str)]
    provider = next((text for value in found(document, sources.get("provider", ())) if (text := text_of(value))), None)
    if isinstance(provider, dict) or not models:
        return provider or UNKNOWN_PROVIDER, next((model for model in candidates if model is not None), None)
    pairs = [pair for model in models for pair in _readings(model, provider, terms)]
    priced = (pair for pair in pairs if pair in terms.models)
    return next(priced, pairs[0] if pairs else (provider or UNKNOWN_PROVIDER, models[0]))


def _readings(model: str, provider: object, terms: Terms) -> Iterator[tuple[str, str]]:
    if isinstance(provider, str):
        yield provider, model.removeprefix(f"{provider}/") or model
        yield provider, model
        return
    owners = terms.providers.get(model, ())
    if len(owners) == 1:
        yield owners[0], model
    head, slash, rest = model.partition("/")
    if slash and head and rest:
        yield head, rest


def _time(value: object, stamp: Stamp) -> object:
    if value is None or value == "":
        return time_text(stamp.arrived_us)
    return value if isinstance(value, str) and parse_time(value) is not None else withheld("it is no time")
