"""Records → the bytes of their events. A record is one event (a JSON object) or many (an array)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Final, NoReturn, cast

import msgspec
import numpy as np

from meterhouse.ingest.validate import claimed_tenant, parse_json

Piece = bytes | msgspec.Raw
"""One event's bytes."""

MAX_DEPTH: Final = 500
"""Nesting of a record's JSON. A usage event has a depth of 3; parsers recurse, and the interpreter allows about 1,000
calls, some of them taken by whoever calls us: without a limit of our own the verdict would depend on them."""

SURELY_SHALLOW_BYTES: Final = 2 * MAX_DEPTH - 2
"""An element of so few bytes, in an array, can't be deeper than MAX_DEPTH: each level takes two brackets."""


class Unparsable(ValueError):
    """The bytes are not a JSON object or array; the message says where and what to do."""


class Splitter:
    """Splits records; holds the compiled readers, which keep nothing between two calls."""

    def __init__(self) -> None:
        self._array = msgspec.json.Decoder(list[msgspec.Raw])
        self._single = msgspec.json.Decoder(msgspec.Raw)

    def split(self, value: bytes) -> Sequence[Piece] | None:
        """The events of a record's bytes, all strict JSON; None where `split_exactly` must decide."""
        try:
            if value[:1] == b"[":
                pieces: Sequence[Piece] = self._array.decode(value)
            elif value[:1] == b"{":
                pieces = (self._single.decode(value),)
            else:
                return None
            # msgspec checks everything but the UTF-8 of what it skips.
            if not value.isascii():
                value.decode()
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return pieces

    def are_single(self, values: Sequence[bytes | None]) -> bool:
        """Whether each of these records is surely one event, `split` to itself; at least one record.

        They are read as one array, which costs a third of reading them one by one. Where its elements are as long as
        the records, in order, each element is its record, byte for byte.
        """
        if None in values or (values[0] or b"")[:1] != b"{":
            return False
        joined = b"[" + b",".join(cast("Sequence[bytes]", values)) + b"]"
        ends = np.cumsum(np.fromiter(map(len, cast("Sequence[bytes]", values)), np.int64, len(values)) + 1)
        starts = np.concatenate(([0], ends[:-1])) + 1
        # An empty record begins at a comma or at the array's end.
        if (np.frombuffer(joined, np.uint8)[starts] != ord("{")).any():
            return False
        try:
            found = self._array.decode(joined)
            if not joined.isascii():
                joined.decode()
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return False
        return len(found) == len(values) and list(map(len, found)) == list(map(len, cast("Sequence[bytes]", values)))

    def is_strict(self, piece: bytes) -> bool:
        """Whether a piece from `split_exactly` is JSON to the letter: no NaN, Infinity or lone surrogate in it."""
        try:
            self._single.decode(piece)
        except (msgspec.DecodeError, RecursionError):
            return False
        return True


def is_deep(piece: Piece) -> bool:
    """Whether an event may be nested too deeply: only then `split_exactly` has to look."""
    text = bytes(piece)
    return text.count(b"[") + text.count(b"{") >= MAX_DEPTH


def split_exactly(value: bytes) -> list[bytes]:
    """The events of a record's bytes. An empty array holds none. Raises Unparsable.

    Elements that are not objects come back as they are, as do NaN, Infinity and lone surrogates: `judge` decides about
    their event alone. A byte order mark is skipped. `Splitter` is a fast way to the same answer.
    """
    try:
        text = value.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        _refuse(f"byte {error.start} is not UTF-8")
    if depth(text) > MAX_DEPTH:
        _refuse(f"it is nested more than {MAX_DEPTH} deep")
    start = _after_space(text, 0)
    if text[start : start + 1] == "{":
        end = _element(text, start)
        _expect_end(text, end)
        return [text[start:end].encode()]
    if text[start : start + 1] != "[":
        _refuse("it is not a JSON object or array")
    return _elements(text, start)


