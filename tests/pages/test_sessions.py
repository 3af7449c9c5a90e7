"""Signing in to the pages: what a cookie opens, for how long, and what it never does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import Request, Response

from meterhouse.api.auth.caller import Caller, Role
from meterhouse.api.auth.seals import MAX_COOKIE
from meterhouse.api.auth.sessions import LASTS_S, Sessions, SessionTooLarge
from meterhouse.api.clock import now_us
from meterhouse.api.pages.looks import within
from meterhouse.warehouse.view import EVERYTHING, Grant, View
from tests.api.doors import Gatehouse, gatehouse
from tests.services.issuer import Issuer, own_issuer

PEOPLE = {"accept": "text/html"}


@pytest.fixture(scope="module")
def signer() -> Iterator[Issuer]:
    with own_issuer() as signer:
        signer.add_key("first")
        yield signer


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory, signer: Issuer) -> Iterator[Gatehouse]:
    with gatehouse(tmp_path_factory.mktemp("doors"), signer) as doors:
        yield doors


@pytest.fixture
def person(doors: Gatehouse) -> Iterator[httpx.Client]:
    base = str(doors.http.base_url)
    with httpx.Client(base_url=base, headers={**PEOPLE, "origin": base}, timeout=60) as person:
        yield person


def token_of(page: httpx.Response) -> str:
    return page.text.partition('name="form_token" value="')[2].partition('"')[0]


def sign_in(person: httpx.Client, credentials: str, **more: str) -> httpx.Response:
    fields = {"form_token": token_of(person.get("/sign-in")), "credentials": credentials, **more}
    return person.post("/sign-in", data=fields)


def test_who_is_not_signed_in_is_led_to_sign_in_and_then_back(person: httpx.Client, doors: Gatehouse) -> None:
    led = person.get("/chargeback?tenant=acme&by=model")
    assert (led.status_code, led.headers["location"]) == (
        303, "/sign-in?next=%2Fchargeback%3Ftenant%3Dacme%26by%3Dmodel",
    )  # fmt: skip
    page = person.get(led.headers["location"])
    assert 'name="next" value="/chargeback?tenant=acme&amp;by=model"' in page.text
    done = sign_in(person, doors.keys["finance"], next="/chargeback?tenant=acme&by=model")
    assert (done.status_code, done.headers["location"]) == (303, "/chargeback?tenant=acme&by=model")
    assert person.get("/chargeback").status_code == 200


def test_programs_are_told_in_their_own_words(doors: Gatehouse) -> None:
    answer = doors.http.get("/overview")
    assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")


def test_who_signed_in_is_in_the_audit_log(person: httpx.Client, doors: Gatehouse) -> None:
    sign_in(person, doors.keys["auditor"])
    doors.house.authentication.notices.write(every_us=0)
    key = f"key:{doors.keys['auditor'][4:16]}"
    told = {"actor": key, "subject": key, "reason": "/sign-in", "address": "127.0.0.1", "count": 1}
    assert told in doors.audited("session.begun")


def test_the_cookie_holds_no_key_and_scripts_do_not_read_it(person: httpx.Client, doors: Gatehouse) -> None:
    set_by = sign_in(person, doors.keys["finance"]).headers["set-cookie"]
    cookie = set_by.split(", ")[-1]
    assert {"HttpOnly", "Path=/", "SameSite=lax"} <= set(cookie.split("; "))
    assert doors.keys["finance"].split("_")[2][:12] not in set_by


def test_beyond_this_machine_the_cookie_is_held_to_tls_and_to_this_host(doors: Gatehouse) -> None:
    there = {**PEOPLE, "host": "meterhouse.example", "origin": "https://meterhouse.example"}
    fields = {"form_token": token_of(doors.http.get("/sign-in", headers=there)), "credentials": doors.keys["finance"]}
    set_by = doors.http.post("/sign-in", data=fields, headers=there).headers["set-cookie"]
    assert "__Host-meterhouse=ey" in set_by
    assert "Secure" in set_by.split(", ")[-1].split("; ")
    doors.http.cookies.clear()


def test_a_session_sees_what_its_key_sees(person: httpx.Client, doors: Gatehouse) -> None:
    sign_in(person, doors.keys["product_owner"])
    assert person.get("/v1/me").json()["grants"] == [{"tenant": "acme", "application": None}]
    sign_in(person, doors.keys["gateway"])
    refused = person.get("/overview")
    assert refused.status_code == 403
    assert "may not do this" in refused.text


def test_a_session_changes_nothing_but_by_forms_of_pages(person: httpx.Client, doors: Gatehouse) -> None:
    sign_in(person, doors.keys["admin"])
    asked = {"headers": {"accept": "*/*"}}
    assert person.get("/v1/keys", **asked).status_code == 200
    assert person.post("/v1/keys", json={"name": "mine", "role": "admin"}, **asked).status_code == 401
    assert person.post("/v1/events", json=[], **asked).status_code == 401


def test_a_revoked_key_ends_its_sessions(person: httpx.Client, doors: Gatehouse) -> None:
    key_id = doors.make("passing", "finance")
    doors.house.authentication._ring.look()
    sign_in(person, doors.keys["passing"])
    assert person.get("/v1/me").json()["name"] == "passing"
    doors.house.keys.revoke(key_id, "ann", now_us())
    doors.house.authentication._ring.look()
    assert person.get("/chargeback").headers["location"].startswith("/sign-in?")


def test_signing_out_ends_a_session_whoever_kept_its_cookie(person: httpx.Client, doors: Gatehouse) -> None:
    sign_in(person, doors.keys["finance"])
    kept = dict(person.cookies)
    token = token_of(person.get("/look?zone=Europe/Berlin&next=/sign-in", follow_redirects=True))
    assert person.post("/sign-out", data={"form_token": token}).headers["location"] == "/sign-in"
    person.cookies.update(kept)
    assert person.get("/overview").status_code == 303


@pytest.mark.parametrize(
    ("origin", "token"),
    [("https://elsewhere.example", None), ("null", None), (None, None), ("ours", "0" * 128), ("ours", "é")],
)
def test_a_form_from_elsewhere_is_not_taken(
    person: httpx.Client, doors: Gatehouse, origin: str | None, token: str | None
) -> None:
    fields = {"form_token": token or token_of(person.get("/sign-in")), "credentials": doors.keys["finance"]}
    if origin is None:
        del person.headers["origin"]
    elif origin != "ours":
        person.headers["origin"] = origin
    answer = person.post("/sign-in", data=fields)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_a_key_that_is_none_is_refused_and_told_to_the_audit_log(person: httpx.Client, doors: Gatehouse) -> None:
    for wrong in ("", "mhk_wrong", "rubbish", _mistyped(doors.keys["finance"])):
        answer = sign_in(person, wrong)
        assert answer.status_code == 401
        assert 'role="alert"' in answer.text
        assert "set-cookie" not in answer.headers
    doors.house.authentication.notices.write(every_us=0)
    assert any(entry["reason"] == "malformed" for entry in doors.audited("authentication.failed"))


def test_a_token_signs_in_with_what_it_gives(person: httpx.Client, doors: Gatehouse, signer: Issuer) -> None:
    sign_in(person, signer.token(meterhouse_role="product_owner", meterhouse_grants=["acme/assistant"]))
    me = person.get("/v1/me").json()
    assert (me["id"], me["role"], me["grants"]) == (
        "oidc:ann", "product_owner", [{"tenant": "acme", "application": "assistant"}],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("path", "followed"),
    [
        ("/chargeback?by=model", True),
        ("//elsewhere.example", False),
        ("/\\elsewhere.example", False),
        ("/a\\b", False),
        ("https://elsewhere.example/", False),
        ("javascript:alert(1)", False),
        ("/a\r\nLocation: x", False),
        ("", False),
        (None, False),
    ],
)
def test_nobody_is_led_elsewhere(path: str | None, followed: bool) -> None:
    assert within(path) == (path if followed else "/")


# --- the cookie itself ------------------------------------------------------------------------------------------------


class Clock:
    at_us = 1_793_491_200_000_000

    def __call__(self) -> int:
        return self.at_us


def request_with(cookie: str | None) -> Request:
    headers = [(b"host", b"localhost")] + ([] if cookie is None else [(b"cookie", f"meterhouse={cookie}".encode())])
    server = ("localhost", 80)
    return Request({"type": "http", "scheme": "http", "path": "/", "headers": headers, "server": server})


def cookie_of(response: Response) -> str:
    return response.headers["set-cookie"].partition("=")[2].partition(";")[0]


def begun(sessions: Sessions, **changes: Any) -> str:
    who = Caller("key:abc", "Ann", Role.finance, changes.get("view", EVERYTHING))
    response = Response()
    sessions.begin(request_with(None), response, sessions.new(who))
    return cookie_of(response)


def test_a_session_lasts_a_working_day() -> None:
    clock = Clock()
    sessions = Sessions(None, clock)
    cookie = begun(sessions)
    clock.at_us += (LASTS_S - 1) * 1_000_000
    assert sessions.of(request_with(cookie)) is not None
    clock.at_us += 1_000_000
    assert sessions.of(request_with(cookie)) is None


def test_only_servers_of_one_secret_know_each_others_sessions() -> None:
    one, same, other = (Sessions(secret, Clock()) for secret in ("s" * 32, "s" * 32, None))
    cookie = begun(one)
    assert [sessions.of(request_with(cookie)) is not None for sessions in (one, same, other)] == [True, True, False]
    changed = cookie[:-1] + ("A" if cookie[-1] != "A" else "B")
    assert one.of(request_with(changed)) is None
    assert one.of(request_with("x" * (MAX_COOKIE + 1))) is None


def test_grants_that_no_cookie_holds_are_said_to_be_too_many() -> None:
    view = View(tuple(Grant(f"tenant-{number:040}") for number in range(100)))
    with pytest.raises(SessionTooLarge):
        begun(Sessions(None, Clock()), view=view)


def _mistyped(key: str) -> str:
    return key[:-1] + ("1" if key.endswith("0") else "0")
