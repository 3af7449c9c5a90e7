"""The client against servers that drop, refuse, delay and babble. Time is passed in: nothing sleeps."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterhouse.client import (
    AdmissionRequest,
    BadAnswer,
    Conflict,
    InvalidRequest,
    LogFull,
    Meterhouse,
    MeterhouseError,
    NewSilence,
    NotFound,
    Patience,
    RateLimited,
    Refused,
    ServerFailed,
    Unauthenticated,
    Unavailable,
    Unreachable,
)
from meterhouse.client.errors import problem_of
from meterhouse.client.transport import Surroundings
from tests.client.scripted import DROP, Scripted, answer, problem, scripted

PRICES = answer(200, b'{"currency": "USD", "at": "2026-11-01T00:00:00Z", "control_version": 1, "prices": [], "new": 1}')
SILENCE = answer(
    201,
    b'{"id": "s", "kind": null, "subject": "b", "from": "2026-11-01T00:00:00Z", "until": "2026-11-02T00:00:00Z",'
    b' "by": "ann", "reason": "r", "created": "2026-11-01T00:00:00Z"}',
)
ASK = AdmissionRequest(tenant="acme", application="assistant", model="large")
BUSY = problem(503, "unavailable")


@dataclass
class Time:
    """Passes only while the client waits."""

    now_s: float = 0.0
    waits: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now_s += seconds

    @property
    def around(self) -> Surroundings:
        return Surroundings(clock=lambda: self.now_s, sleep=self.sleep, draw=lambda: 0.5)


@contextmanager
def asking(time: Time, *answers: bytes, patience: Patience | None = None) -> Iterator[tuple[Meterhouse, Scripted]]:
    with (
        scripted(answers) as server,
        Meterhouse(server.url, key="secret", patience=patience, around=time.around) as client,
    ):
        yield client, server


@pytest.fixture
def time() -> Time:
    return Time()


def test_what_was_dropped_or_not_possible_is_asked_again_and_the_waits_grow(time: Time) -> None:
    with asking(time, DROP, BUSY, answer(502, b"<html>bad gateway", "text/html"), PRICES) as (client, server):
        assert client.prices().currency == "USD"
    assert server.lines == ["GET /v1/prices HTTP/1.1"] * 4
    assert server.values("authorization") == ["bearer secret"] * 4
    assert time.waits == [0.05, 0.1, 0.2]


def test_events_are_published_again_since_they_are_billed_once(time: Time) -> None:
    with asking(time, DROP, BUSY, answer(204)) as (client, server):
        assert client.publish([{"id": "a"}]) == 1
    assert [request.partition(b"\r\n\r\n")[2] for request in server.asked] == [b'[{"id":"a"}]'] * 3


@pytest.mark.parametrize("trouble", [DROP, BUSY, problem(500, "internal-error")])
def test_what_may_have_been_done_and_must_not_be_done_twice_is_not_asked_again(time: Time, trouble: bytes) -> None:
    errors = (Unreachable, Unavailable, ServerFailed)
    with asking(time, trouble, answer(204)) as (client, server), pytest.raises(errors):
        client.admit(ASK)
    assert len(server.asked) == 1
    assert time.waits == []


def test_a_rate_limit_is_waited_out_as_long_as_the_server_says(time: Time) -> None:
    limited = problem(429, "rate-limited", headers={"retry_after": "7"})
    with asking(time, limited, answer(204)) as (client, server):
        client.settle("r", tokens=1)  # not repeatable, and not done
    assert len(server.asked) == 2
    assert time.waits == [7.05]


def test_a_budget_s_refusal_is_an_answer_and_is_not_asked_again(time: Time) -> None:
    members = {"reason": "throttled", "budget": "acme-month", "retryable": True}
    refusal = problem(429, "budget-refusal", headers={"retry_after": "3"}, **members)
    with asking(time, refusal) as (client, server), pytest.raises(Refused) as refused:
        client.admit(ASK)
    error = refused.value
    assert (error.reason, error.budget, error.retryable, error.retry_after_s) == ("throttled", "acme-month", True, 3)
    assert (error.type, error.detail) == ("/problems/budget-refusal", "about budget-refusal")
    assert error.members == members
    assert len(server.asked) == 1


def test_a_silence_is_sent_again_under_the_same_key(time: Time) -> None:
    asked = NewSilence(until=datetime(2026, 11, 2, tzinfo=UTC), by="ann", reason="r", subject="b")
    under_way = problem(409, "conflict", headers={"retry_after": "1"})
    with asking(time, DROP, under_way, SILENCE, SILENCE) as (client, server):
        assert client.silence(asked).id == "s"
        client.silence(asked)
    first, second, third, other = server.values("idempotency-key")
    assert first == second == third != other
    assert len(first) == 36
    assert time.waits == [0.05, 1.1]


def test_a_conflict_that_stays_is_raised(time: Time) -> None:
    asked = NewSilence(until=datetime(2026, 11, 2, tzinfo=UTC), by="ann", reason="r")
    with asking(time, problem(409, "conflict")) as (client, server), pytest.raises(Conflict):
        client.silence(asked)
    assert len(server.asked) == 1


def test_what_is_gone_after_a_lost_answer_was_deleted_by_it(time: Time) -> None:
    with asking(time, DROP, problem(404, "not-found")) as (client, _):
        client.cancel("r")
    with asking(time, BUSY, problem(404, "not-found")) as (client, _), pytest.raises(NotFound):
        client.cancel("r")  # 503: it was not done


@settings(max_examples=50, deadline=None)
@given(st.floats(0.5, 100), st.integers(1, 20), st.floats(0, 1))
def test_a_call_ends_within_its_time_and_its_attempts(total_s: float, attempts: int, draw: float) -> None:
    time, asked = Time(), 0

    def slow(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        assert request.extensions["timeout"]["read"] <= total_s - time.now_s
        time.now_s += request.extensions["timeout"]["read"]
        raise httpx.ReadTimeout("nothing came")

    around = Surroundings(clock=lambda: time.now_s, sleep=time.sleep, draw=lambda: draw)
    patience = Patience(total_s=total_s, attempts=attempts)
    with (
        Meterhouse(
            "http://meterhouse", patience=patience, around=around, transport=httpx.MockTransport(slow)
        ) as client,
        pytest.raises(Unreachable) as gone,
    ):
        client.prices()
    assert gone.value.may_be_done
    assert time.now_s <= total_s
    assert 1 <= asked <= attempts


def test_an_answer_that_trickles_ends_in_time(time: Time) -> None:
    class Trickle(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            while True:
                time.now_s += 1
                yield b" "

    trickling = httpx.MockTransport(lambda _: httpx.Response(200, stream=Trickle()))
    with (
        Meterhouse("http://m", transport=trickling, around=time.around, patience=Patience(total_s=5)) as client,
        pytest.raises(Unreachable, match="took too long"),
    ):
        client.prices()
    assert time.now_s == 5


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>welcome to the hotel",
        b"{}",
        b'{"currency": 1}',
        PRICES.partition(b"\r\n\r\n")[2] + b"}",
        b"\xff\xfe",
    ],
)
def test_an_answer_that_makes_no_sense_is_an_error_and_not_asked_for_again(time: Time, body: bytes) -> None:
    with asking(time, answer(200, body)) as (client, server), pytest.raises(BadAnswer, match="GET /v1/prices"):
        client.prices()
    assert len(server.asked) == 1


def test_an_answer_that_is_cut_off_is_asked_for_again(time: Time) -> None:
    cut = answer(200, b'{"currency": "U', content_length="1000")
    with asking(time, cut, PRICES) as (client, _):
        assert client.prices().currency == "USD"


def test_an_answer_of_a_wrong_encoding_is_an_error(time: Time) -> None:
    garbage = answer(200, b"not gzip at all", content_encoding="gzip")
    with asking(time, garbage) as (client, _), pytest.raises(BadAnswer):
        client.prices()


def test_a_page_that_comes_again_ends_the_iterator(time: Time) -> None:
    page = answer(200, b'{"alerts": [], "next": "x"}')
    with asking(time, page) as (client, server), pytest.raises(BadAnswer, match="is that page again"):
        list(client.alerts())
    assert server.lines[1] == "GET /v1/alerts?limit=500&after=x HTTP/1.1"


def test_a_file_that_is_cut_off_is_not_begun_again(time: Time) -> None:
    file = io.BytesIO()
    cut = answer(200, b"a,b\n1,2\n", "text/csv", content_length="1000")
    with asking(time, BUSY, cut) as (client, server), pytest.raises(BadAnswer, match="was cut off"):
        client.save("/v1/exports/focus", file, accept="text/csv")
    assert file.getvalue() == b"a,b\n1,2\n"
    assert server.values("accept") == ["text/csv"] * 2


@pytest.mark.parametrize(
    ("status", "name", "kind"),
    [
        (400, "invalid-parameter", InvalidRequest),
        (401, "unauthenticated", Unauthenticated),
        (429, "rate-limited", RateLimited),
        (500, "internal-error", ServerFailed),
        (503, "unavailable", Unavailable),
        (507, "log-full", LogFull),
        (418, "made-up-later", InvalidRequest),
    ],
)
def test_a_problem_is_an_error_of_its_kind(status: int, name: str, kind: type[MeterhouseError]) -> None:
    body = b'{"type": "/problems/%b", "detail": "do this"}' % name.encode()
    error = problem_of(status, {"content-type": "application/problem+json"}, body)
    assert type(error) is kind
    assert str(error) == f"{status} {name}: do this"


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b""])
def test_a_problem_document_that_is_none_is_an_error_all_the_same(body: bytes) -> None:
    error = problem_of(503, {"content-type": "application/problem+json"}, body)
    assert (type(error), error.type) == (Unavailable, "about:blank")


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("12", 12.0), ("Thu, 26 Nov 2026 10:00:30 GMT", 30.0), ("Thu, 26 Nov 2026 09:00:00 GMT", 0.0),
        ("-3", None), ("soon", None), ("", None), ("٣", None),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(said: str, seconds: float | None) -> None:
    headers = {"retry-after": said, "date": "Thu, 26 Nov 2026 10:00:00 GMT"}
    assert problem_of(503, headers, b"").retry_after_s == seconds


def test_a_deprecated_operation_warns_its_user(time: Time) -> None:
    fields = {"deprecation": "@1798761600", "sunset": "Fri, 30 Jun 2028 23:59:59 GMT"}
    old = answer(204, **fields)
    with (
        asking(time, old) as (client, _),
        pytest.warns(DeprecationWarning, match=r"DELETE /v1/admissions/r is deprecated .* sunset is Fri, 30 Jun 2028"),
    ):
        client.cancel("r")


Reader = Callable[[Meterhouse], object]


@pytest.mark.parametrize("read", [lambda client: client.prices(), lambda client: client.publish([{"id": "a"}])])
def test_a_redirect_is_not_followed_with_the_key(time: Time, read: Reader) -> None:
    with asking(time, answer(302, location="http://elsewhere.example/")) as (client, server):
        with pytest.raises(InvalidRequest):
            read(client)
        assert len(server.asked) == 1
