"""Fields of the control file: from text to value, with every problem told where it stands and what to do."""

from __future__ import annotations

import difflib
import re
import zoneinfo
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, Generic, TypeVar

from meterhouse.ingest.event import MAX_TEXT
from meterhouse.warehouse.control_yaml import Node

T = TypeVar("T")

PICO: Final = 10**12
"""Pico-units in a unit of the currency."""
MAX_PRICE: Final = 1_000_000
"""Units of the currency per million tokens. A price beyond one unit a token is a slip of the unit."""
MAX_LIMIT: Final = 10**15
"""Units of the currency: no budget is larger, and what is larger is a slip of the keyboard."""
FIRST_YEAR: Final = 2000
LAST_YEAR: Final = 9998
"""Nothing was priced before; and in every time zone year 9998 is a time that Python can hold."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER: Final = re.compile(r"-?\d{1,30}(\.\d{1,30})?")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,6})?(Z|z|[+-]\d\d:\d\d)?")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, where, and what to do. `path` is like `rate_card[2].per_million.input`."""

    path: str
    message: str
    line: int | None = None  # in the file, from 1
    about: str = ""  # the entry as people know it: its id, or the model it prices

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.about, self.line and f"line {self.line}") if part)
        return f"{self.path} ({where}) {self.message}" if where else f"{self.path} {self.message}"


@dataclass(frozen=True, slots=True)
class Located(Generic[T]):
    """A value of the file with its place. Not `sound`: a problem was told, and some of it is a placeholder."""

    value: T
    path: str
    line: int | None
    about: str
    sound: bool = True

    def problem(self, message: str, key: str | None = None) -> Problem:
        """A problem of this value, or of its field `key`."""
        return Problem(self.path if key is None else f"{self.path}.{key}", message, self.line, self.about)


class Unfit(Exception):
    """A text is not what its field needs; the message completes "`path` ..."."""


