"""Writes that are sent again under their Idempotency-Key, on each control database."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi.responses import Response

from meterhouse.api.app import create_app
from meterhouse.api.clock import now_us
from meterhouse.api.once import Once
from meterhouse.api.problems import Problem
from meterhouse.api.schemas.alerts import Acknowledgement
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.streams.alert import Alert, rfc3339
from meterhouse.warehouse.api_keys import NewKey
from meterhouse.warehouse.audit import AuditFilter, AuditLog, Deed, append
from meterhouse.warehouse.control_tables import IDEMPOTENCY_KEYS
from meterhouse.warehouse.database import writing
from meterhouse.warehouse.idempotency import KEPT_US, IdempotencyKeys, Keep, Kept, Repeated, Write
from tests.api.serving import served
from tests.api.test_http import problem

DAY_US = 86_400 * 1_000_000
KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with House(Settings(home=tmp_path / "home")) as house:
        yield house


@pytest.fixture
def http(house: House) -> Iterator[httpx.Client]:
    with served(create_app(house)) as http:
        yield http


def asked(**changes: Any) -> dict[str, Any]:
    until = rfc3339(now_us() // DAY_US * DAY_US + 2 * DAY_US)
    return {"subject": "acme-month", "until": until, "by": "ann", "reason": "known"} | changes


# -- over HTTP -------------------------------------------------------------------------------------------------------


def test_a_silence_sent_again_is_answered_the_same_and_made_once(house: House, http: httpx.Client) -> None:
    first, again = (http.post("/v1/silences", json=asked(), headers=KEY) for _ in range(2))
    assert (first.status_code, first.headers["content-type"]) == (201, "application/json")
    assert (again.status_code, again.content, again.headers["content-type"]) == (201, first.content, "application/json")
    assert [each.id for each in house.silences.standing(now_us())] == [first.json()["id"]]
    assert len(house.audit.page(AuditFilter(), None, 10)) == 1


@pytest.mark.parametrize("path", ["/v1/keys", "/v1/keys/{id}/rotation"])
def test_an_api_key_asked_for_again_is_made_once_and_its_text_told_once(house: House, path: str) -> None:
    admin = house.keys.create(NewKey(name="admin", role="admin", grants=None, expires_us=None), "test", now_us())
    headers = KEY | {"authorization": f"Bearer {admin.text}"}
    body = {} if "rotation" in path else {"name": "report", "role": "finance"}
    with served(create_app(house)) as http:
        first, again = (http.post(path.format(id=admin.key.id), json=body, headers=headers) for _ in range(2))
    assert first.status_code == 201
    assert "its answer held a secret" in problem(again, 409, "conflict")["detail"]
    assert first.json()["key"].encode() not in again.content
    assert {key.id for key in house.keys.all(now_us())} == {admin.key.id, first.json()["id"]}


def test_without_a_key_or_under_another_it_is_made_again(house: House, http: httpx.Client) -> None:
    answers = [http.post("/v1/silences", json=asked(), headers=h) for h in ({}, {}, KEY, {"Idempotency-Key": "2"})]
    assert len({answer.json()["id"] for answer in answers}) == len(house.silences.standing(now_us())) == 4


def test_a_key_used_for_another_request_is_a_conflict_that_says_what_to_do(house: House, http: httpx.Client) -> None:
    http.post("/v1/silences", json=asked(), headers=KEY)
    answer = http.post("/v1/silences", json=asked(reason="something else"), headers=KEY)
    assert "give each request a new one" in problem(answer, 409, "conflict")["detail"]
    assert len(house.silences.standing(now_us())) == 1


def test_what_was_refused_may_be_sent_again_mended(http: httpx.Client) -> None:
    problem(http.post("/v1/silences", json=asked(until="2020-01-01T00:00:00Z"), headers=KEY), 400, "invalid-parameter")
    assert http.post("/v1/silences", json=asked(), headers=KEY).status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 256, "two words", "caf\xe9"])
def test_a_key_that_is_none_is_a_400(house: House, http: httpx.Client, key: str) -> None:
    answer = http.post("/v1/silences", json=asked(), headers={"Idempotency-Key": key.encode("latin-1")})
    assert "Idempotency-Key" in problem(answer, 400, "invalid-parameter")["detail"]
    assert list(house.silences.standing(now_us())) == []


def test_the_first_answer_is_there_after_a_restart(house: House, http: httpx.Client) -> None:
    first = http.post("/v1/silences", json=asked(), headers=KEY)
    with House(house.settings) as other, served(create_app(other)) as http_of_other:
        assert http_of_other.post("/v1/silences", json=asked(), headers=KEY).content == first.content


def test_an_acknowledgement_sent_again_changes_nothing(house: House, http: httpx.Client) -> None:
    house.outbox.add([Alert(id="a", kind="threshold", subject="x", summary="", created_us=1)])
    first, again = (http.post("/v1/alerts/a/acknowledgement", json={"by": "ann"}) for _ in range(2))
    assert first.status_code == again.status_code == 200
    assert first.json() == again.json()
    assert len(house.audit.page(AuditFilter(), None, 10)) == 1


def test_a_silence_ended_twice_is_gone_and_has_one_entry(house: House, http: httpx.Client) -> None:
    made = http.post("/v1/silences", json=asked()).json()
    answers = [http.delete(f"/v1/silences/{made['id']}").status_code for _ in range(2)]
    assert answers == [204, 404]
    assert [entry.action for entry in house.audit.page(AuditFilter(), None, 10)] == ["silence.ended", "silence.made"]


# -- the mechanism ---------------------------------------------------------------------------------------------------


class Caller:
    """Someone who sends one write, whose deed is an entry of the audit log."""

    def __init__(self, engine: sa.Engine, name: str = "key:1", keys: IdempotencyKeys | None = None) -> None:
        self.engine, self.name = engine, name
        self.keys = keys or IdempotencyKeys(engine)

    def send(self, key: str = "k", *, by: str = "ann", secret: bool = False, meanwhile: Any = None) -> Response:
        class Request:
            method = "POST"

            class url:  # noqa: N801
                path = "/v1/things"

        def make(keep: Keep) -> Mapping[str, Any]:
            answer = {"made_by": by}
            if meanwhile is not None:
                meanwhile()
            with writing(self.engine) as connection:
                keep(answer)(connection)
                append(connection, Deed(self.name, "thing.made", by), 1)
            return answer

        once = Once(lambda: self.keys, Request(), Write(self.name, key))  # type: ignore[arg-type]
        return once.answered(Acknowledgement(by=by), make, 201, secret=secret)

    def refused(self, **how: Any) -> Problem:
        with pytest.raises(Problem) as refusal:
            self.send(**how)
        assert refusal.value.name == "conflict"
        return refusal.value

    @property
    def made(self) -> int:
        return len(AuditLog(self.engine).page(AuditFilter(action="thing.made"), None, 1_000))


def test_keys_are_each_callers_own(engine: sa.Engine) -> None:
    ann, bob = Caller(engine), Caller(engine, "key:2")
    assert (ann.send().body, bob.send(by="bob").body) == (b'{"made_by":"ann"}', b'{"made_by":"bob"}')
    assert ann.made == 2


def test_while_the_first_is_under_way_the_same_is_told_to_wait(engine: sa.Engine) -> None:
    caller = Caller(engine)
    refusals: list[Problem] = []
    first = caller.send(meanwhile=lambda: refusals.append(caller.refused()))
    assert [(each.status, each.headers["Retry-After"]) for each in refusals] == [(409, "1")]
    assert (caller.send().body, caller.made) == (first.body, 1)


def test_what_another_process_did_meanwhile_is_not_done_twice(engine: sa.Engine) -> None:
    here, there = Caller(engine), Caller(engine)
    answers: list[Response] = []
    answers.append(here.send(meanwhile=lambda: answers.append(there.send())))
    assert [answer.body for answer in answers] == [b'{"made_by":"ann"}'] * 2
    assert here.made == 1


def test_many_servers_that_are_sent_the_same_do_it_once(engine: sa.Engine) -> None:
    callers = [Caller(engine) for _ in range(6)]
    bodies: list[bytes] = []
    threads = [threading.Thread(target=lambda c=c: bodies.append(bytes(c.send().body))) for c in callers]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (bodies, callers[0].made) == ([b'{"made_by":"ann"}'] * 6, 1)


def test_an_answer_with_a_secret_is_not_kept_and_a_retry_is_told_so(engine: sa.Engine) -> None:
    caller = Caller(engine)
    assert caller.send(secret=True).body == b'{"made_by":"ann"}'
    assert "rotate" in caller.refused(secret=True).detail
    with engine.connect() as connection:
        assert connection.execute(sa.select(IDEMPOTENCY_KEYS.c.body)).all() == [(None,)]
    assert caller.made == 1


def test_a_deed_that_fails_keeps_no_answer_and_an_answer_that_fails_undoes_the_deed(engine: sa.Engine) -> None:
    caller = Caller(engine)

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        caller.send(meanwhile=fail)
    assert caller.keys.find(Write("key:1", "k"), now_us()) is None
    kept = Kept(b"", 201, b"{}")
    for expected in (1, 1):
        try:
            with writing(engine) as connection:
                append(connection, Deed("ann", "thing.made", "a"), 1)
                caller.keys.keeping(Write("key:1", "k"), kept, now_us())(connection)
        except Repeated:
            pass
        assert caller.made == expected


def test_answers_are_kept_for_a_day_and_then_go_a_few_at_a_time(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meterhouse.warehouse.idempotency._SWEPT", 2)
    keys, kept = IdempotencyKeys(engine), Kept(b"d", 201, b"{}")

    def keep(key: str, at_us: int) -> None:
        with writing(engine) as connection:
            keys.keeping(Write("c", key), kept, at_us)(connection)

    for number in range(5):
        keep(f"old-{number}", 1_000 + number)
    end_us = 1_000 + KEPT_US
    assert keys.find(Write("c", "old-0"), end_us - 1) == kept
    assert keys.find(Write("c", "old-0"), end_us) is None
    keep("old-4", end_us + 10)  # its own that is over makes room
    with engine.connect() as connection:
        left = connection.execute(sa.select(IDEMPOTENCY_KEYS.c.key).order_by(IDEMPOTENCY_KEYS.c.at_us)).scalars().all()
    assert left == ["old-2", "old-3", "old-4"]
