"""Decode: every event of every record is in exactly one of events, rejects and forwards, with the right reason."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from meterhouse.ingest.batch import EVENT_SCHEMA, Decoded, Forward, Reason, Reject
from meterhouse.ingest.columns import ColumnReader
from meterhouse.ingest.decode import CHUNK_EVENTS, FEW_EVENTS, Decoder
from meterhouse.ingest.event import INFERENCE_TYPE, MAX_COUNT, MAX_EVENT_BYTES, REQUEST_TYPE, Lateness
from meterhouse.ingest.log import BATCH, Records
from meterhouse.ingest.split import MAX_DEPTH, Unparsable, split
from meterhouse.ingest.validate import Refusal, Rules, Sound, check, event_key, judge, parse_time
from tests.builders import DAY_US, HOUR_US, T0_US, records

T0 = datetime(2026, 11, 1, tzinfo=UTC)
OMIT = object()


@pytest.fixture(params=["framed", "fast", "slow"], scope="module")
def decoder(request: pytest.FixtureRequest) -> Iterator[Decoder]:
    with Decoder(lanes=request.param) as decoder:
        yield decoder


def event(data: dict[str, Any] | None = None, **envelope: Any) -> dict[str, Any]:
    """A sound request event as JSON's dict; OMIT takes an attribute or field away."""
    whole = {
        "specversion": "1.0",
        "id": "e-1",
        "source": "/gateway/1",
        "type": REQUEST_TYPE,
        "subject": "acme",
        "time": "2026-11-01T00:00:00Z",
        **envelope,
        "data": {
            "application": "assistant",
            "model": "atlas-large",
            "provider": "atlas",
            "status": "ok",
            "input_tokens": 100,
            **(data or {}),
        },
    }
    whole["data"] = {name: value for name, value in whole["data"].items() if value is not OMIT}
    return {name: value for name, value in whole.items() if value is not OMIT}


def node_event(data: dict[str, Any] | None = None, **envelope: Any) -> dict[str, Any]:
    whole = event(**{"id": "n-1", "source": "/node/7", **envelope}, type=INFERENCE_TYPE)
    whole["data"] = {"request_id": "r-1", "model": "atlas-large", "provider": "atlas", "node": "n7", **(data or {})}
    return whole


def as_bytes(*events: dict[str, Any]) -> bytes:
    return json.dumps(events[0] if len(events) == 1 else events).encode()


def decode(decoder: Decoder, values: Sequence[bytes | None], **more: Any) -> Decoded:
    return decoder.decode([records(values, **more)], tenants=None)


def only_reject(decoder: Decoder, value: bytes | None) -> Reject:
    done = decode(decoder, [value])
    assert (done.events.num_rows, len(done.rejects), done.forwards) == (0, 1, [])
    return done.rejects[0]


# --- sound events ----------------------------------------------------------------------------------------------------


def test_a_full_request_event_is_one_row_with_disjoint_token_kinds(decoder: Decoder) -> None:
    data = {
        "environment": "prod", "operation": "chat", "region": "eu", "http_status": 200, "streamed": True,
        "request_id": "r-1", "user": "u-1", "reservation_id": "v-1", "labels": {"b": "2", "a": "1"},
        "input_tokens": 100, "cache_read_input_tokens": 30, "cache_write_input_tokens": 20,
        "output_tokens": 50, "reasoning_output_tokens": 10,
        "duration_us": 7, "time_to_first_token_us": 3, "queue_us": 1,
    }  # fmt: skip
    done = decode(decoder, [as_bytes(event(data, id="e-9"))], partition=3, first_offset=41)
    assert done.events.schema == EVENT_SCHEMA
    assert done.events.to_pylist() == [
        {
            "key": event_key("acme", "/gateway/1", "e-9"), "partition": 3, "offset": 41, "index": 0, "arrived": T0,
            "type": REQUEST_TYPE, "time": T0, "tenant": "acme", "source": "/gateway/1", "application": "assistant",
            "environment": "prod", "model": "atlas-large", "provider": "atlas", "operation": "chat", "region": "eu",
            "status": "ok", "http_status": 200, "streamed": True, "request_id": "r-1", "user": "u-1",
            "reservation_id": "v-1", "labels": '{"a":"1","b":"2"}', "input_tokens": 50, "cache_read_tokens": 30,
            "cache_write_tokens": 20, "output_tokens": 40, "reasoning_tokens": 10, "duration_us": 7,
            "time_to_first_token_us": 3, "queue_us": 1, "node": None, "accelerator": None, "accelerator_us": None,
            "prefill_us": None, "decode_us": None,
        }
    ]  # fmt: skip
    assert (done.rejects, done.forwards) == ([], [])


