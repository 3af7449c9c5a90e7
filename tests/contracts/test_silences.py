"""The SilenceStore contract, on the twin in memory and on the one in the control database; and what a silence is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meterhouse.streams.alert import Alert
from meterhouse.streams.silence_store import MemorySilences, SilenceStore
from meterhouse.streams.silences import MAX_LENGTH_US, MAX_SILENCES, MAX_TEXT, BadSilence, Silence, matches
from meterhouse.warehouse.database import open_database, sqlite_url
from meterhouse.warehouse.silences import SqlSilences
from tests.services.databases import with_driver


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def silences(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SilenceStore]:
    if request.param == "memory":
        yield MemorySilences()
        return
    url = sqlite_url(tmp_path / "control.sqlite")
    if request.param == "postgres":
        url = with_driver(request.getfixturevalue("postgres").new_database())
    engine = open_database(url)
    yield SqlSilences(engine)
    engine.dispose()


def silence(id_: str = "s", **changes: Any) -> Silence:
    fields: dict[str, Any] = {
        "subject": "acme-month",
        "from_us": 100,
        "until_us": 200,
        "by": "ann",
        "reason": "the migration of acme",
        "created_us": 100,
    }
    return Silence(**{"id": id_, **fields, **changes})


def alert(subject: str = "acme-month", **changes: Any) -> Alert:
    return Alert(**{"id": "a", "kind": "threshold", "subject": subject, "summary": "", "created_us": 0, **changes})


def test_a_silence_stands_until_its_end_and_comes_back_whole(silences: SilenceStore) -> None:
    later = silence("later", kind="forecast", from_us=150, until_us=300)
    silences.add(later)
    silences.add(silence())
    assert list(silences.standing(50)) == list(silences.standing(199)) == [silence(), later]
    assert list(silences.standing(200)) == [later]
    assert list(silences.standing(300)) == []


def test_an_ended_silence_is_over_and_ends_once(silences: SilenceStore) -> None:
    silences.add(silence())
    silences.end("s", 150)
    assert list(silences.standing(149)) == [silence(until_us=150)]
    assert list(silences.standing(150)) == []
    with pytest.raises(KeyError):
        silences.end("s", 160)


def test_a_silence_that_has_not_begun_never_was(silences: SilenceStore) -> None:
    silences.add(silence())
    silences.end("s", 100)
    assert list(silences.standing(0)) == []


def test_a_silence_that_is_not_there_cannot_end(silences: SilenceStore) -> None:
    silences.add(silence())
    for name, now_us in (("nobody", 100), ("s", 200)):
        with pytest.raises(KeyError):
            silences.end(name, now_us)


def test_an_id_is_given_once(silences: SilenceStore) -> None:
    silences.add(silence())
    with pytest.raises(BadSilence, match="another"):
        silences.add(silence(reason="something else"))
    assert list(silences.standing(100)) == [silence()]


def test_there_is_an_end_to_how_many_stand(silences: SilenceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meterhouse.streams.silence_store.MAX_SILENCES", 2)
    silences.add(silence("a"))
    silences.add(silence("b"))
    with pytest.raises(BadSilence, match="end some first"):
        silences.add(silence("c"))
    silences.end("a", 150)
    silences.add(silence("c", created_us=150))
    assert [each.id for each in silences.standing(150)] == ["b", "c"]
    assert MAX_SILENCES == 1_000


def test_reasons_of_any_characters_are_kept(silences: SilenceStore) -> None:
    silences.add(silence(reason="Umstellung für „acme“ 🚧"))
    assert [each.reason for each in silences.standing(100)] == ["Umstellung für „acme“ 🚧"]


@pytest.mark.parametrize(
    ("changes", "heard_of"),
    [
        ({}, {"budget", "forecast"}),
        ({"kind": "threshold"}, {"budget"}),
        ({"kind": "unpriced", "subject": None}, {"model"}),
        ({"subject": "other"}, set()),
    ],
)
def test_a_silence_is_of_a_subject_a_kind_or_both(changes: dict[str, Any], heard_of: set[str]) -> None:
    alerts = {
        "budget": alert(),
        "forecast": alert(kind="forecast"),
        "model": alert("atlas/x", kind="unpriced"),
    }
    assert {name for name, each in alerts.items() if matches(silence(**changes), each, 150)} == heard_of


def test_a_silence_holds_from_its_start_until_before_its_end() -> None:
    assert [matches(silence(), alert(), now_us) for now_us in (99, 100, 199, 200)] == [False, True, True, False]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"subject": None}, "say what to silence"),
        ({"subject": ""}, "say what to silence"),
        ({"until_us": 100}, "ends after it begins"),
        ({"until_us": 101 + MAX_LENGTH_US}, "at most 90 days"),
        ({"by": " "}, "`by` is a text"),
        ({"reason": ""}, "`reason` is a text"),
        ({"reason": "x" * (MAX_TEXT + 1)}, "1 to 500 characters"),
    ],
)
def test_what_cannot_be_a_silence_is_told(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadSilence, match=said):
        silence(**changes)
    assert replace(silence(), until_us=100 + MAX_LENGTH_US, reason="x" * MAX_TEXT)
