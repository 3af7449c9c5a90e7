"""The AlertOutbox contract, run on the twin in memory and on the one in the control database."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import StatementError

from meterhouse.streams.alert import Alert, resolution_of
from meterhouse.streams.alerts import (
    MAX_ERROR_TEXT,
    SILENCED,
    AlertFilter,
    AlertOutbox,
    AlertPlace,
    Delivery,
    MemoryOutbox,
    OutboxEntry,
    OutboxUnavailable,
)
from meterhouse.warehouse.alert_outbox import SqlAlertOutbox
from meterhouse.warehouse.database import open_database, sqlite_url, writing
from tests.services.databases import with_driver


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def outbox(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AlertOutbox]:
    if request.param == "memory":
        yield MemoryOutbox()
        return
    url = sqlite_url(tmp_path / "control.sqlite")
    if request.param == "postgres":
        url = with_driver(request.getfixturevalue("postgres").new_database())
    engine = open_database(url)
    yield SqlAlertOutbox(engine)
    engine.dispose()


def alert(id_: str = "a", created_us: int = 100, **changes: Any) -> Alert:
    fields: dict[str, Any] = {
        "kind": "threshold",
        "subject": "acme-month",
        "summary": "budget acme-month has reached 99.5 % of its limit",
        "budget_id": "acme-month",
        "window_start_us": 0,
        "window_end_us": 1_000,
        "threshold": "99.5",
        "spent": "20000000.000000000001",
        "limit": "20000000.000000000000",
        "payload": {"unit": "EUR", "tenants": ["acme", "ü"], "more": {"n": 1, "none": None}},
    }
    return Alert(**{"id": id_, "created_us": created_us, **fields, **changes})


def failed(error: str, next_attempt_us: int | None, attempts: int = 1) -> Delivery:
    return Delivery(attempts=attempts, next_attempt_us=next_attempt_us, last_error=error)


def ids(entries: Any) -> list[str]:
    return [entry.alert.id for entry in entries]


def test_an_alert_is_due_at_once_and_comes_back_whole(outbox: AlertOutbox) -> None:
    assert outbox.add([alert()]) == 1
    assert list(outbox.due(100, 10)) == [OutboxEntry(alert=alert(), next_attempt_us=100)]
    assert list(outbox.due(99, 10)) == []


def test_it_says_how_many_wait_and_since_when_the_oldest(outbox: AlertOutbox) -> None:
    assert outbox.waiting() == (0, None)
    outbox.add([alert("a", 100), alert("b", 50), alert("c", 70)])
    outbox.record("b", {"hook": Delivery(delivered_us=60)}, ["hook"])
    outbox.record("c", {"hook": failed("no", 9_000)}, ["hook"])
    assert outbox.waiting() == (2, 70)


def test_an_id_that_is_there_is_ignored_whatever_it_says_now(outbox: AlertOutbox) -> None:
    outbox.add([alert()])
    assert outbox.add([alert(spent="9", created_us=5), alert("b"), alert("b")]) == 1
    assert list(outbox.list()) == [
        OutboxEntry(alert=alert("b"), next_attempt_us=100),
        OutboxEntry(alert=alert(), next_attempt_us=100),
    ]


def test_no_alerts_are_no_work(outbox: AlertOutbox) -> None:
    assert (outbox.add([]), list(outbox.due(10**18, 5)), list(outbox.list())) == (0, [], [])


def test_due_goes_by_time_then_id_up_to_the_limit(outbox: AlertOutbox) -> None:
    outbox.add([alert("b"), alert("B"), alert("ä"), alert("c", 50), alert("z", 200)])
    assert ids(outbox.due(150, 10)) == ["c", "B", "b", "ä"]
    assert ids(outbox.due(150, 2)) == ["c", "B"]


DONE = Delivery(delivered_us=120)


def test_a_delivered_alert_is_no_longer_due_and_stays_as_first_delivered(outbox: AlertOutbox) -> None:
    outbox.add([alert()])
    outbox.record("a", {"webhook": failed("503", 110)}, ["webhook"])
    done = replace(DONE, attempts=1, last_error="503")
    outbox.record("a", {"webhook": done}, ["webhook"])
    outbox.record("a", {"webhook": replace(done, delivered_us=130)}, ["webhook"])
    outbox.record("a", {"webhook": failed("late", 140)}, ["webhook"])
    outbox.silence("a", 150)
    entry = outbox.get("a")
    assert entry == OutboxEntry(
        alert=alert(),
        attempts=1,
        next_attempt_us=None,
        delivered_us=120,
        delivered_by="webhook",
        last_error="503",
        channels={"webhook": done},
    )
    assert entry.state == "delivered"
    assert list(outbox.due(10**18, 5)) == []


def test_a_failed_alert_waits_for_its_next_attempt(outbox: AlertOutbox) -> None:
    outbox.add([alert()])
    outbox.record("a", {"webhook": failed("503", 500)}, ["webhook"])
    assert list(outbox.due(499, 5)) == []
    (entry,) = outbox.due(500, 5)
    assert (entry.attempts, entry.next_attempt_us, entry.last_error, entry.state) == (1, 500, "503", "waiting")


def test_a_given_up_alert_is_kept_with_its_last_error(outbox: AlertOutbox) -> None:
    outbox.add([alert()])
    outbox.record("a", {"webhook": failed("x" * (MAX_ERROR_TEXT + 1), None, attempts=2)}, ["webhook"])
    assert list(outbox.due(10**18, 5)) == []
    (entry,) = outbox.list()
    assert (entry.attempts, entry.last_error, entry.state) == (2, "x" * MAX_ERROR_TEXT, "given_up")


def test_an_alert_waits_until_each_channel_has_it(outbox: AlertOutbox) -> None:
    outbox.add([alert()])
    both = ["webhook", "alertmanager"]
    outbox.record("a", {"webhook": DONE}, both)
    (entry,) = outbox.due(120, 5)
    assert (entry.state, entry.posted, entry.delivered_us) == ("waiting", True, None)
    assert [entry.is_due(name, 120) for name in both] == [False, True]
    outbox.record("a", {"alertmanager": failed("refused", 400)}, both)
    assert list(outbox.due(399, 5)) == []
    outbox.record("a", {"alertmanager": Delivery(attempts=1, delivered_us=410, last_error="refused")}, both)
    entry = outbox.get("a")
    assert (entry.state, entry.delivered_us, entry.delivered_by) == ("delivered", 410, "webhook,alertmanager")
    assert (entry.attempts, entry.last_error, entry.channels["webhook"]) == (1, "refused", DONE)


def test_an_alert_that_one_channel_gave_up_is_given_up_when_the_others_have_it(outbox: AlertOutbox) -> None:
    outbox.add([alert()])
    outbox.record("a", {"alertmanager": failed("refused", None)}, ["webhook", "alertmanager"])
    assert outbox.get("a").state == "waiting"
    outbox.record("a", {"webhook": DONE}, ["webhook", "alertmanager"])
    assert (outbox.get("a").state, outbox.get("a").last_error) == ("given_up", "refused")


def test_a_channel_that_is_no_longer_wanted_holds_nothing_up(outbox: AlertOutbox) -> None:
    outbox.add([alert()])
    outbox.record("a", {"webhook": DONE, "alertmanager": failed("refused", 130)}, ["webhook", "alertmanager"])
    outbox.record("a", {}, ["webhook"])
    assert (outbox.get("a").state, outbox.get("a").delivered_by) == ("delivered", "webhook")


def test_a_silenced_alert_is_done_with_and_no_channel_has_it(outbox: AlertOutbox) -> None:
    outbox.add([alert()])
    outbox.silence("a", 150)
    outbox.record("a", {"webhook": DONE}, ["webhook"])
    assert outbox.get("a") == OutboxEntry(alert=alert(), next_attempt_us=None, delivered_us=150, delivered_by=SILENCED)
    assert (outbox.get("a").state, outbox.get("a").posted, list(outbox.due(10**18, 5))) == ("silenced", False, [])


def test_what_a_channel_has_is_not_silenced(outbox: AlertOutbox) -> None:
    outbox.add([alert()])
    outbox.record("a", {"webhook": DONE}, ["webhook", "alertmanager"])
    before = outbox.get("a")
    outbox.silence("a", 150)
    assert outbox.get("a") == before


def test_an_id_that_is_not_there_is_a_key_error(outbox: AlertOutbox) -> None:
    with pytest.raises(KeyError):
        outbox.record("nobody", {"webhook": DONE}, ["webhook"])
    with pytest.raises(KeyError):
        outbox.silence("nobody", 1)


def test_channels_that_are_recorded_at_once_are_all_kept(outbox: AlertOutbox) -> None:
    outbox.add([alert()])
    names = [f"apprise-{number}" for number in range(8)]

    def record(name: str) -> None:
        outbox.record("a", {name: DONE}, names)

    threads = [threading.Thread(target=record, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (sorted(outbox.get("a").channels), outbox.get("a").state) == (names, "delivered")


def test_the_list_is_half_open_newest_first_and_bounded(outbox: AlertOutbox) -> None:
    outbox.add([alert("a", 10), alert("b", 20), alert("c", 20), alert("d", 30)])
    assert ids(outbox.list()) == ["d", "c", "b", "a"]
    assert ids(outbox.list(AlertFilter(from_us=10, to_us=30))) == ["c", "b", "a"]
    assert ids(outbox.list(AlertFilter(from_us=20), limit=2)) == ["d", "c"]


def test_pages_follow_each_other_without_gap_or_repeat(outbox: AlertOutbox) -> None:
    outbox.add([alert(name, created_us) for name, created_us in (("a", 10), ("B", 20), ("b", 20), ("ä", 20))])
    seen: list[str] = []
    after: AlertPlace | None = None
    for _ in range(4):
        (entry,) = outbox.list(after=after, limit=1)
        seen.append(entry.alert.id)
        after = AlertPlace.from_token(entry.place.token)
    assert seen == ["ä", "b", "B", "a"]
    assert list(outbox.list(after=after)) == []


@pytest.mark.parametrize("token", ["", "page two", "12", "12.", ".a", "x.a"])
def test_a_token_that_no_page_gave_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="`next` of the page before"):
        AlertPlace.from_token(token)


def test_an_alert_is_got_by_its_id(outbox: AlertOutbox) -> None:
    outbox.add([alert(), alert("b")])
    assert outbox.get("a") == OutboxEntry(alert=alert(), next_attempt_us=100)
    with pytest.raises(KeyError):
        outbox.get("nobody")


def test_open_is_what_nothing_resolves_and_whose_window_is_not_over(outbox: AlertOutbox) -> None:
    news = alert("gone", 20)
    lasting = alert("lasting", 40, kind="unpriced", subject="atlas/x", window_start_us=None, window_end_us=None)
    outbox.add([news, alert("over", 10, window_end_us=500), alert("here", 30), lasting])
    outbox.add([resolution_of(news, 60, "the limit was raised")])
    assert ids(outbox.open(499, 10)) == ["lasting", "here", "over"]
    assert ids(outbox.open(500, 10)) == ["lasting", "here"]
    assert ids(outbox.open(500, 1)) == ["lasting"]
    assert ids(outbox.open(500, 10, "threshold")) == ["here"]
    assert outbox.get("gone").resolved_us == 60
    assert [entry.resolved_us for entry in outbox.due(1_000, 10) if entry.alert.id == "gone"] == [60]


def test_an_acknowledged_alert_says_by_whom_and_stays_open(outbox: AlertOutbox) -> None:
    outbox.add([alert()])
    said = outbox.acknowledge("a", "ann", "asking acme", 300)
    assert said == OutboxEntry(
        alert=alert(), next_attempt_us=100, acknowledged_us=300, acknowledged_by="ann", note="asking acme"
    )
    assert list(outbox.open(400, 10)) == [outbox.get("a")] == [said]
    again = outbox.acknowledge("a", "bob", None, 400)
    assert (again.acknowledged_us, again.acknowledged_by, again.note) == (400, "bob", None)
    with pytest.raises(KeyError):
        outbox.acknowledge("nobody", "ann", None, 300)


def test_the_list_is_filtered_by_kind_subject_and_status(outbox: AlertOutbox) -> None:
    resolved, seen = alert("resolved", 10), alert("seen", 20)
    model = alert("model", 30, kind="unpriced", subject="atlas/x", window_start_us=None, window_end_us=None)
    back = resolution_of(resolved, 50, "the limit was raised")
    outbox.add([resolved, seen, model, back, alert("over", 40, window_end_us=60)])
    outbox.acknowledge("seen", "ann", None, 55)

    def listed(**wanted: Any) -> list[str]:
        return ids(outbox.list(AlertFilter(at_us=100, **wanted)))

    assert listed(kind="unpriced") == ["model"]
    assert listed(subject="acme-month") == [back.id, "over", "seen", "resolved"]
    assert listed(status="open") == ["model", "seen"]
    assert listed(status="acknowledged") == ["seen"]
    assert listed(status="resolved") == ["over", "resolved"]
    assert listed(status="open", subject="acme-month", to_us=20) == []


def test_threads_that_raise_the_same_alerts_store_each_once(outbox: AlertOutbox) -> None:
    new: list[int] = []

    def add() -> None:
        new.extend(outbox.add([alert(str(number))]) for number in range(20))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (sum(new), len(outbox.list())) == (20, 20)


def test_an_error_of_any_characters_is_kept(engine: sa.Engine) -> None:
    outbox = SqlAlertOutbox(engine)
    outbox.add([alert()])
    outbox.record("a", {"webhook": failed("bad \ud800 and \x00", 500)}, ["webhook"])
    assert outbox.get("a").last_error == outbox.get("a").channels["webhook"].last_error == "bad ? and ?"


def test_alerts_that_cannot_all_be_stored_are_none_of_them(engine: sa.Engine) -> None:
    outbox = SqlAlertOutbox(engine)
    with pytest.raises((StatementError, TypeError), match="not JSON serializable"):
        outbox.add([alert(), alert("b", payload={"not": {"json"}})])
    assert list(outbox.list()) == []


def test_a_database_without_its_table_is_unavailable(engine: sa.Engine) -> None:
    with writing(engine) as connection:
        connection.exec_driver_sql("DROP TABLE alerts")
    with pytest.raises(OutboxUnavailable, match=r"no such table|does not exist"):
        SqlAlertOutbox(engine).due(1, 1)