def test_a_nodes_event_keeps_device_times_and_nothing_of_a_gateways(decoder: Decoder) -> None:
    data = {
        "accelerator": "h200", "accelerator_us": 9, "prefill_us": 4, "decode_us": 5, "queue_us": 2, "input_tokens": 8,
        "application": 17, "status": "nonsense", "duration_us": -1, "labels": 3, "streamed": "x", "user": "u",
    }  # fmt: skip
    done = decode(decoder, [as_bytes(event(id="a"), node_event(data), event(id="b"))])
    rows = done.events.to_pylist()
    assert [row["type"] for row in rows] == [REQUEST_TYPE, INFERENCE_TYPE, REQUEST_TYPE]
    assert [row["application"] for row in rows] == ["assistant", None, "assistant"]
    shown = ("request_id", "node", "accelerator", "accelerator_us", "prefill_us", "decode_us", "queue_us", "user")
    assert [rows[1][name] for name in shown] == ["r-1", "n7", "h200", 9, 4, 5, 2, None]
    absent = ("status", "duration_us", "labels", "streamed", "http_status", "environment", "operation", "region")
    assert [rows[1][name] for name in absent] == [None] * len(absent)
    assert (rows[1]["input_tokens"], done.rejects) == (8, [])


def test_rows_are_in_log_order_across_lanes_and_partitions(decoder: Decoder) -> None:
    slow: dict[str, Any] = {"time": "2026-11-01t00:00:00z"}  # sound, but only the slow lane reads lower case
    first = records(
        [as_bytes(event(id="a"), event(id="b", **slow), event(id="c")), as_bytes(event(id="d"))], partition=1
    )
    second = records([as_bytes(event(id="e", **slow))], partition=0, first_offset=7)
    events = decoder.decode([first, second], tenants=None).events.to_pylist()
    assert [(row["partition"], row["offset"], row["index"]) for row in events] == [
        (1, 0, 0), (1, 0, 1), (1, 0, 2), (1, 1, 0), (0, 7, 0),
    ]  # fmt: skip
    assert [row["key"] for row in events] == [event_key("acme", "/gateway/1", id_) for id_ in "abcde"]


def test_more_events_than_a_chunk_keep_their_order() -> None:
    many = CHUNK_EVENTS + 10
    value = b"[" + b",".join([as_bytes(event())] * many) + b"]"
    with Decoder() as decoder:
        events = decode(decoder, [value]).events
    assert events.num_rows == many
    assert events.column("index").to_pylist() == list(range(many))
    assert events.column("model").num_chunks == 1


@pytest.mark.parametrize("headers", [(), (("content-type", b"application/cloudevents-batch+json; charset=UTF-8"),)])
def test_the_first_byte_tells_a_batch_from_a_single_event(
    decoder: Decoder, headers: tuple[tuple[str, bytes], ...]
) -> None:
    values = [b" \n" + as_bytes(event(id="a")), b"\t" + as_bytes(event(id="b"), event(id="c")), b"[]"]
    whole = records(values)
    plain = Records(whole.topic, 0, whole.offsets, whole.appended_us, whole.keys, whole.values, [headers] * 3)
    done = decoder.decode([plain], tenants=None)
    assert (done.events.num_rows, done.rejects, done.forwards) == (3, [], [])


def test_an_event_in_binary_mode_is_read_from_its_headers(decoder: Decoder) -> None:
    whole = event(id="é")
    headers = tuple((f"ce_{name}", str(whole[name]).encode()) for name in whole if name != "data")
    value = json.dumps(whole["data"]).encode()
    run = Records("usage.events", 0, [0, 1], [T0_US] * 2, [b"acme"] * 2, [value, b"{"], [headers] * 2)
    done = decoder.decode([run], tenants=None)
    assert done.events.column("key").to_pylist() == [event_key("acme", "/gateway/1", "é")]
    assert [(reject.reason, reject.payload.endswith(b',"data":{}')) for reject in done.rejects] == [
        (Reason.NOT_JSON, True)
    ]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("2026-11-01T00:00:00.123456789Z", timedelta(microseconds=123456)),
        ("2026-11-01T00:00:00.1234567899999Z", timedelta(microseconds=123456)),
        ("2026-11-01T02:00:00+02:00", timedelta()),
        ("2026-10-31T19:30:00.5-04:30", timedelta(milliseconds=500)),
        ("2026-11-01t00:00:01z", timedelta(seconds=1)),
    ],
)
def test_a_time_is_rfc_3339_floored_to_microseconds(decoder: Decoder, text: str, want: timedelta) -> None:
    assert decode(decoder, [as_bytes(event(time=text))]).events.column("time").to_pylist() == [T0 + want]


