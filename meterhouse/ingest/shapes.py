"""Shapes: what the events of one publisher have in common, byte for byte. Pure.

A publisher writes its events by one program, so their JSON differs in little but the values. An event is seen as
*atoms*, values that nearly every event has of its own (its id, its time, its counts), and *frames*, the bytes between
them, of which there are few: `{"specversion":"1.0","id":"`, an id, `","source":"/gateway/7",...,"time":"`, a time and
so on. Each distinct frame is parsed once, by a whole JSON parser; an event whose frames are all known and whose atoms
are plain has then been parsed too.

Why that is exact: a frame is parsed between stand-ins for its atoms, in an object (or two) like the event's. So before
each atom the parser is in one state, the same whichever frame led there, and what the frames say apart they say in a
row. A frame has the keys of the sample's in the same order, none of which comes twice, so no frame changes what another
means.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NoReturn

from meterhouse.ingest.arrow_wire import DATA_FIELDS
from meterhouse.ingest.fields import Field
from meterhouse.ingest.validate import canonical_labels, text_fault

MAX_FRAME_BYTES: Final = 4_096
"""Beside an event's atoms there are some 300 bytes; what is longer holds something else, and is read another way."""
MAX_OPENERS: Final = 64
"""Brackets that a frame opens: an event has three."""
MAX_KNOWN_BYTES: Final = 2 * 1024 * 1024
"""Of a shape's frames, some 10,000; what they say takes a few times as much. Beyond, they are learnt anew."""

AtomKind = Literal["text", "count", "cut"]
Values = tuple[Any, ...]
"""What a frame says: a value for each of its shape's columns there, None where absent."""

_NAMES: Final = ("source", "type", "subject")
_CUTS: Final = frozenset({"source", "subject", "application", "model"})
"""A finely cut shape has frames that end after these: values of which each other has many."""
_ATOMS: Final[dict[str, AtomKind]] = {
    "id": "text",
    "time": "text",
    **{f.name: f.kind for f in DATA_FIELDS.values() if f.kind in ("text", "count")},
}
_IN_DATA: Final = frozenset({*DATA_FIELDS} - {"id", "time"})
_SPACE: Final = rb"[ \t\n\r]*"
_MEMBER: Final = re.compile(
    rb'"([a-z_]+)"' + _SPACE + b":" + _SPACE + rb'(?:"([\x20\x21\x23-\x2b\x2d-\x5b\x5d-\x7e]+)"|(0|[1-9][0-9]*))'
    rb"(?=" + _SPACE + rb"[,}])"
)


_Member = tuple[bool, str, Any]
"""(whether it is of `data`, name, value)."""
_Parsed = tuple[list[tuple[bool, str]], list[tuple[str, Any]]]
"""Keys of a frame, and those of its members that are fields."""


class _Object(list[tuple[str, Any]]):
    """A JSON object as its members, in order."""


class _Number(str):
    """A JSON number as its text."""


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


_READER: Final = json.JSONDecoder(
    object_pairs_hook=_Object, parse_constant=_refuse, parse_int=_Number, parse_float=_Number
)


@dataclass(frozen=True, slots=True)
class Atom:
    """Where a value stands: `after` bytes behind the comma number `comma` of its event (0: the one before the event),
    and `before` bytes before the next. A cut is the empty place behind its value."""

    name: str
    kind: AtomKind
    comma: int
    after: int
    before: int

    @property
    def in_data(self) -> bool:
        return self.name in _IN_DATA


