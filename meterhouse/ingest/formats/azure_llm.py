"""The Azure LLM inference traces: CSV with the columns TIMESTAMP, ContextTokens, GeneratedTokens.

Format: https://github.com/Azure/AzurePublicDataset (AzureLLMInferenceDataset2023). Times have up to nine digits of a
second (2023: seven, without a zone; 2024: with one) and are kept exactly until they are microseconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

from meterhouse.ingest.event import MAX_COUNT
from meterhouse.ingest.formats.replay_rule import TraceError, TraceRow, numbered, since_first_us

HEADER: Final = "TIMESTAMP,ContextTokens,GeneratedTokens"

_TIME: Final = re.compile(
    r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)?", re.ASCII
)  # date, time, digits, zone
_COUNT: Final = re.compile(r"\d{1,15}", re.ASCII)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def rows(lines: Iterable[bytes]) -> Iterator[TraceRow]:
    """The rows of a trace file's lines. Raises TraceError."""
    first_ns: int | None = None
    header = False
    for number, text in numbered(lines):
        if not header:
            if text.strip() != HEADER:
                raise TraceError(number, f"must be the header {HEADER}")
            header = True
            continue
        fields = text.split(",")
        if len(fields) != 3:
            raise TraceError(number, f"has {len(fields)} fields: three are needed, {HEADER}")
        at_ns = _nanoseconds(number, fields[0])
        first_ns = at_ns if first_ns is None else first_ns
        yield TraceRow(
            at_us=since_first_us(number, at_ns, first_ns),
            input_tokens=_count(number, "ContextTokens", fields[1]),
            output_tokens=_count(number, "GeneratedTokens", fields[2]),
        )
    if not header:
        raise TraceError(1, f"the file is empty: it must begin with the header {HEADER}")


def _nanoseconds(line: int, text: str) -> int:
    found = _TIME.fullmatch(text.strip())
    if not found:
        raise TraceError(line, f'TIMESTAMP is "{text}": write it like 2023-11-16 18:15:46.6805900')
    day, time, digits, zone = found.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{time}{zone or '+00:00'}")
    except ValueError as error:
        raise TraceError(line, f'TIMESTAMP is "{text}", which is no time: {error}') from None
    return (moment - _EPOCH) // timedelta(seconds=1) * 1_000_000_000 + int(f"{digits or '0':0<9}")


def _count(line: int, name: str, text: str) -> int:
    if not _COUNT.fullmatch(text.strip()) or int(text) > MAX_COUNT:
        raise TraceError(line, f'{name} is "{text}": it must be a whole number from 0 to {MAX_COUNT}')
    return int(text)