def test_names_that_look_like_numbers_are_names_if_they_stand_in_quotes(decoder: Decoder) -> None:
    values = [
        as_bytes(event({"model": "true"}, id="a", subject="10042"), event({"model": "[x]"}, id="b", subject="10042")),
        as_bytes(event({"model": True}, id="c", subject="10042"), event(id="d", subject=10042)),
    ]
    done = decode(decoder, values, keys=b"10042")
    assert done.events.column("model").to_pylist() == ["true", "[x]"]
    assert [(reject.reason, reject.tenant) for reject in done.rejects] == [(Reason.WRONG_TYPE, "10042")] * 2


@pytest.mark.parametrize("text", ['say "hi"', "back\\slash", "a/b", "é😀", " "])
def test_escapes_in_a_text_are_resolved(decoder: Decoder, text: str) -> None:
    escaped = as_bytes(event({"user": text, "model": text}, id=text))
    raw = json.dumps(event({"user": text, "model": text}, id=text), ensure_ascii=False).encode()
    for row in decode(decoder, [escaped, raw.replace(b"/", b"\\/")]).events.to_pylist():
        assert (row["user"], row["model"], row["key"]) == (text, text, event_key("acme", "/gateway/1", text))


def test_null_and_empty_optional_texts_are_absent(decoder: Decoder) -> None:
    data: dict[str, Any] = {
        "environment": "",
        "user": "",
        "region": None,
        "labels": {},
        "queue_us": None,
        "output_tokens": None,
    }
    [row] = decode(decoder, [as_bytes(event(data))]).events.to_pylist()
    assert [row[name] for name in ("environment", "user", "region", "labels", "queue_us")] == [None] * 5
    assert row["output_tokens"] == 0


def test_unknown_fields_are_ignored_and_never_stored(decoder: Decoder) -> None:
    extra = event({"prompt": "secret words", "deep": [[[{"a": 1e400}]]]}, traceparent="00-x", datacontenttype="text/x")
    done = decode(decoder, [as_bytes(extra).replace(b"Infinity", b"1e400")])
    assert done.events.num_rows == 1
    assert "secret" not in str(done.events.to_pylist())


def test_the_first_of_two_equal_keys_counts(decoder: Decoder) -> None:
    text = as_bytes(event()).replace(
        b'"model": "atlas-large"', b'"model": "first", "model": "second", "m\\u006fdel": "third"'
    )
    assert decode(decoder, [text]).events.column("model").to_pylist() == ["first"]


# --- rejects ---------------------------------------------------------------------------------------------------------


def _replaced(old: str, new: str) -> bytes:
    text = as_bytes(event())
    assert old.encode() in text
    return text.replace(old.encode(), new.encode())