class Shape:
    """The atoms and frames of events like one sample. Not shared between threads.

    `commas`: of an event, all of its bytes counted, and the one before it. `columns`: per frame, the fields that it
    gives.
    """

    def __init__(self, sample: bytes, atoms: list[Atom], frames: list[bytes]) -> None:
        self.commas = sample.count(b",") + 1
        self.atoms = tuple(atoms)
        self.frames = tuple(frames)
        self.tried = self.found = 0  # by whoever uses the shape
        self._keys: list[list[tuple[bool, str]]] = []
        self._known: list[dict[bytes, Values | None]] = [{} for _ in frames]
        self._known_bytes = 0
        self.columns: list[tuple[str, ...]] = []
        for place, frame in enumerate(frames):
            found = self._parse(place, frame)
            if found is None:
                raise ValueError("the sample is not of a kind that has a shape")
            self._keys.append(found[0])
            self.columns.append(tuple(name for name, _ in found[1] if _kind(name) is not None))
        names = [key for keys in self._keys for key in keys]
        names += [(atom.in_data, atom.name) for atom in atoms if atom.kind != "cut"]
        if len(set(names)) < len(names) or (False, "specversion") not in names:
            raise ValueError("a sample with a key twice, or without a version, has no shape")

    @property
    def signature(self) -> object:
        """Equal for two shapes that read the same events."""
        return self.commas, self.atoms, tuple(map(tuple, self._keys))

    @classmethod
    def of(cls, sample: bytes, *, fine: bool) -> Shape | None:
        """The shape of an event's bytes; None if it has none. `fine`: with more and shorter frames."""
        atoms: list[Atom] = []
        frames: list[bytes] = []
        commas = [-1, *(match.start() for match in re.finditer(b",", sample)), len(sample)]
        at, comma, start = 0, 0, 0
        for match in _MEMBER.finditer(sample):
            name = match[1].decode()
            kind: AtomKind | None = _ATOMS.get(name) or ("cut" if fine and name in _CUTS else None)
            if kind is None or (kind == "count") != (match[3] is not None):
                continue
            start, end = match.span(3 if kind == "count" else 2)
            if kind == "cut":
                start = end = end + 1
            while commas[comma + 1] < start:
                comma += 1
            atoms.append(Atom(name, kind, comma, start - commas[comma], commas[comma + 1] - end))
            frames.append(sample[at:start])
            at = end
        frames.append(sample[at:])
        if len({atom.comma for atom in atoms}) < len(atoms) or max(map(len, frames)) > MAX_FRAME_BYTES:
            return None
        if not {"id", "time"} <= {atom.name for atom in atoms}:
            return None
        try:
            return cls(sample, atoms, frames)
        except ValueError:
            return None

    def is_literal(self, place: int) -> bool:
        """Whether the frame is of one length in all events: no comma lies between its atoms but one."""
        before = self.atoms[place - 1].comma + 1 if place else 0
        if place == len(self.atoms):
            return before == self.commas
        return self.atoms[place].kind != "cut" and before == self.atoms[place].comma

    def all_values(self, place: int, frames: Sequence[bytes], most_new: int) -> list[Values | None]:
        """`values` of each frame; where over `most_new` of them are not known, None for these."""
        known = self._known[place]
        new = [frame for frame in frames if frame not in known]
        if new and len(new) <= most_new:
            self._known_bytes += sum(map(len, new))
            if self._known_bytes > MAX_KNOWN_BYTES:
                for each in self._known:
                    each.clear()
                new, self._known_bytes = list(frames), sum(map(len, frames))
            known.update((frame, self._values(place, frame)) for frame in new)
        return list(map(known.get, frames))

    def _values(self, place: int, frame: bytes) -> Values | None:
        """What a frame in this place says; None if it is not one of this shape, or says what others must judge."""
        found = self._parse(place, frame)
        if found is None or found[0] != self._keys[place] or not all(_fits(*field) for field in found[1]):
            return None
        return tuple(_plain(kind, value) for name, value in found[1] if (kind := _kind(name)) is not None)

    def _parse(self, place: int, frame: bytes) -> _Parsed | None:
        """(its keys, each with whether it is of `data`; its members that are fields) of a frame; None if it is none."""
        last = self.atoms[place - 1] if place else None
        following = self.atoms[place] if place < len(self.atoms) else None
        # Deep nesting is judged elsewhere: a parser's own limit must not be what decides.
        if len(frame) > MAX_FRAME_BYTES or frame.count(b"[") + frame.count(b"{") > MAX_OPENERS:
            return None
        try:
            text = _opening(last) + frame.decode() + _closing(following)
            top = _READER.decode(text)
        except (ValueError, RecursionError):
            return None
        if not isinstance(top, _Object) or not top:
            return None
        members: list[_Member] = []
        for name, value in top:
            inside = value if name == "data" and isinstance(value, _Object) else ()
            members += [(False, name, None if inside else value), *((True, *member) for member in inside)]
        return self._between(last, following, members)

    def _between(self, last: Atom | None, following: Atom | None, members: list[_Member]) -> _Parsed | None:
        """The members without the stand-ins, which must be as they were put."""
        if last is not None:
            if last.in_data:  # the wrapping `data` is not the frame's own
                members = members[1:]
            if not members or members[0] != (last.in_data, _stand_in_name(last), _stand_in(last)):
                return None
            members = members[1:]
        if following is not None and following.kind != "cut":
            if not members or members[-1] != (following.in_data, following.name, _stand_in(following)):
                return None
            members = members[:-1]
        fields = [(name, value) for in_data, name, value in members if name in (DATA_FIELDS if in_data else _ENVELOPE)]
        return [(in_data, name) for in_data, name, _ in members], fields


_ENVELOPE: Final = frozenset({"specversion", "id", "time", *_NAMES})


def _stand_in_name(atom: Atom) -> str:
    return "" if atom.kind == "cut" else atom.name


def _stand_in(atom: Atom) -> object:
    return "" if atom.kind == "text" else _Number("7")


def _opening(last: Atom | None) -> str:
    if last is None:
        return ""
    value = '"' if last.kind == "text" else "7"
    return f'{{"data":{{"{_stand_in_name(last)}":{value}' if last.in_data else f'{{"{_stand_in_name(last)}":{value}'


def _closing(following: Atom | None) -> str:
    if following is None:
        return ""
    value = {"text": '"', "count": "7", "cut": ""}[following.kind]
    return value + ("}}" if following.in_data else "}")


def _kind(name: str) -> str | None:
    """How a frame's field is kept; None for what stands in a frame only where it says nothing."""
    if name in _NAMES:
        return "name"
    field: Field | None = DATA_FIELDS.get(name)
    return None if field is None or name in _ATOMS else field.kind


def _fits(name: str, value: object) -> bool:
    """Whether a field's value is of a type that it may have, and of one that Arrow can hold."""
    if name == "specversion":
        return type(value) is str and value == "1.0"
    if value is None:
        return True
    match _kind(name):
        case "name" | "status":
            return type(value) is str and (not value or text_fault(value) is None)
        case "flag":
            return isinstance(value, bool)
        case "http_status":
            return isinstance(value, _Number) and re.fullmatch("[1-9][0-9]{2}", value) is not None
        case "labels":
            return _label_text(value) is not None
        case _:  # an atom elsewhere, that here says nothing
            return _ATOMS[name] == "text" and type(value) is str and not value


def _plain(kind: str, value: Any) -> object:
    match kind:
        case "name" | "status":
            return value or None
        case "http_status":
            return None if value is None else int(value)
        case "labels":
            return None if value is None else _label_text(value) or None
        case _:
            return value


def _label_text(value: object) -> str | None:
    """Canonical labels, "" for none; None where others must judge."""
    if not isinstance(value, _Object) or len(dict(value)) < len(value):
        return None
    if any(type(text) is not str for _, text in value):
        return None
    try:
        return canonical_labels(dict(value)) or ""
    except ValueError:
        return None
