"""Traces and the replay rule: hand-computed events, and errors that name the line."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterhouse.ingest.event import UsageEvent
from meterhouse.ingest.formats import TRACE_FORMATS
from meterhouse.ingest.formats.azure_llm import rows as azure_rows
from meterhouse.ingest.formats.mooncake import rows as mooncake_rows
from meterhouse.ingest.formats.replay_rule import (
    MAX_LINE_BYTES,
    ReplayRule,
    TraceError,
    TraceRow,
    TraceSpan,
    replayed,
    span,
)

START_US = 1_793_491_200_000_000
"""2026-11-01T00:00:00Z."""
RULE = ReplayRule(
    stem="trace",
    tenants=("acme", "bank"),
    models=(("atlas", "large"), ("borea", "swift"), ("borea", "pro")),
    start_us=START_US,
)
AZURE = b"""\
TIMESTAMP,ContextTokens,GeneratedTokens\r
2023-11-16 18:15:46.6805900,374,44\r
2023-11-16 18:15:50.9951690,396,109\r
2023-11-16 18:15:51.2224679,879,55\r
"""
MOONCAKE = b"""\
{"timestamp": 0, "input_length": 1500, "output_length": 500, "hash_ids": [0, 1, 2]}
{"timestamp": 0, "input_length": 1100, "output_length": 490, "hash_ids": [0, 3, 1]}
{"timestamp": 3052, "input_length": 1024, "output_length": 0, "hash_ids": [0, 3]}
{"timestamp": 3052.75, "input_length": 1000, "output_length": 1, "hash_ids": [3, 2, 0]}
{"timestamp": 4000, "input_length": 100, "output_length": 1, "hash_ids": [9, 0]}
"""


def lines(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


def test_azure_rows_become_the_events_that_one_works_out_by_hand() -> None:
    first, second, third = replayed(azure_rows(lines(AZURE)), RULE)
    assert first == UsageEvent(
        id="trace-0",
        source="/replay/trace",
        tenant="acme",
        time=datetime(2026, 11, 1, tzinfo=UTC),
        application="assistant",
        provider="atlas",
        model="large",
        status="ok",
        input_tokens=374,
        output_tokens=44,
        time_to_first_token_us=61_220,  # 50,000 + 30 × 374
        duration_us=941_220,  # + 20,000 × 44
    )
    assert second == UsageEvent(
        id="trace-1",
        source="/replay/trace",
        tenant="bank",
        time=datetime(2026, 11, 1, 0, 0, 4, 314_579, tzinfo=UTC),
        application="assistant",
        provider="atlas",
        model="large",
        status="ok",
        input_tokens=396,
        output_tokens=109,
        time_to_first_token_us=61_880,
        duration_us=2_241_880,
    )
    # 4.5418779 seconds, and what is below a microsecond is cut off.
    assert (third.tenant, third.application, third.time.microsecond) == ("acme", "search", 541_877)


def test_mooncake_rows_read_leading_blocks_that_occurred_before_from_the_cache() -> None:
    assert list(mooncake_rows(lines(MOONCAKE))) == [
        TraceRow(0, 1500, 500, 0),
        TraceRow(0, 1100, 490, 512),  # 0 occurred; 3 did not, so 1 does not count
        TraceRow(3_052_000, 1024, 0, 1024),
        TraceRow(3_052_750, 1000, 1, 1000),  # three blocks are 1536 tokens, more than there are
        TraceRow(4_000_000, 100, 1, 0),
    ]


def test_cached_tokens_come_sooner() -> None:
    (event,) = replayed([TraceRow(5, 1100, 490, 512)], RULE)
    assert (event.cache_read_input_tokens, event.time_to_first_token_us) == (512, 50_000 + 30 * 588)
    assert event.duration_us == 50_000 + 30 * 588 + 20_000 * 490


def test_tenants_applications_and_models_take_turns() -> None:
    rows = [TraceRow(0, 1, 1)] * 19
    dealt = [(event.tenant, event.application, event.model) for event in replayed(rows, RULE)]
    expected = [
        (tenant, application, model)
        for model in ("large", "swift", "pro")
        for application in ("assistant", "search", "batch-summaries")
        for tenant in ("acme", "bank")
    ]
    assert dealt == [*expected, expected[0]]


def test_errors_and_aborts_fall_on_their_rows() -> None:
    events = list(replayed([TraceRow(0, 1, 1)] * (97 * 101 + 1), RULE))
    assert [(e.status, e.http_status) for e in events[95:102]] == [
        ("ok", None),
        ("error", 503),
        ("ok", None),
        ("ok", None),
        ("ok", None),
        ("aborted", None),
        ("ok", None),
    ]
    assert (events[97 * 101 - 1].status, events[97 * 101].status) == ("error", "ok")  # both would fall here
    assert sum(event.status == "error" for event in events) == 101
    assert sum(event.status == "aborted" for event in events) == 96


def test_a_trace_is_measured_without_being_kept() -> None:
    assert span(azure_rows(lines(AZURE))) == TraceSpan(rows=3, length_us=4_541_877)
    assert span(mooncake_rows(lines(MOONCAKE))) == TraceSpan(rows=5, length_us=4_000_000)
    assert span([]) == TraceSpan(0, 0)


def test_rows_come_while_the_file_is_still_being_read() -> None:
    def endless() -> Iterator[bytes]:
        yield b"TIMESTAMP,ContextTokens,GeneratedTokens\n"
        while True:
            yield b"2024-05-10 00:00:00.009930+00:00,2162,5\n"

    events = replayed(azure_rows(endless()), RULE)
    assert next(events).input_tokens == next(events).input_tokens == 2162


def test_a_row_before_the_first_one_is_earlier_than_the_start() -> None:
    text = AZURE.replace(b"18:15:50.9951690", b"18:15:46.6805809")
    assert [row.at_us for row in azure_rows(lines(text))] == [0, -10, 4_541_877]  # 9.1 microseconds before


def test_a_byte_order_mark_and_empty_lines_at_the_end_do_no_harm() -> None:
    assert (
        len(list(azure_rows([b"\xef\xbb\xbf" + line if not i else line for i, line in enumerate(lines(AZURE))]))) == 3
    )
    assert len(list(azure_rows([*lines(AZURE), b"\r\n", b"\n"]))) == 3


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b"TIMESTAMP", b"TIME", "line 1: must be the header"),
        (b"396,109", b"396", "line 3: has 2 fields"),
        (b"396,109", b"-396,109", 'line 3: ContextTokens is "-396"'),
        (b"396,109", b"396,1e3", 'line 3: GeneratedTokens is "1e3"'),
        (b"396,109", b"1099511627777,109", "line 3: ContextTokens"),
        (b"2023-11-16 18:15:50", b"2023-11-31 18:15:50", "line 3: TIMESTAMP"),
        (b"2023-11-16 18:15:50.9951690", b"16.11.2023", "line 3: TIMESTAMP"),
        (b"2023-11-16 18:15:51", b"2024-11-18 18:15:51", "line 4: is more than a year"),
        (b"\r\n2023-11-16 18:15:50", b"\r\n\r\n2023-11-16 18:15:50", "line 3: is empty"),
        (b"879", b"\xff", "line 4: is not UTF-8"),
        (b"879", b"1" * MAX_LINE_BYTES, "line 4: has 1048"),
    ],
)
def test_a_wrong_azure_line_is_named(old: bytes, new: bytes, says: str) -> None:
    assert AZURE.count(old) == 1
    with pytest.raises(TraceError) as error:
        list(azure_rows(lines(AZURE.replace(old, new))))
    assert str(error.value).startswith(says)


def test_an_empty_azure_file_lacks_its_header() -> None:
    with pytest.raises(TraceError, match="line 1: the file is empty"):
        list(azure_rows([]))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (b'"input_length": 1500', b'"input_length": "1500"', "`$.input_length`"),
        (b'"input_length": 1500', b'"input_length": -1', "`$.input_length`"),
        (b'"input_length": 1500, ', b"", "`input_length`"),
        (b"[0, 1, 2]", b"[0, null]", "`$.hash_ids[1]`"),
        (b'"timestamp": 0, "input_length": 1500', b'"timestamp": 1e99, "input_length": 1500', "milliseconds"),
        (b'"timestamp": 0, "input_length": 1500', b'"timestamp": "NaN", "input_length": 1500', "milliseconds"),
        (b"[0, 1, 2]}", b"[0, 1, 2]", "a row is like"),
    ],
)
def test_a_wrong_mooncake_line_is_named(old: bytes, new: bytes, says: str) -> None:
    assert MOONCAKE.count(old) == 1
    with pytest.raises(TraceError) as error:
        list(mooncake_rows(lines(MOONCAKE.replace(old, new))))
    assert str(error.value).startswith("line 1: ")
    assert says in str(error.value)


def test_nothing_can_be_replayed_without_tenants_or_models() -> None:
    with pytest.raises(ValueError, match="no tenants in control data"):
        ReplayRule("trace", (), RULE.models, 0)
    with pytest.raises(ValueError, match="no models in control data"):
        ReplayRule("trace", RULE.tenants, (), 0)


@given(st.lists(st.binary(max_size=60), max_size=5), st.sampled_from(sorted(TRACE_FORMATS)))
@settings(max_examples=150, deadline=None)
def test_rubbish_is_a_trace_error_and_nothing_else(rubbish: list[bytes], name: str) -> None:
    head = [b"TIMESTAMP,ContextTokens,GeneratedTokens\n"] if name == "azure-llm" else []
    line = 1
    try:
        list(TRACE_FORMATS[name]([*head, *rubbish]))
    except TraceError as error:
        line = error.line
    assert 1 <= line <= max(1, len(head) + len(rubbish))


@given(st.integers(0, 10**9 - 1), st.integers(0, 3_000 * 10**9))
@settings(max_examples=100, deadline=None)
def test_nanoseconds_are_cut_off_after_the_subtraction(first_ns: int, later_ns: int) -> None:
    def stamp(at_ns: int) -> bytes:
        seconds, nanos = divmod(at_ns, 10**9)
        return f"2023-11-16 {10 + seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{nanos:09d},1,1".encode()

    rows = list(azure_rows([b"TIMESTAMP,ContextTokens,GeneratedTokens", stamp(first_ns), stamp(first_ns + later_ns)]))
    assert rows[1].at_us == Fraction(later_ns, 1000) // 1