UNSOUND = {
    "no specversion": (as_bytes(event(specversion=OMIT)), Reason.NOT_A_CLOUDEVENT),
    "specversion as a number": (as_bytes(event(specversion=1.0)), Reason.NOT_A_CLOUDEVENT),
    "another specversion": (as_bytes(event(specversion="0.3")), Reason.NOT_A_CLOUDEVENT),
    "no id": (as_bytes(event(id=OMIT)), Reason.NOT_A_CLOUDEVENT),
    "empty id": (as_bytes(event(id="")), Reason.NOT_A_CLOUDEVENT),
    "id as a number": (as_bytes(event(id=7)), Reason.NOT_A_CLOUDEVENT),
    "long id": (as_bytes(event(id="x" * 257)), Reason.WRONG_TYPE),
    "null source": (as_bytes(event(source=None)), Reason.NOT_A_CLOUDEVENT),
    "type as a list": (as_bytes(event(type=[])), Reason.NOT_A_CLOUDEVENT),
    "next major version": (as_bytes(event(type="meterhouse.request.v2")), Reason.UNKNOWN_TYPE),
    "no tenant": (as_bytes(event(subject=OMIT)), Reason.MISSING_FIELD),
    "empty tenant": (as_bytes(event(subject="")), Reason.MISSING_FIELD),
    "no time": (as_bytes(event(time=OMIT)), Reason.MISSING_FIELD),
    "time without zone": (as_bytes(event(time="2026-11-01T00:00:00")), Reason.BAD_TIME),
    "time with a space": (as_bytes(event(time="2026-11-01 00:00:00Z")), Reason.BAD_TIME),
    "time without seconds": (as_bytes(event(time="2026-11-01T00:00Z")), Reason.BAD_TIME),
    "time with a short zone": (as_bytes(event(time="2026-11-01T00:00:00+02")), Reason.BAD_TIME),
    "a day only": (as_bytes(event(time="2026-11-01")), Reason.BAD_TIME),
    "a 30th of February": (as_bytes(event(time="2026-02-30T00:00:00Z")), Reason.BAD_TIME),
    "a leap second": (as_bytes(event(time="2026-12-31T23:59:60Z")), Reason.BAD_TIME),
    "time as a number": (as_bytes(event(time=1793491200)), Reason.BAD_TIME),
    "no data": (json.dumps({**event(), "data": None}).encode(), Reason.MISSING_FIELD),
    "data as a text": (json.dumps({**event(), "data": "{}"}).encode(), Reason.WRONG_TYPE),
    "no model": (as_bytes(event({"model": OMIT})), Reason.MISSING_FIELD),
    "empty application": (as_bytes(event({"application": ""})), Reason.MISSING_FIELD),
    "no status": (as_bytes(event({"status": None})), Reason.MISSING_FIELD),
    "a status of another word": (as_bytes(event({"status": "fine"})), Reason.BAD_STATUS),
    "http_status 20": (as_bytes(event({"http_status": 20})), Reason.BAD_STATUS),
    "model as a number": (as_bytes(event({"model": 4})), Reason.WRONG_TYPE),
    "long model": (as_bytes(event({"model": "m" * 257})), Reason.WRONG_TYPE),
    "model with a NUL": (as_bytes(event({"model": "a\0b"})), Reason.WRONG_TYPE),
    "user with a line break": (as_bytes(event({"user": "a\nb"})), Reason.WRONG_TYPE),
    "id with a line break": (as_bytes(event(id="a\nb")), Reason.WRONG_TYPE),
    "user with DEL": (as_bytes(event({"user": "a\x7fb"})), Reason.WRONG_TYPE),
    "half a surrogate pair": (as_bytes(event({"user": "a\ud800b"})), Reason.WRONG_TYPE),
    "streamed as a text": (as_bytes(event({"streamed": "true"})), Reason.WRONG_TYPE),
    "labels as a list": (as_bytes(event({"labels": ["a"]})), Reason.WRONG_TYPE),
    "17 labels": (as_bytes(event({"labels": {str(n): "x" for n in range(17)}})), Reason.WRONG_TYPE),
    "long label": (as_bytes(event({"labels": {"a": "x" * 65}})), Reason.WRONG_TYPE),
    "label of a number": (as_bytes(event({"labels": {"a": 1}})), Reason.WRONG_TYPE),
    "count as a text": (as_bytes(event({"input_tokens": "100"})), Reason.WRONG_TYPE),
    "count as true": (as_bytes(event({"input_tokens": True})), Reason.WRONG_TYPE),
    "count 1.0": (as_bytes(event({"input_tokens": 1.0})), Reason.WRONG_TYPE),
    "count 1e3": (_replaced('"input_tokens": 100', '"input_tokens": 1e3'), Reason.WRONG_TYPE),
    "count 1e400": (_replaced('"input_tokens": 100', '"input_tokens": 1e400'), Reason.WRONG_TYPE),
    "NaN": (_replaced('"input_tokens": 100', '"input_tokens": NaN'), Reason.NOT_JSON),
    "NaN in an unknown field": (_replaced('"input_tokens": 100', '"x": NaN'), Reason.NOT_JSON),
    "a negative count": (as_bytes(event({"output_tokens": -1})), Reason.COUNT_OUT_OF_RANGE),
    "a count over 2^40": (as_bytes(event({"duration_us": MAX_COUNT + 1})), Reason.COUNT_OUT_OF_RANGE),
    "a count of 5000 digits": (
        _replaced('"input_tokens": 100', '"input_tokens": ' + "9" * 5000),
        Reason.COUNT_OUT_OF_RANGE,
    ),
    "cache over input": (
        as_bytes(event({"cache_read_input_tokens": 60, "cache_write_input_tokens": 41})),
        Reason.CACHE_EXCEEDS_INPUT,
    ),
    "reasoning over output": (as_bytes(event({"reasoning_output_tokens": 1})), Reason.REASONING_EXCEEDS_OUTPUT),
    "a node's event without node": (as_bytes(node_event({"node": None})), Reason.MISSING_FIELD),
    "a node's event without request": (as_bytes(node_event({"request_id": None})), Reason.MISSING_FIELD),
    "300 KiB": (as_bytes(event({"prompt": "x" * 300 * 1024})), Reason.TOO_LARGE),
}