def split(body: bytes) -> list[tuple[str | None, bytes]]:
    """(tenant as claimed, bytes) of each event in a body, for keying. Raises Unparsable.

    The tenant is None where the event names none; `check` says why such an event is refused. `split_exactly` and
    `claimed` define the answer. Compiled readers go over the body twice, and only what they leave a doubt about is made
    into Python values.
    """
    found = _SPLITTER.split(body)
    pieces = None if found is None else list(map(bytes, found))
    if pieces is None or any(len(piece) > SURELY_SHALLOW_BYTES and is_deep(piece) for piece in pieces):
        return [(claimed(piece), piece) for piece in split_exactly(body)]
    try:
        claims = _CLAIMS.decode(body) if body[:1] == b"[" else [_CLAIM.decode(body)]
    except (msgspec.DecodeError, RecursionError):  # an element is no object
        return [(claimed(piece), piece) for piece in pieces]
    return _keyed(claims, pieces)


def claimed(piece: bytes) -> str | None:
    """The tenant that an event's bytes name; None if they name none that could be one, or are not strict JSON."""
    try:
        return claimed_tenant(parse_json(piece.decode()))
    except ValueError:
        return None


class _Claim(msgspec.Struct):
    """What an event says of its tenant, whatever that is."""

    subject: object = None


_SPLITTER: Final = Splitter()
_CLAIM: Final = msgspec.json.Decoder(_Claim)
_CLAIMS: Final = msgspec.json.Decoder(list[_Claim])
_SUBJECT: Final = b'"subject"'


def _keyed(claims: Sequence[_Claim], pieces: Sequence[bytes]) -> list[tuple[str | None, bytes]]:
    tenants: dict[str, str | None] = {}
    events: list[tuple[str | None, bytes]] = []
    for claim, piece in zip(claims, pieces, strict=True):
        subject = claim.subject
        # Of equal names in an object the first counts here and the last for msgspec; with escapes a name may be
        # written in other bytes.
        if not isinstance(subject, str) or piece.count(_SUBJECT) != 1 or b"\\" in piece:
            events.append((claimed(piece), piece))
            continue
        if subject not in tenants:
            tenants[subject] = claimed_tenant({"subject": subject})
        events.append((tenants[subject], piece))
    return events


_LENIENT: Final = json.JSONDecoder(parse_int=str, parse_float=str)
_SPACE: Final = re.compile(r"[ \t\n\r]*")
# A string that never ends is taken to the end of the text, so that no text makes this quadratic.
_BRACKET_OR_STRING: Final = re.compile(r'"[^"\\]*(?:\\(?:.|\Z)[^"\\]*)*(?:"|\Z)|[\[\]{}]', re.DOTALL)


def _refuse(what: str) -> NoReturn:
    raise Unparsable(
        f"The record's bytes do not parse: {what}. Send a CloudEvent as a JSON object, or an array of them, in UTF-8."
    )


def depth(text: str) -> int:
    """How deep the brackets nest; exact where it could exceed MAX_DEPTH."""
    openers = text.count("[") + text.count("{")
    if openers <= MAX_DEPTH:
        return openers
    depth = deepest = 0
    for match in _BRACKET_OR_STRING.finditer(text):
        token = match[0]
        if token in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif token in "]}":
            depth -= 1
    return deepest


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def _element(text: str, start: int) -> int:
    """Where the JSON value that starts here ends."""
    try:
        return _LENIENT.raw_decode(text, start)[1]
    except json.JSONDecodeError as error:
        _refuse(f"{error.msg} at character {error.pos}")


def _expect_end(text: str, at: int) -> None:
    end = _after_space(text, at)
    if end != len(text):
        _refuse(f"there is more after the end of the JSON value, at character {end}")


def _elements(text: str, start: int) -> list[bytes]:
    """The elements of the array that starts here and must end with the text."""
    pieces: list[bytes] = []
    at = _after_space(text, start + 1)
    if text[at : at + 1] == "]":
        _expect_end(text, at + 1)
        return pieces
    while True:
        end = _element(text, at)
        pieces.append(text[at:end].encode())
        at = _after_space(text, end)
        match text[at : at + 1]:
            case ",":
                at = _after_space(text, at + 1)
            case "]":
                _expect_end(text, at + 1)
                return pieces
            case _:
                _refuse(f"a comma or the array's end is missing at character {at}")
