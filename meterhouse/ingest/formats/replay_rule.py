"""The replay rule: how a row of a trace, which names no tenant, application or model, becomes a usage event.

Row `i` counts from 0 in file order; with T tenants and M models, those of control data in its order, it gets
tenant i mod T, application (i div T) mod 3, model (i div 3T) mod M, id `{stem}-{i}` and source `/replay/{stem}`.
Latency follows from the tokens and status from `i`, so that anyone can work the same events out by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from meterhouse.ingest.event import Status, UsageEvent

APPLICATIONS: Final = ("assistant", "search", "batch-summaries")
FIRST_TOKEN_US: Final = 50_000
PER_UNCACHED_TOKEN_US: Final = 30
PER_OUTPUT_TOKEN_US: Final = 20_000
ERROR_EVERY: Final = 97
ABORTED_EVERY: Final = 101

MAX_LINE_BYTES: Final = 1024 * 1024
"""The longest line of a known trace has 3 KiB; what is longer is another file."""
MAX_SPAN_US: Final = 366 * 86_400 * 1_000_000
"""A row further than a year from the first one has a broken time, and would be billed into another year."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class TraceError(ValueError):
    """A line of a trace file is not what its format says; the message names the line."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"line {line}: {message}")
        self.line = line


@dataclass(frozen=True, slots=True)
class TraceRow:
    """A request as a trace tells of it. `at_us`: microseconds since the first row, rounded down."""

    at_us: int
    input_tokens: int  # cached ones included
    output_tokens: int
    cache_read_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ReplayRule:
    """What the rule needs beside the rows. `stem` is the file's name without its last suffix."""

    stem: str
    tenants: tuple[str, ...]
    models: tuple[tuple[str, str], ...]  # (provider, model)
    start_us: int  # the first row's time

    def __post_init__(self) -> None:
        for name in ("tenants", "models"):
            if not getattr(self, name):
                raise ValueError(f"there are no {name} in control data to replay with: apply a control file first")


@dataclass(frozen=True, slots=True)
class TraceSpan:
    """How long a trace is."""

    rows: int
    length_us: int  # from the first row to the latest


def span(rows: Iterable[TraceRow]) -> TraceSpan:
    """Counts and measures a trace (a pass of its own: rows are not kept)."""
    count = length_us = 0
    for row in rows:
        count += 1
        length_us = max(length_us, row.at_us)
    return TraceSpan(count, length_us)


def replayed(rows: Iterable[TraceRow], rule: ReplayRule) -> Iterator[UsageEvent]:
    """The usage events of a trace by the replay rule, in file order, one at a time."""
    tenants, models = len(rule.tenants), len(rule.models)
    start, source = _EPOCH + timedelta(microseconds=rule.start_us), f"/replay/{rule.stem}"
    for i, row in enumerate(rows):
        provider, model = rule.models[i // (3 * tenants) % models]
        status, http_status = status_of(i)
        first_token_us = FIRST_TOKEN_US + PER_UNCACHED_TOKEN_US * (row.input_tokens - row.cache_read_tokens)
        yield UsageEvent(
            id=f"{rule.stem}-{i}",
            source=source,
            tenant=rule.tenants[i % tenants],
            time=start + timedelta(microseconds=row.at_us),
            application=APPLICATIONS[i // tenants % 3],
            provider=provider,
            model=model,
            status=status,
            http_status=http_status,
            input_tokens=row.input_tokens,
            output_tokens=row.output_tokens,
            cache_read_input_tokens=row.cache_read_tokens,
            duration_us=first_token_us + PER_OUTPUT_TOKEN_US * row.output_tokens,
            time_to_first_token_us=first_token_us,
        )


def status_of(i: int) -> tuple[Status, int | None]:
    """(status, http_status) of row `i`."""
    if i % ERROR_EVERY == ERROR_EVERY - 1:
        return "error", 503
    return ("aborted", None) if i % ABORTED_EVERY == ABORTED_EVERY - 1 else ("ok", None)


def numbered(lines: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    """(line number from 1, text) of each line, without its end; empty lines at the end of the file are left out.

    Raises TraceError for a line that is too long, not UTF-8, or empty with lines after it.
    """
    empty: int | None = None
    for number, line in enumerate(lines, start=1):
        if len(line) > MAX_LINE_BYTES:
            raise TraceError(number, f"has {len(line)} bytes, at most {MAX_LINE_BYTES} are read: is it a trace file?")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise TraceError(number, f"is not UTF-8 (byte {error.start}): is it a trace file?") from None
        if not text.strip():
            empty = empty or number
            continue
        if empty is not None:
            raise TraceError(empty, "is empty, and there are rows after it: remove it")
        yield number, text


def since_first_us(line: int, at_ns: int, first_ns: int) -> int:
    """Microseconds from the first row, rounded down. Raises TraceError beyond MAX_SPAN_US."""
    at_us = (at_ns - first_ns) // 1000
    if abs(at_us) > MAX_SPAN_US:
        raise TraceError(line, "is more than a year from the first row: correct its time")
    return at_us