@pytest.mark.parametrize("name", UNSOUND)
def test_an_unsound_event_is_rejected_alone_with_its_bytes_and_its_neighbours_are_kept(
    decoder: Decoder, name: str
) -> None:
    bad, reason = UNSOUND[name]
    good = [as_bytes(event(id=f"e-{n}")) for n in range(100)]
    batch = b"[" + b",".join([*good[:40], bad, *good[40:]]) + b"]"
    done = decode(decoder, [good[0], batch, bad])
    assert done.events.num_rows == 101
    assert [(reject.offset, reject.index, reject.reason, reject.payload) for reject in done.rejects] == [
        (1, 40, reason, bad),
        (2, 0, reason, bad),
    ]
    assert {reject.tenant for reject in done.rejects} == {"acme"}
    assert all(len(reject.detail) > 30 and reject.detail.isascii() for reject in done.rejects)


@pytest.mark.parametrize("count", [0, MAX_COUNT])
def test_counts_at_their_limits_are_sound(decoder: Decoder, count: int) -> None:
    done = decode(decoder, [as_bytes(event({"input_tokens": count, "queue_us": count}, id="x" * 256))])
    assert done.events.select(["input_tokens", "queue_us"]).to_pylist() == [{"input_tokens": count, "queue_us": count}]


@pytest.mark.parametrize(
    "value",
    [
        as_bytes(event(), event())[:-1],
        as_bytes(event(), event())[:-30],
        as_bytes(event()) + b"x",
        as_bytes(event()).replace(b"acme", b"ac\xffme"),
        b"[" + as_bytes(event()) + b",]",
        b"",
        b"  ",
        b"12",
        b'"text"',
        b"null",
        b"NaN",
        b"\xff\xfe{}",
        b'{"a":"\\',
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
        b"[" * 100_000,
    ],
)
def test_bytes_that_do_not_parse_reject_the_whole_record(decoder: Decoder, value: bytes) -> None:
    good = as_bytes(event())
    done = decode(decoder, [good, value, good], first_offset=5)
    assert done.events.column("offset").to_pylist() == [5, 7]
    [reject] = done.rejects
    assert (reject.topic, reject.partition, reject.offset, reject.index) == ("usage.events", 0, 6, -1)
    assert (reject.reason, reject.tenant, reject.payload, reject.arrived_us) == (Reason.NOT_JSON, "acme", value, T0_US)
    assert "do not parse" in reject.detail


def test_a_tombstone_is_one_reject_without_bytes(decoder: Decoder) -> None:
    reject = only_reject(decoder, None)
    assert (reject.reason, reject.index, reject.payload) == (Reason.NOT_JSON, -1, b"")


def test_an_element_that_is_no_object_is_rejected_alone(decoder: Decoder) -> None:
    done = decode(decoder, [b"[1, " + as_bytes(event()) + b', [2], null, "x"]'])
    assert done.events.column("index").to_pylist() == [1]
    assert [(reject.index, reject.reason, reject.payload) for reject in done.rejects] == [
        (0, Reason.NOT_A_CLOUDEVENT, b"1"),
        (2, Reason.NOT_A_CLOUDEVENT, b"[2]"),
        (3, Reason.NOT_A_CLOUDEVENT, b"null"),
        (4, Reason.NOT_A_CLOUDEVENT, b'"x"'),
    ]