def nearest(word: str, known: Iterable[str]) -> str:
    """(did you mean `x`?)" for the nearest of `known`, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean `{close[0]}`?)" if close else ""


class Entry:
    """One mapping of the file: hands out its values, and writes down what is wrong with them.

    A value that is missing or unfit is told once and comes back as its placeholder, so that all of a file's problems
    are found in one pass.
    """

    def __init__(
        self, node: Node, path: str, known: Sequence[str], problems: list[Problem], about: str | None = None
    ) -> None:
        self.path, self.line = path, node.line
        self._about = _about(node) if about is None else about
        self._problems, self._before = problems, len(problems)
        self.nodes: Mapping[str, Node] = {}
        if isinstance(node.value, dict):
            self.nodes = node.value
        else:
            self.tell(f"is {node.what}: it must be a mapping with {_listed(known)}")
        for key, value in self.nodes.items():
            if key not in known:
                self.tell(f"is not known here{nearest(key, known)}: the keys are {_listed(known)}", key, value.line)

    @property
    def sound(self) -> bool:
        return len(self._problems) == self._before

    def tell(self, message: str, key: str | None = None, line: int | None = None) -> None:
        path = self.path if key is None else (f"{self.path}.{key}" if self.path else key)
        if line is None:
            node = None if key is None else self.nodes.get(key)
            line = self.line if node is None else node.line
        self._problems.append(Problem(path, message, line, self._about))

    def child(self, key: str, known: Sequence[str]) -> Entry:
        """The mapping under `key`, which must be there."""
        return Entry(self.nodes[key], f"{self.path}.{key}", known, self._problems, self._about)

    def each(self, key: str, known: Sequence[str], most: int) -> list[Entry]:
        """The mappings of the list under `key`: at least one, at most `most`."""
        node = self.nodes.get(key)
        if node is None or not isinstance(node.value, list) or not 1 <= len(node.value) <= most:
            self.tell(f"must be a list of {'exactly one' if most == 1 else f'one to {most}'}", key)
            return []
        paths = (f"{self.path}.{key}[{place}]" for place in range(len(node.value)))
        return [
            Entry(item, path, known, self._problems, self._about) for item, path in zip(node.value, paths, strict=True)
        ]

    def located(self, value: T) -> Located[T]:
        """`value`, read from this entry, with its place."""
        return Located(value, self.path, self.line, self._about, self.sound)

    def has(self, key: str) -> bool:
        """Whether the key is there with a value other than null."""
        return key in self.nodes and self.nodes[key].value is not None

    def take(self, key: str, convert: Callable[[str], T], placeholder: T) -> T:
        """A required value."""
        if not self.has(key):
            self.tell("is missing: add it", key)
            return placeholder
        taken = self.maybe(key, convert)
        return placeholder if taken is None else taken

    def maybe(self, key: str, convert: Callable[[str], T]) -> T | None:
        """A value that may be absent or null; None as well when it is unfit."""
        return self._convert(self.nodes[key], key, convert) if self.has(key) else None

    def _convert(self, node: Node, key: str, convert: Callable[[str], T]) -> T | None:
        if not isinstance(node.value, str):
            self.tell(f"is {node.what}: it must be one value", key, node.line)
            return None
        try:
            return convert(node.value)
        except Unfit as error:
            self.tell(str(error), key, node.line)
            return None

    def many(self, key: str, convert: Callable[[str], T], most: int) -> tuple[T, ...]:
        """A list of at most `most` values; absent or null is an empty one."""
        if not self.has(key):
            return ()
        node = self.nodes[key]
        if not isinstance(node.value, list):
            self.tell(f"is {node.what}: it must be a list, like [a, b]", key)
            return ()
        if len(node.value) > most:
            self.tell(f"has {len(node.value)} values: at most {most} are allowed", key)
            return ()
        taken = (self._convert(item, f"{key}[{place}]", convert) for place, item in enumerate(node.value))
        return tuple(value for value in taken if value is not None)


def _about(node: Node) -> str:
    """What an entry of a section is called: its id, or the model it prices and for whom."""
    if not isinstance(node.value, dict):
        return ""
    texts = {key: child.value for key, child in node.value.items() if isinstance(child.value, str)}
    if "id" in texts:
        return texts["id"][:MAX_TEXT]
    named = "/".join(texts[key] for key in ("provider", "model") if key in texts)
    return (f"{named} for {texts['tenant']}" if named and "tenant" in texts else named)[:MAX_TEXT]


def _listed(words: Sequence[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def name(text: str) -> str:
    """An id or a name."""
    if not text or text != text.strip() or not text.isprintable():
        raise Unfit(f"is {text!r}: it needs visible characters, without spaces around them")
    if len(text) > MAX_TEXT:
        raise Unfit(f"has {len(text)} characters: at most {MAX_TEXT} are allowed")
    return text


def one_of(*choices: str) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if text not in choices:
            raise Unfit(f'is "{text}"{nearest(text, choices)}: it must be one of {_listed(choices)}')
        return text

    return convert


def truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise Unfit(f'is "{text}": write true or false')
    return text == "true"


def number(text: str) -> Decimal:
    """An exact decimal in plain digits."""
    if not _NUMBER.fullmatch(text):
        raise Unfit(f'is "{text}": write a number in plain digits, like 2.50 (no exponent, no thousands separator)')
    return Decimal(text)


def price(text: str) -> int:
    """A price per million tokens → pico-units per token, exactly."""
    amount = number(text)
    if amount < 0:
        raise Unfit(f"is {text}: a price is not negative (what is owed to a tenant is a correction, not a price)")
    if amount > MAX_PRICE:
        raise Unfit(f"is {text}: at most {MAX_PRICE} per million tokens is allowed; is it in another unit?")
    pico_per_token = amount * (PICO // 1_000_000)
    if pico_per_token != int(pico_per_token):
        raise Unfit(
            f"is {text}: a price per million tokens has at most six decimals, so that a token costs a whole number of "
            "pico-units and bills add up exactly; round it to six decimals"
        )
    return int(pico_per_token)


def money(text: str) -> int:
    """An amount above zero → pico-units."""
    amount = number(text)
    if not 0 < amount <= MAX_LIMIT:
        raise Unfit(f"is {text}: it must be above 0 and at most {MAX_LIMIT}")
    pico = amount * PICO
    if pico != int(pico):
        raise Unfit(f"is {text}: money has at most twelve decimals")
    return int(pico)


def whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number of [low, high]."""

    def convert(text: str) -> int:
        amount = number(text)
        if amount != int(amount) or not low <= amount <= high:
            raise Unfit(f"is {text}: it must be a whole number from {low} to {high}")
        return int(amount)

    return convert


def share(text: str) -> Decimal:
    """A share strictly between 0 and 1, of at most six decimals."""
    amount = number(text)
    if not 0 < amount < 1:
        raise Unfit(f"is {text}: it must lie between 0 and 1, both excluded; 99.9 percent is 0.999")
    if amount * 10**6 != int(amount * 10**6):
        raise Unfit(f"is {text}: at most six decimals are allowed")
    return amount


def time_us(text: str) -> int:
    """An RFC 3339 time with its zone → microseconds since the epoch, UTC."""
    found = _TIME.fullmatch(text)
    if not found:
        raise Unfit(f'is "{text}": write a time with its zone, like 2026-01-01T00:00:00Z')
    if not found[2]:
        raise Unfit(f'is "{text}" and names no time zone: add Z for UTC, or an offset like +01:00')
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError as error:
        raise Unfit(f'is "{text}", which is no time: {error}') from None
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise Unfit(f'is "{text}": the year must be from {FIRST_YEAR} to {LAST_YEAR}')
    return (moment - _EPOCH) // timedelta(microseconds=1)


def time_text(at_us: int) -> str:
    """Microseconds since the epoch → RFC 3339 in UTC, as reports print times."""
    return (_EPOCH + timedelta(microseconds=at_us)).isoformat().replace("+00:00", "Z")


def time_zone(text: str) -> str:
    """The name of an IANA time zone."""
    try:
        zoneinfo.ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        hint = nearest(text, zoneinfo.available_timezones())
        raise Unfit(f'is "{text}", which is no IANA time zone (like Europe/Berlin or UTC){hint}') from None
    return text
