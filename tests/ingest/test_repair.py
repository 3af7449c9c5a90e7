"""Edits of a rejected event."""

from __future__ import annotations

import json

import pytest

from meterhouse.ingest.repair import BadEdit, edited

EVENT = b'{"id":"7","data":{"model":"atlas-larg","tokens":12345678901234567890,"labels":{"a":"b"}}}'


def test_a_dotted_path_is_set_to_json_or_to_a_text_and_the_rest_stays() -> None:
    made = edited(
        EVENT, ["data.model=atlas-large", "data.input_tokens=12", 'subject="7"', "data.user=null", "data.x.y=a=b"]
    )
    assert json.loads(made) == {
        "id": "7",
        "subject": "7",
        "data": {
            "model": "atlas-large", "tokens": 12345678901234567890, "labels": {"a": "b"}, "input_tokens": 12,
            "user": None, "x": {"y": "a=b"},
        },
    }  # fmt: skip


def test_of_equal_keys_the_first_counts_as_it_does_when_the_event_is_judged() -> None:
    assert json.loads(edited(b'{"a": 1, "a": 2}', ["b=3"])) == {"a": 1, "b": 3}


@pytest.mark.parametrize("payload", [b"", b"\xff", b"{", b"[{}]", b"12", b"[" * 5_000])
def test_bytes_that_are_not_one_object_can_only_be_replaced_whole(payload: bytes) -> None:
    with pytest.raises(BadEdit, match="--file"):
        edited(payload, ["a=1"])


@pytest.mark.parametrize("edit", ["a", "=1", "", "id.x=1"])
def test_what_is_no_edit_is_refused(edit: str) -> None:
    with pytest.raises(BadEdit):
        edited(EVENT, [edit])