def test_nesting_at_the_limit_is_read_and_one_more_is_not(decoder: Decoder) -> None:
    def nested(depth: int) -> bytes:
        return _replaced('"input_tokens": 100', '"x": ' + "[" * depth + "]" * depth)

    done = decode(
        decoder, [b"[" + nested(MAX_DEPTH - 3) + b"]", b"[" + nested(MAX_DEPTH - 2) + b"]", nested(MAX_DEPTH - 2)]
    )
    assert done.events.column("offset").to_pylist() == [0, 2]
    assert [(reject.offset, reject.index) for reject in done.rejects] == [(1, -1)]


def test_lateness_is_judged_against_the_records_append_time(decoder: Decoder) -> None:
    value = as_bytes(event())
    arrivals = [T0_US - HOUR_US - 1, T0_US - HOUR_US, T0_US + 35 * DAY_US, T0_US + 35 * DAY_US + 1]
    done = decode(decoder, [value] * 4, appended_us=arrivals)
    assert done.events.column("offset").to_pylist() == [1, 2]
    assert [(reject.offset, reject.reason) for reject in done.rejects] == [(0, Reason.TOO_EARLY), (3, Reason.TOO_LATE)]


def test_lateness_is_a_setting(decoder: Decoder) -> None:
    run = records([as_bytes(event())] * 2, appended_us=[T0_US + 10, T0_US + 11])
    done = decoder.decode([run], tenants=None, lateness=Lateness(ahead_us=0, behind_us=10))
    assert [reject.offset for reject in done.rejects] == [1]


def test_unknown_tenants_are_rejected_in_strict_mode_only(decoder: Decoder) -> None:
    run = records([as_bytes(event(), event(subject="stranger"))])
    done = decoder.decode([run], tenants={"acme"})
    assert [(reject.index, reject.reason, reject.tenant) for reject in done.rejects] == [
        (1, Reason.UNKNOWN_TENANT, "stranger")
    ]
    assert (done.events.num_rows, done.forwards) == (1, [])


def test_a_sound_event_under_another_key_is_forwarded_and_not_in_events(decoder: Decoder) -> None:
    stray = as_bytes(event(id="s", subject="élan", time="2026-11-01T00:00:00+00:00"))
    value = b"[" + as_bytes(event()) + b" , " + stray + b"," + as_bytes(event({"model": 1}, subject="élan")) + b"]"
    done = decode(decoder, [value, stray, stray], keys=[b"acme", "élan".encode(), None])
    assert done.events.select(["offset", "index"]).to_pylist() == [{"offset": 0, "index": 0}, {"offset": 1, "index": 0}]
    assert done.forwards == [Forward("élan", 0, 0, 1, stray), Forward("élan", 0, 2, 0, stray)]
    assert [(reject.index, reject.tenant) for reject in done.rejects] == [(2, "élan")]


def test_no_records_make_an_empty_table(decoder: Decoder) -> None:
    for run in ([], [records([])], [records([b"[]"])]):
        done = decoder.decode(run, tenants=None)
        assert (done.events.schema, done.events.num_rows, done.rejects, done.forwards) == (EVENT_SCHEMA, 0, [], [])


def test_a_byte_order_mark_is_skipped(decoder: Decoder) -> None:
    assert decode(decoder, [b"\xef\xbb\xbf" + as_bytes(event(), event())]).events.num_rows == 2


# --- what other callers use ------------------------------------------------------------------------------------------


def test_split_tells_each_events_claimed_tenant() -> None:
    sound, odd = as_bytes(event()), b'{"subject": 3}'
    assert split(b"[" + sound + b"," + odd + b",7]") == [("acme", sound), (None, odd), (None, b"7")]
    assert split(sound) == [("acme", sound)]
    with pytest.raises(Unparsable, match="JSON object, or an array"):
        split(sound[:-1])


def test_check_says_why_an_event_would_be_refused() -> None:
    rules = Rules(T0_US, frozenset({"acme"}))
    assert check(as_bytes(event()), rules) is None
    refused = check(as_bytes(event(type="meterhouse.request.v2")), rules)
    assert refused == Refusal(
        Reason.UNKNOWN_TYPE,
        'The type "meterhouse.request.v2" is unknown here: send one of meterhouse.request.v1, meterhouse.inference.v1.',
        "acme",
    )


def test_a_key_tells_tuples_apart_whose_joined_texts_are_equal() -> None:
    keys = {event_key("ab", "c", "d"), event_key("a", "bc", "d"), event_key("a", "b", "cd"), event_key("abc", "", "d")}
    assert len(keys) == 4
    assert event_key("acme", "/gateway/1", "e-1").hex() == "1fa386283b0179be30456bf0e4272dc5"


