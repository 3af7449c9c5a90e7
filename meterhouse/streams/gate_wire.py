"""What a gate reads: the records of `budget.states`, written by budget workers. No more than JSON, so that a gateway
that imports it imports little.

Three kinds of records, told apart by key; a tombstone takes a record back:

| key | value | says |
|---|---|---|
| `budget\\|start\\|end` | `State` | where a budget stands in one window |
| `\\|terms\\|budget` | `Terms` | what a budget counts, its limit, and what is to be done |
| `\\|fresh\\|partition` | `Fresh` | how far the states of this partition of the topic have come |

No budget's id begins with a bar.

Over HTTP (`GET /v1/budget-states`) the same records are lines of JSON (`Line`): all there is, a line that says
`caught_up`, then what comes, and an empty object every few seconds.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

OnExceeded = Literal["notify", "throttle", "block"]
WhenStale = Literal["open", "closed"]
StateName = Literal["ok", "warned", "exceeded"]

_TERMS: Final = "|terms|"
_FRESH: Final = "|fresh|"


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A budget in one window. The same state has the same bytes. Exactly one of the two limits is set."""

    budget_id: str
    window_start_us: int
    window_end_us: int
    state: StateName
    spent_pico: str  # whole pico-units: they outgrow the integers that JSON readers keep exact
    spent_tokens: int
    limit_pico: str | None
    limit_tokens: int | None
    share_percent: str | None  # plain digits; null: the limit is 0
    crossed: tuple[str, ...]  # thresholds reached, percent, ascending
    on_exceeded: OnExceeded
    offsets: dict[str, int]  # partition of `usage.events` → the spend is of all events before this offset
    definition: str = ""  # digest of what was counted; spend of other terms than a gate's counts for nothing


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """A budget as gates need it."""

    budget_id: str
    definition: str
    tenants: tuple[str, ...] | None  # whose requests count; None: anybody's. Org units are resolved to their tenants
    application: str | None  # None: any
    model: str | None  # None: any
    every: Literal["day", "week", "month"]
    time_zone: str  # IANA
    unit: str  # the currency, or `tokens`
    limit: str  # whole pico-units, or whole tokens
    on_exceeded: OnExceeded
    throttle_per_minute: int
    when_stale: WhenStale
    stale_after_s: int


class Fresh(msgspec.Struct, frozen=True, kw_only=True):
    """All events that arrived before `as_of_us`, in any partition of `usage.events`, are in the states of this
    partition of `budget.states`."""

    partition: int
    as_of_us: int
    offsets: dict[str, int] = {}  # partition of `usage.events` → all its events before this offset are in the states


Said = State | Terms | Fresh


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of the HTTP stream; one that says nothing is a sign of life."""

    partition: int | None = None
    key: str | None = None
    value: msgspec.Raw = msgspec.Raw(b"null")  # null: a tombstone
    caught_up: bool = False

    @property
    def record(self) -> tuple[int, bytes, bytes | None] | None:
        """Partition, key and value of a record; None: the line has none."""
        if self.partition is None or self.key is None:
            return None
        value = bytes(self.value)
        return self.partition, self.key.encode(), None if value == b"null" else value


LINE_EVERY_S: Final = 5.0
"""A stream on which nothing was said for three times as long is dead."""
CAUGHT_UP: Final = Line(caught_up=True)
ALIVE: Final = Line()


def record_line(partition: int, key: bytes, value: bytes | None) -> Line:
    """The line of a record. Raises ValueError for a key that is no text."""
    return Line(partition, key.decode(), msgspec.Raw(b"null" if value is None else value))


def write_line(line: Line) -> bytes:
    return _WRITE.encode(line) + b"\n"


def read_line(line: bytes) -> Line:
    """Raises ValueError for what is no line of the stream."""
    try:
        return _READ_LINE.decode(line)
    except msgspec.DecodeError as wrong:
        raise ValueError(f"not a line of budget states ({wrong})") from wrong


def terms_key(budget_id: str) -> bytes:
    return f"{_TERMS}{budget_id}".encode()


def fresh_key(partition: int) -> bytes:
    return f"{_FRESH}{partition}".encode()


def state_key(budget_id: str, window: tuple[int, int]) -> bytes:
    return f"{budget_id}|{window[0]}|{window[1]}".encode()


def read_state_key(key: bytes) -> tuple[str, tuple[int, int]]:
    """(budget, window) of a state's record. Raises ValueError for what `state_key` did not write."""
    budget_id, start, end = key.decode().rsplit("|", 2)
    if budget_id.startswith("|"):
        raise ValueError(f"{key!r} is not the key of a state")
    return budget_id, (int(start), int(end))


def read_terms_key(key: bytes) -> str | None:
    """The budget of a terms record; None: it is another kind of record."""
    text = key.decode()
    return text.removeprefix(_TERMS) if text.startswith(_TERMS) else None


def is_fresh_key(key: bytes) -> bool:
    return key.startswith(_FRESH.encode())


def read_said(key: bytes, value: bytes) -> Said:
    """A record that is no tombstone. Raises ValueError for anything else."""
    try:
        if key.startswith(_TERMS.encode()):
            return _READ_TERMS.decode(value)
        return _READ_FRESH.decode(value) if is_fresh_key(key) else _READ_STATE.decode(value)
    except msgspec.DecodeError as wrong:
        raise ValueError(f"not a budget's state ({wrong}); see who else writes to this topic") from wrong


_READ_STATE: Final = msgspec.json.Decoder(State)
_READ_TERMS: Final = msgspec.json.Decoder(Terms)
_READ_LINE: Final = msgspec.json.Decoder(Line)
_WRITE: Final = msgspec.json.Encoder()
_READ_FRESH: Final = msgspec.json.Decoder(Fresh)
