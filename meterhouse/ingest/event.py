"""The usage event: its words, its limits, and the value a publisher sends.

On the wire an event is a CloudEvent 1.0 in JSON whose token counts are inclusive, as in OpenTelemetry GenAI: input
includes the cached parts, output includes reasoning. Inside Meterhouse the same counts are disjoint *token kinds*;
`TOKEN_KINDS` is the one table of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, NamedTuple

REQUEST_TYPE: Final = "meterhouse.request.v1"
"""A gateway's event: one request of a tenant, billable."""
INFERENCE_TYPE: Final = "meterhouse.inference.v1"
"""A model node's event: device time of one request, informational, never billed."""
EVENT_TYPES: Final = (REQUEST_TYPE, INFERENCE_TYPE)

Status = Literal["ok", "error", "aborted", "throttled", "blocked"]
STATUSES: Final[tuple[Status, ...]] = ("ok", "error", "aborted", "throttled", "blocked")
BILLED_STATUSES: Final[frozenset[str]] = frozenset({"ok", "aborted"})
"""Billed for the tokens they report; the others are counted and cost nothing."""
REFUSED_STATUSES: Final[frozenset[str]] = frozenset({"throttled", "blocked"})
"""Never reached a model: outside availability and latency."""


class TokenKind(NamedTuple):
    """A disjoint kind of token, priced on its own.

    The disjoint count is the inclusive wire count `counted_in` less the wire counts in `less`.
    """

    name: str
    counted_in: str
    less: tuple[str, ...]

    @property
    def tokens(self) -> str:
        """The column of this kind's token count."""
        return f"{self.name}_tokens"

    @property
    def cost(self) -> str:
        """The column of this kind's cost in sums."""
        return f"{self.name}_cost"


TOKEN_KINDS: Final = (
    TokenKind("input", "input_tokens", ("cache_read_input_tokens", "cache_write_input_tokens")),
    TokenKind("cache_read", "cache_read_input_tokens", ()),
    TokenKind("cache_write", "cache_write_input_tokens", ()),
    TokenKind("output", "output_tokens", ("reasoning_output_tokens",)),
    TokenKind("reasoning", "reasoning_output_tokens", ()),
)
WIRE_TOKEN_COUNTS: Final = tuple(kind.counted_in for kind in TOKEN_KINDS)
"""Inclusive counts as they stand in an event's data; absent means 0."""

MAX_EVENT_BYTES: Final = 256 * 1024
"""A usage event has no text in it; what is larger is something else (a prompt, most likely)."""
MAX_COUNT: Final = 2**40
"""Tokens or microseconds of one request: 2^40 us are 12 days, and no model has a context of 10^12 tokens."""
MAX_TEXT: Final = 256
"""Characters of an id, a name or any other text attribute: they are keys of groups, not content."""
MAX_LABELS: Final = 16
MAX_LABEL_TEXT: Final = 64
"""Characters of a label's key or value."""


@dataclass(frozen=True, slots=True)
class Lateness:
    """How far an event's time may be from the time its record arrived in the log (not from any reader's clock, so
    that a replay of the log decides the same)."""

    ahead_us: int = 3_600 * 1_000_000
    behind_us: int = 35 * 86_400 * 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageEvent:
    """A `meterhouse.request.v1` as a publisher hands it in. Counts are inclusive, durations in microseconds.

    `time` is when the request ended, with a time zone.
    """

    id: str
    source: str
    tenant: str
    time: datetime
    application: str
    model: str
    provider: str
    status: Status = "ok"
    http_status: int | None = None
    environment: str | None = None
    operation: str | None = None
    request_id: str | None = None
    user: str | None = None
    region: str | None = None
    streamed: bool | None = None
    reservation_id: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_write_input_tokens: int = 0
    reasoning_output_tokens: int = 0
    duration_us: int | None = None
    time_to_first_token_us: int | None = None
    queue_us: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceEvent:
    """A `meterhouse.inference.v1` as a model node hands it in."""

    id: str
    source: str
    tenant: str
    time: datetime
    request_id: str
    model: str
    provider: str
    node: str
    accelerator: str | None = None
    accelerator_us: int | None = None
    queue_us: int | None = None
    prefill_us: int | None = None
    decode_us: int | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_write_input_tokens: int = 0
    reasoning_output_tokens: int = 0


Event = UsageEvent | InferenceEvent