def test_times_are_exact_far_from_1970() -> None:
    assert parse_time("1969-12-31T23:59:59.9999999Z") == -1
    assert parse_time("9999-12-31T23:59:59.999999-23:59") == 253402387139999999
    assert parse_time("0000-01-01T00:00:00Z") is None
    assert parse_time("2026-11-01T00:00:00+24:00") is None


def test_large_events_are_measured_by_their_own_bytes(decoder: Decoder) -> None:
    filler = MAX_EVENT_BYTES - len(as_bytes(event({"prompt": ""})))
    at_limit = as_bytes(event({"prompt": "x" * filler}))
    assert len(at_limit) == MAX_EVENT_BYTES
    done = decode(decoder, [b"[" + at_limit + b"," + at_limit + b"]"], content_type=BATCH)
    assert (done.events.num_rows, done.rejects) == (2, [])


def test_usual_events_never_take_the_slow_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    def unwanted(payload: bytes, rules: Rules) -> Refusal:
        raise AssertionError(f"judged one by one: {payload!r}")

    monkeypatch.setattr("meterhouse.ingest.decode.judge", unwanted)
    data = {"labels": {"a": "ü"}, "user": "u-7", "streamed": False, "output_tokens": 3, "queue_us": None, "x": [1.5]}
    values = [
        as_bytes(event(data, time="2026-11-01T00:00:00.5+00:00", subject="10042"), node_event(id="ü", subject="10042")),
        json.dumps(event(subject="10042"), ensure_ascii=False, indent=2).encode(),
        as_bytes(event(subject="stray")),
    ]
    with Decoder(lanes="fast") as decoder:
        done = decoder.decode([records(values, keys=b"10042")], tenants={"10042", "stray"})
    assert (done.events.num_rows, len(done.forwards), done.rejects) == (3, 1, [])


def test_events_that_are_alike_are_read_by_their_frames_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def unwanted(*_: object) -> None:
        raise AssertionError("read by another lane")

    monkeypatch.setattr("meterhouse.ingest.decode.judge", unwanted)
    monkeypatch.setattr("meterhouse.ingest.columns.ColumnReader.read", unwanted)
    kinds = [
        lambda n: event(
            {"labels": {"team": "a", "x": "ü"}, "user": f"u-{n}", "input_tokens": 10**n, "output_tokens": 0}
        ),
        lambda n: event({"status": "error", "http_status": 503, "streamed": False, "queue_us": None, "labels": None}),
        lambda n: node_event({"accelerator_us": n}),
    ]
    events = [{**kinds[n % 3](n // 3), "id": f"e-{n}"} for n in range(36)]
    array = b"[" + b",".join(json.dumps(one, ensure_ascii=False).encode() for one in events) + b"]"
    with Decoder(lanes="framed") as decoder, Decoder(lanes="slow") as slow:
        for values in ([array], [as_bytes(one) for one in events]):
            done = decode(decoder, values)
            assert (done.events.num_rows, done.rejects) == (36, [])
            monkeypatch.undo()
            assert done.events.to_pylist() == decode(slow, values).events.to_pylist()


def test_a_text_that_duckdb_cannot_parse_costs_only_its_own_row() -> None:
    sound = as_bytes(event()).decode()
    reader = ColumnReader()
    columns = reader.read(pa.array([sound, '{"a":', sound]))
    reader.close()
    assert columns.good.tolist() == [True, False, True]


def test_few_events_are_decided_one_by_one_and_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[bytes] = []

    def counted(payload: bytes, rules: Rules) -> Sound | Refusal:
        judged.append(payload)
        return judge(payload, rules)

    monkeypatch.setattr("meterhouse.ingest.decode.judge", counted)
    with Decoder() as decoder:
        few = decode(decoder, [as_bytes(event())] * FEW_EVENTS)
        assert (few.events.num_rows, len(judged)) == (FEW_EVENTS, FEW_EVENTS)
        many = decode(decoder, [as_bytes(event())] * (FEW_EVENTS + 1))
    assert (many.events.num_rows, len(judged)) == (FEW_EVENTS + 1, FEW_EVENTS)
    assert many.events.slice(0, FEW_EVENTS).to_pylist() == few.events.to_pylist()
