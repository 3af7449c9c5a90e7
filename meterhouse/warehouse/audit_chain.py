"""The audit log's chain: deeds, the entries they become, and the check that nothing about them was altered.

hash(n) = SHA-256 of hash(n - 1) and the entry as JSON: the list [seq, at_us, actor, action, subject, detail], where
detail is its text as it is stored; hash(0) is 32 zero bytes. JSON's quotes keep the parts apart, so no two entries have
one form.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, field
from typing import Any, Final, NamedTuple

MAX_TEXT: Final = 1_000
"""Characters of an actor or a subject: names and paths, with room."""
MAX_DETAIL_BYTES: Final = 16 * 2**10
"""Of a detail's text. An entry says what was done, it does not hold it, and is never removed; a page of a thousand
entries stays below 20 MB."""
MAX_DETAIL_DEPTH: Final = 8
"""Of lists and objects within each other: a reader needs no more, and a parser of ours has a stack."""
MAX_WHOLE: Final = 2**53 - 1
"""The largest whole number of a detail: beyond it readers of JSON disagree. Larger ones, and fractions, are texts."""

_ACTION: Final = re.compile(r"[a-z_]{1,40}\.[a-z_]{1,40}")
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")

Told = Callable[[int], None]


class BadDeed(ValueError):
    """It cannot be an entry; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Deed:
    """What someone did. No secrets, no prompts: entries are never removed. Raises BadDeed."""

    actor: str  # `Caller.id`, or the user of the machine
    action: str  # noun.verb: `control.applied`, `key.created`, `export.made`
    subject: str  # what it was done to: an id, a path
    detail: Mapping[str, Any] = field(default_factory=dict)  # JSON of texts, whole numbers, booleans, nulls

    def __post_init__(self) -> None:
        if not _ACTION.fullmatch(self.action):
            raise BadDeed(f"an action is written noun.verb, in small letters: {self.action!r} is not")
        for name, text in (("actor", self.actor), ("subject", self.subject)):
            _check_text(name, text)
            if not 0 < len(text) <= MAX_TEXT:
                raise BadDeed(f"`{name}` is a text of 1 to {MAX_TEXT:,} characters")
        _check(self.detail, "detail", MAX_DETAIL_DEPTH)
        if len(self.detail_text.encode()) > MAX_DETAIL_BYTES:
            raise BadDeed(f"a detail has at most {MAX_DETAIL_BYTES:,} bytes: say how many, and the first of them")

    @property
    def detail_text(self) -> str:
        """The detail as it is stored."""
        return json.dumps(self.detail, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


class Head(NamedTuple):
    """How far a chain had come: its newest entry."""

    seq: int
    hash: bytes


START: Final = Head(0, bytes(32))
"""The head of a chain without entries."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A deed as it stands in the log, the `seq`-th of all."""

    seq: int
    at_us: int
    actor: str
    action: str
    subject: str
    detail: str  # JSON
    hash: bytes


@dataclass(frozen=True, slots=True)
class Fault:
    """Where the log is not what was written: `seq` is the first entry that shows it."""

    seq: int
    told: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What a check came to. `heads`: how many of those kept elsewhere were compared, `proven`: the newest of them."""

    entries: int
    heads: int
    proven: int
    fault: Fault | None


def entry_of(before: Head, deed: Deed, at_us: int) -> Entry:
    """The entry that follows `before`."""
    said = (before.seq + 1, at_us, deed.actor, deed.action, deed.subject, deed.detail_text)
    return Entry(*said, hash=_hash(before.hash, said))


def verified(entries: Iterable[Entry], head: Head, heads: Iterable[Head], told: Told | None = None) -> Verification:
    """Checks all of a log, in one pass and in constant memory, up to the first fault.

    `entries`: as they are stored, by seq; their columns may hold anything. `head`: the database's own. `heads`: those
    kept elsewhere, by seq, none newer than the log was when it was read. `told` is called with each seq.
    """
    check = _Check(heads)
    fault = check.followed(entries, told or (lambda _: None)) or check.ended(head)
    return Verification(check.last.seq, check.compared, check.proven, fault)


class _Check:
    """A pass over a log: the last entry that was sound, and the kept head that comes next."""

    def __init__(self, heads: Iterable[Head]) -> None:
        self.last = START
        self.compared = self.proven = 0
        self._heads: Iterator[Head] = iter(heads)
        self._next = next(self._heads, None)

    def followed(self, entries: Iterable[Entry], told: Told) -> Fault | None:
        for entry in entries:
            fault = self._follows(entry) or self._as_kept()
            if fault is not None:
                return fault
            told(entry.seq)
        return None

    def ended(self, head: Head) -> Fault | None:
        """What is wrong about the end of the log."""
        missing = self.last.seq + 1
        if self._next is not None:
            return Fault(missing, f"entry {missing} is missing: the lake knows of {self._next.seq}")
        if type(head.seq) is int and head.seq > self.last.seq:
            return Fault(missing, f"entry {missing} is missing: the head is at {head.seq}")
        if head != self.last:
            return Fault(self.last.seq, f"the head does not tell of entry {self.last.seq}, the newest: it was edited")
        return None

    def _follows(self, entry: Entry) -> Fault | None:
        expected, (*said, digest) = self.last.seq + 1, astuple(entry)
        if type(entry.seq) is not int or entry.seq < expected:
            return Fault(expected, f"an entry that was never written stands before {expected}, as {entry.seq!r}")
        if entry.seq > expected:
            return Fault(expected, f"entry {expected} is missing: {entry.seq} follows {expected - 1}")
        if [type(value) for value in said] != [int, int, str, str, str, str] or digest != _hash(self.last.hash, said):
            return Fault(expected, f"entry {expected} was edited, or moved: its hash is of another, or another's next")
        self.last = Head(expected, digest)
        return None

    def _as_kept(self) -> Fault | None:
        """Compares the last entry with each head that was kept of it."""
        while self._next is not None and self._next.seq <= self.last.seq:
            if self._next != self.last:
                seq = self._next.seq
                return Fault(seq, f"entry {seq}, or one before it, was rewritten: the lake knows of another {seq}")
            self.compared, self.proven = self.compared + 1, self.last.seq
            self._next = next(self._heads, None)
        return None


def _hash(before: bytes, said: Iterable[Any]) -> bytes:
    # A text that was tampered with may be none; then it has some hash, and not that of the entry.
    form = json.dumps(list(said), ensure_ascii=False).encode("utf-8", "surrogatepass")
    return hashlib.sha256(before + form).digest()


def _check(value: Any, name: str, depth: int) -> None:
    if depth < 0:
        raise BadDeed(f"a detail has lists and objects at most {MAX_DETAIL_DEPTH} deep")
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        _check_text(name, value)
    elif isinstance(value, int):
        if abs(value) > MAX_WHOLE:
            raise BadDeed(f"`{name}` is too large a number for readers of JSON: give it as a text")
    elif isinstance(value, Mapping):
        for key, part in value.items():
            if not isinstance(key, str):
                raise BadDeed(f"`{name}` has a key that is no text: {key!r}")
            _check_text(name, key)
            _check(part, f"{name}.{key}", depth - 1)
    elif isinstance(value, list | tuple):
        for part in value:
            _check(part, name, depth - 1)
    else:
        raise BadDeed(f"`{name}` is a {type(value).__name__}: give a text, a whole number, true, false or null")


def _check_text(name: str, text: str) -> None:
    if _UNSTORABLE.search(text):
        raise BadDeed(f"`{name}` holds a NUL or half a character, which no database takes: see `storable`")
