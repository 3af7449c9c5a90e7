"""The Mooncake traces: JSON lines with timestamp (ms), input_length, output_length, hash_ids.

Format: https://github.com/kvcache-ai/Mooncake (FAST25-release). Each id stands for a block of 512 prompt tokens; a
leading run of ids that occurred before is a prefix that a cache holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Annotated, Final

import msgspec

from meterhouse.ingest.event import MAX_COUNT
from meterhouse.ingest.formats.replay_rule import TraceError, TraceRow, numbered, since_first_us

BLOCK_TOKENS: Final = 512

_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]


class _Line(msgspec.Struct):
    timestamp: Decimal  # milliseconds; whole in the published traces
    input_length: _Count
    output_length: _Count
    hash_ids: list[int]


def rows(lines: Iterable[bytes]) -> Iterator[TraceRow]:
    """The rows of a trace file's lines; keeps the ids seen so far, and nothing else. Raises TraceError."""
    decoder = msgspec.json.Decoder(_Line)
    seen: set[int] = set()
    first_ns: int | None = None
    for number, text in numbered(lines):
        try:
            line = decoder.decode(text)
        except msgspec.DecodeError as error:
            raise TraceError(
                number,
                f"{error}: a row is like "
                '{"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]}',
            ) from None
        at_ns = _nanoseconds(number, line.timestamp)
        first_ns = at_ns if first_ns is None else first_ns
        yield TraceRow(
            at_us=since_first_us(number, at_ns, first_ns),
            input_tokens=line.input_length,
            output_tokens=line.output_length,
            cache_read_tokens=min(BLOCK_TOKENS * _leading(line.hash_ids, seen), line.input_length),
        )
        seen.update(line.hash_ids)


def _leading(ids: list[int], seen: set[int]) -> int:
    """How many of the first ids were all seen before."""
    return next((place for place, id_ in enumerate(ids) if id_ not in seen), len(ids))


def _nanoseconds(line: int, at_ms: Decimal) -> int:
    # A Decimal of many digits of exponent would be a number of as many digits.
    if not at_ms.is_finite() or abs(at_ms.adjusted()) > 15:
        raise TraceError(line, f"timestamp is {at_ms}: it must be milliseconds since the trace began")
    return int(at_ms * 1_000_000)
