"""Laws of decode: nothing raises, nothing is lost, and the other lanes say what the slow lane says."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from meterhouse.ingest.batch import Decoded
from meterhouse.ingest.columns import ColumnReader
from meterhouse.ingest.decode import Decoder, event_key
from meterhouse.ingest.event import INFERENCE_TYPE, REQUEST_TYPE
from meterhouse.ingest.log import Records
from meterhouse.ingest.split import Splitter, Unparsable, claimed, split, split_exactly
from meterhouse.ingest.validate import pair_digest
from tests.builders import T0_US, records

MODERATE: Final = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def lanes() -> Iterator[tuple[Decoder, ...]]:
    """Each lane first, however few the events are; the slow one last: it is the definition."""
    with Decoder(lanes="framed") as framed, Decoder(lanes="fast") as fast, Decoder(lanes="slow") as slow:
        yield framed, fast, slow


# --- arbitrary bytes and JSON ----------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
values = st.one_of(
    st.none(),
    st.binary(max_size=40),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.lists(json_values, max_size=5).map(lambda value: json.dumps(value, ensure_ascii=False).encode(errors="replace")),
)


def plain_count(value: bytes | None) -> int:
    """How many events a record holds, by a plain JSON reader."""
    try:
        parsed = json.loads((value or b"").decode("utf-8-sig"))
    except ValueError:
        return 1
    return len(parsed) if isinstance(parsed, list) else 1


@MODERATE
@given(st.lists(values, max_size=6))
@example([b"[]", b"[NaN, {}]", None, b'["\\ud800"]', b"\xef\xbb\xbf[1]"])
def test_whatever_the_bytes_are_nothing_raises_and_nothing_is_lost(
    lanes: tuple[Decoder, ...], run: list[bytes | None]
) -> None:
    for decoder in lanes:
        done = decoder.decode([records(run)], tenants={"acme"})
        assert done.events.num_rows + len(done.rejects) + len(done.forwards) == sum(map(plain_count, run))


# --- the two lanes ---------------------------------------------------------------------------------------------------

SOUND: Final[dict[str, dict[str, str]]] = {
    REQUEST_TYPE: {
        "application": '"assistant"', "environment": '"prod"', "model": '"atlas"', "provider": '"p"',
        "operation": '"chat"', "region": '"eu"', "status": '"ok"', "http_status": "200", "streamed": "true",
        "request_id": '"r-1"', "user": '"u"', "reservation_id": '"v"', "labels": '{"b":"1","a":"2"}',
        "input_tokens": "100", "output_tokens": "50", "cache_read_input_tokens": "30",
        "cache_write_input_tokens": "20", "reasoning_output_tokens": "10", "duration_us": "5",
        "time_to_first_token_us": "3", "queue_us": "1",
    },
    INFERENCE_TYPE: {
        "request_id": '"r-1"', "model": '"atlas"', "provider": '"p"', "node": '"n7"', "accelerator": '"h200"',
        "accelerator_us": "9", "queue_us": "1", "prefill_us": "2", "decode_us": "3", "input_tokens": "100",
        "cache_read_input_tokens": "30", "output_tokens": "50",
    },
}  # fmt: skip
ENVELOPE: Final = {
    "specversion": '"1.0"', "id": '"e-1"', "source": '"/gateway/1"', "subject": '"acme"',
    "time": '"2026-11-01T00:00:00Z"',
}  # fmt: skip

SOUND_EVENT: Final = {
    **{name: json.loads(text) for name, text in ENVELOPE.items()},
    "type": REQUEST_TYPE,
    "data": {name: json.loads(text) for name, text in SOUND[REQUEST_TYPE].items()},
}

ODD_VALUES: Final = (
    "null", "true", "false", "0", "-0", "1", "-1", "7.0", "1e3", "1E2", "1.5", "1e400", "NaN", "Infinity", "-Infinity",
    "99", "999", "1000", "65636", "1099511627776", "1099511627777", "9223372036854775807", "9223372036854775808",
    "18446744073709551616", "1" * 30, "9" * 4400, "[]", "{}", "[[[1]]]", '{"a":{"b":[]}}', '""', '" "', '"12"', '"1.0"',
    '"true"', '"null"', '"[1]"', '"{}"', '"-"', '"1-1"', '"\\u0061"', '"a\\nb"', '"\\u0000"', '"\x7f"', '"\\u007f"',
    '"\\"quoted\\""', '"back\\\\slash"', '"\\/"', '"é"', '"\\u00e9"', '"😀"', '"\\ud83d\\ude00"', '"\\ud800"',
    '"\\udc00x"', '"\ufeff"', '"' + "x" * 256 + '"', '"' + "x" * 257 + '"',
    '"' + "é" * 256 + '"', '"' + "é" * 257 + '"',
    '"beta"', '"2026-11-01T00:00:00.123456789Z"', '"2026-11-01T00:00:00.1234567890123Z"', '"2026-11-01T02:00:00+02:00"',
    '"2026-11-01T00:00:00.5-00:00"', '"2026-11-01t00:00:00z"', '"2026-11-01 00:00:00Z"', '"2026-11-01T00:00:00"',
    '"2026-11-01T00:00:00+0200"', '"2026-11-01T00:00:00+02"', '"2026-11-01T00:00Z"', '"2026-11-01"',
    '"2026-11-01T24:00:00Z"', '"2026-11-01T23:59:60Z"', '"2026-11-31T00:00:00Z"', '"2026-11-01T00:00:00.Z"',
    '"2026-11-01T00:00:00+24:00"', '"2026-11-01T00:00:00+23:60"', '"2026-11-01T00:00:00.1+02:00"',
    '"1600-01-01T00:00:00Z"',
    '"9999-12-31T23:59:59Z"', '"0000-01-01T00:00:00Z"', '"2026-1\uff11-01T00:00:00Z"', '"+2026-11-01T00:00:00Z"',
    '"2026-11-01T00:00:00,5Z"', '"2026-11-01T01:00:00Z"', '"2026-11-01T01:00:00.000000999Z"',
    '"2026-11-01T01:00:00.000001Z"', '"2026-09-27T00:00:00Z"', '"2026-09-26T23:59:59.999999999Z"',
    '{"a":1}', '{"":"x"}', '{"a":""}', '{"a":"1","a":"2"}', '{"é":"\\u00e9"}', '{"a":null}', '{"a":"\\u0001"}',
    '{"a":"' + "x" * 65 + '"}', "{" + ",".join(f'"{n}":"x"' for n in range(17)) + "}",
)  # fmt: skip
ODD_NAMES: Final = ("Model", "m\\u006fdel", "input_token\\u0073", "unknown", "", "data", "\\ud800", "node", "prompt")


@st.composite
def near_valid_events(draw: st.DrawFn) -> bytes:
    """JSON text of an event that is sound but for a few changes."""
    kind = draw(st.sampled_from((REQUEST_TYPE, REQUEST_TYPE, INFERENCE_TYPE)))
    data = list(SOUND[kind].items())
    envelope = [*ENVELOPE.items(), ("type", json.dumps(kind))]
    for _ in range(draw(st.integers(0, 3))):
        members = data if draw(st.booleans()) else envelope
        at = draw(st.integers(0, len(members) - 1))
        name, _old = members[at]
        value = draw(st.sampled_from(ODD_VALUES))
        match draw(st.sampled_from(("replace", "replace", "replace", "delete", "repeat", "add"))):
            case "replace":
                members[at] = (name, value)
            case "delete" if len(members) > 1:
                del members[at]
            case "repeat":
                members.insert(draw(st.integers(0, len(members))), (name, value))
            case _:
                members.append((draw(st.sampled_from(ODD_NAMES)), value))
    if draw(st.booleans()):
        data = draw(st.permutations(data))
    space = draw(st.sampled_from(("", "", " ", "\n\t")))
    inner = _object(data, space) if draw(st.integers(0, 19)) else draw(st.sampled_from(ODD_VALUES))
    place = draw(st.integers(0, len(envelope)))
    return _object([*envelope[:place], ("data", inner), *envelope[place:]], space).encode()


def _object(members: list[tuple[str, str]], space: str) -> str:
    return "{" + f",{space}".join(f'{space}"{name}":{space}{value}' for name, value in members) + space + "}"


@st.composite
def near_valid_records(draw: st.DrawFn) -> bytes:
    events = draw(st.lists(near_valid_events(), min_size=1, max_size=4))
    value = events[0] if len(events) == 1 and draw(st.booleans()) else b"[" + b",".join(events) + b"]"
    match draw(st.integers(0, 19)):
        case 0:
            at = draw(st.integers(0, len(value) - 1))
            return value[:at] + draw(st.binary(max_size=2)) + value[at + 1 :]
        case 1:
            return value[: draw(st.integers(0, len(value)))]
        case 2:
            return b"\xef\xbb\xbf" + value
        case _:
            return value


def told(done: Decoded) -> tuple[list[dict[str, Any]], list[Any], list[Any]]:
    return done.events.to_pylist(), done.rejects, done.forwards


@settings(MODERATE, max_examples=200)
@given(
    st.lists(near_valid_records(), min_size=1, max_size=5),
    st.sampled_from([None, {"acme"}, {"acme", "12", "é"}]),
    st.sampled_from([b"acme", b"12", "é".encode(), None, b"\xff"]),
    st.sampled_from([None, 1, 2, 3, 7]),
)
def test_the_other_lanes_decide_as_the_slow_lane_does(
    lanes: tuple[Decoder, ...],
    run: list[bytes],
    tenants: set[str] | None,
    key: bytes | None,
    partitions: int | None,
) -> None:
    framed, fast, slow = (
        told(
            decoder.decode(
                [records(run, keys=[key, *[b"acme"] * (len(run) - 1)])], tenants=tenants, partitions=partitions
            )
        )
        for decoder in lanes
    )
    assert fast == slow
    assert framed == slow


@MODERATE
@given(
    st.lists(st.tuples(st.sampled_from(["acme", "b", "é", "12"]), st.integers(0, 6)), min_size=1, max_size=12),
    st.integers(1, 7),
)
def test_an_event_is_metered_only_in_its_tenants_partition_of_so_many(
    lanes: tuple[Decoder, ...], places: list[tuple[str, int]], partitions: int
) -> None:
    run = [
        replace(
            records([json.dumps({**SOUND_EVENT, "subject": tenant}).encode()], keys=[tenant.encode()]),
            partition=partition,
        )
        for tenant, partition in places
    ]
    home = [zlib.crc32(tenant.encode()) % partitions == partition for tenant, partition in places]
    for decoder in lanes:
        done = decoder.decode(run, tenants=None, partitions=partitions)
        assert not done.rejects
        assert done.events["tenant"].to_pylist() == [t for (t, _), at_home in zip(places, home, strict=True) if at_home]
        assert [f.tenant for f in done.forwards] == [
            t for (t, _), at_home in zip(places, home, strict=True) if not at_home
        ]


@settings(MODERATE, max_examples=50)
@given(st.lists(near_valid_records(), min_size=2, max_size=6), st.data())
def test_how_records_are_cut_into_runs_changes_nothing(
    lanes: tuple[Decoder, ...], run: list[bytes], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(1, len(run) - 1))
    for decoder in lanes[:2]:
        whole = told(decoder.decode([records(run)], tenants={"acme"}))
        one = told(decoder.decode([records(run[:cut])], tenants={"acme"}))
        two = told(decoder.decode([records(run[cut:], first_offset=cut)], tenants={"acme"}))
        assert whole == tuple(first + second for first, second in zip(one, two, strict=True))


# --- frames ----------------------------------------------------------------------------------------------------------

NUMBERED: Final = tuple(
    json.dumps({**SOUND_EVENT, "id": f"e-{n}", "source": f"/gateway/{n % 3}"}, separators=separators).encode()
    for n, separators in enumerate([(",", ":"), (",", ":"), (", ", ": ")])
)
"""Sound events of two shapes."""
BYTES: Final = tuple(
    fragment.encode() if isinstance(fragment, str) else fragment
    for fragment in (
        "", '"', "\\", ",", ":", "{", "}", "[", "]", "},{", "}},{", "}}", "]}", "0", "00", "1", "-", "-1", "+1", ".5",
        "1.0", "e1", "NaN", "null", "true", " ", "\n", "\t", "\x00", "\x7f", "é", b"\xff", b"\xc3", "/**/", '"id":',
        '"time":', '"data":{', ',"id":"x"', ',"input_tokens":1', '"},"data":{"model":"m', '","subject":"b', "12345678",
        "9" * 19, '"x":{"id":"', '\\"', "\\u0061", "\\ud800", "x" * 300, "[" * 600 + "]" * 600,
    )
)  # fmt: skip


@st.composite
def damaged_events(draw: st.DrawFn) -> bytes:
    """A sound event with some bytes replaced by others: where its frames meet its atoms as anywhere else."""
    event = draw(st.sampled_from(NUMBERED))
    for _ in range(draw(st.integers(1, 3))):
        values = [match.end() for match in re.finditer(rb'":\s*"?', event)]
        at = draw(st.sampled_from(values)) if values and draw(st.integers(0, 3)) else draw(st.integers(0, len(event)))
        at = min(at + draw(st.integers(0, 3)), len(event))
        event = event[:at] + draw(st.sampled_from(BYTES)) + event[at + draw(st.integers(0, 3)) :]
    return event


@settings(MODERATE, max_examples=300)
@given(st.lists(damaged_events(), min_size=1, max_size=3), st.booleans())
@example([NUMBERED[0].replace(b":100,", b":0100,")], True)
@example([NUMBERED[0].replace(b":100,", b":-100,")], True)
@example([NUMBERED[0].replace(b":100,", b":10000000000000000000,")], False)
@example([NUMBERED[0].replace(b"e-0", b"e\\u0061")], False)
@example([NUMBERED[0].replace(b"e-0", b"e\xff")], True)
@example([NUMBERED[0].replace(b"1.0", b"1.1")], True)
def test_a_damaged_event_among_sound_ones_of_known_shapes_is_judged_as_the_slow_lane_does(
    lanes: tuple[Decoder, ...], damaged: list[bytes], in_array: bool
) -> None:
    events = [*NUMBERED, *damaged, NUMBERED[0]]
    run = [b"[" + b",".join(events) + b"]", NUMBERED[0]] if in_array else events
    framed, fast, slow = (told(decoder.decode([records(run)], tenants=None)) for decoder in lanes)
    assert fast == slow
    assert framed == slow


fragments = st.sampled_from(
    [b"{}", b'{"a":1}', b'{"a":[1', b'{"b":2}]}', b'{"a":{', b'{"c":1},{"d":2}', b"{},{}", b'{"a":"', b'{"b"', b'"}',
     b"{} ", b" {}", b"[{}]", b"1", b"", b'{"a":"\xc3', b'\xa9"}', b'{"a":"\xff"}', b'{"a":NaN}', '{"é":"é"}'.encode()]
)  # fmt: skip


@settings(MODERATE, max_examples=500)
@given(st.lists(fragments, min_size=1, max_size=5))
@example([b'{"a":[1', b'{"b":2}]}'])
@example([b'{"a":[1', b'{"b":2}]}', b"{},{}"])
@example([b'{"a":"\xc3', b'{\xa9"}'])
def test_records_taken_together_are_one_event_each(run: list[bytes]) -> None:
    if Splitter().are_single(run):
        assert [split_exactly(value) for value in run] == [[value] for value in run]


def test_sound_single_events_are_taken_together() -> None:
    assert Splitter().are_single([b"{}", '{"é":"é"}'.encode(), json.dumps(SOUND_EVENT).encode()])


# --- splitting of bodies, by tenant ---------------------------------------------------------------------------------

SUBJECT_NAMES: Final = ("subject", "subject", "sub\\u006aect", "Subject", "data", "subject ")
SUBJECTS: Final = (
    '"acme"', '"borg"', '""', "null", "7", '"\\u0061cme"', '"a\\"subject\\""', '"subject"', '"\u00e9"', '"\\ud800"',
    '{"subject":"other"}', '["subject"]', '"a\u0000"', '"a\u007f"', '"' + "x" * 257 + '"', "NaN", "1e999", "1" * 30,
    "[" * 501, "[" * 499 + "]" * 499, "[" * 600 + "]" * 600,
)  # fmt: skip


@st.composite
def claiming_bodies(draw: st.DrawFn) -> bytes:
    """Bodies whose events name tenants in more and in fewer ways than one."""
    members = st.lists(st.tuples(st.sampled_from(SUBJECT_NAMES), st.sampled_from(SUBJECTS)), max_size=3)
    space = draw(st.sampled_from(("", "", " ", "\n\t")))
    pieces = [_object(each, space) for each in draw(st.lists(members, max_size=4))]
    pieces += draw(st.lists(st.sampled_from(SUBJECTS), max_size=1))
    text = pieces[0] if len(pieces) == 1 and draw(st.booleans()) else f"[{space}" + f"{space},".join(pieces) + "]"
    return text.encode(errors="surrogatepass") + draw(st.sampled_from((b"", b"", b"", b" ", b",", b"{}", b"\xff")))


def by_definition(body: bytes) -> list[tuple[str | None, bytes]] | str:
    try:
        return [(claimed(piece), piece) for piece in split_exactly(body)]
    except Unparsable as wrong:
        return str(wrong)


def by_split(body: bytes) -> list[tuple[str | None, bytes]] | str:
    try:
        return split(body)
    except Unparsable as wrong:
        return str(wrong)


@settings(MODERATE, max_examples=1_000)
@given(st.one_of(claiming_bodies(), near_valid_records(), st.binary(max_size=20)))
@example(b'[{"subject":"acme","subject":"borg"}]')
@example(b'[{"sub\\u006aect":"acme","subject":"borg"}]')
@example(b'[{"subject":"acme","sub\\u006aect":"borg"}]')
@example(b'{"data":{"subject":"acme"}}')
@example(b'[{"subject":"acme"},{"subject":"\xff"}]')
def test_a_body_is_split_and_keyed_by_the_first_subject_of_each_event(body: bytes) -> None:
    assert by_split(body) == by_definition(body)


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reader() -> Iterator[ColumnReader]:
    reader = ColumnReader()
    yield reader
    reader.close()


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


@MODERATE
@given(st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=8))
def test_the_vectorised_key_is_the_plain_key(reader: ColumnReader, triples: list[tuple[str, str, str]]) -> None:
    pairs = pa.array([pair_digest(tenant, source) for tenant, source, _ in triples], pa.binary(16))
    keys = reader.keys(pairs, pa.array([id_ for *_, id_ in triples]))
    assert keys.to_pylist() == [event_key(*triple) for triple in triples]


def test_a_run_of_one_topic_says_its_topic_in_each_reject(lanes: tuple[Decoder, ...]) -> None:
    run = Records("other", 2, [9], [T0_US], [b"\xff"], [b"x"], [()])
    [reject] = lanes[0].decode([run], tenants=None).rejects
    assert (reject.topic, reject.partition, reject.offset, reject.tenant) == ("other", 2, 9, None)
