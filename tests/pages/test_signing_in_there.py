"""People sign in to the pages at their identity provider: what it takes, and each way in which it is refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import html
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import Request, Response
from playwright.sync_api import Browser

from meterhouse.api.auth import code_flow
from meterhouse.api.auth import issuer as issuers
from meterhouse.api.auth.attempts import LASTS_S, Attempts
from tests.api.doors import Gatehouse, gatehouse
from tests.pages.place import reading
from tests.pages.test_sessions import PEOPLE, Clock, token_of
from tests.services.issuer import own_issuer
from tests.services.provider import CLIENT, SECRET, Provider

CALLBACK = "/sign-in/oidc/done"
PAGE = "/chargeback?tenant=acme&by=model"


def settings_of(port: int, **more: Any) -> dict[str, Any]:
    client = {"oidc_client_id": CLIENT, "oidc_client_secret": SECRET}
    return {**client, "public_url": f"http://127.0.0.1:{port}", "port": port, **more}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def running() -> Iterator[Provider]:
    # Another name than the server's: for a browser they are two sites.
    with own_issuer(Provider, "localhost") as provider:
        yield provider


@pytest.fixture
def provider(running: Provider) -> Iterator[Provider]:
    """As it is at first, for each test."""
    before = {name: getattr(running, name) for name in ("person", "refusal", "misled", "made", "secret", "away")}
    yield running
    for name, value in before.items():
        setattr(running, name, value)


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory, running: Provider) -> Iterator[Gatehouse]:
    with gatehouse(tmp_path_factory.mktemp("doors"), running, **settings_of(free_port())) as doors:
        yield doors


def person_at(doors: Gatehouse) -> httpx.Client:
    base = str(doors.http.base_url)
    return httpx.Client(base_url=base, headers={**PEOPLE, "origin": base.rstrip("/")}, timeout=60)


@pytest.fixture
def person(doors: Gatehouse) -> Iterator[httpx.Client]:
    with person_at(doors) as person:
        yield person


def leave(person: httpx.Client, back: str = PAGE) -> httpx.Response:
    """To the provider, and what it answers: it leads back."""
    led = person.get("/sign-in/oidc", params={"next": back})
    assert led.status_code == 302, led.text
    with httpx.Client() as there:
        answer = there.get(led.headers["location"])
    assert answer.status_code == 302, answer.text
    return answer


def sign_in(person: httpx.Client, back: str = PAGE) -> httpx.Response:
    """To the provider and back: what this server answers then."""
    return person.get(leave(person, back).headers["location"])


def is_known(person: httpx.Client) -> bool:
    return person.get("/v1/me", headers={"accept": "*/*"}).status_code == 200


def said_in(answer: httpx.Response) -> str:
    """What a page says is wrong."""
    text = answer.text.partition('id="wrong">')[2].partition("<")[0]
    return html.unescape(text)


def refused(answer: httpx.Response, doors: Gatehouse, reason: str, status: int = 401) -> str:
    """A refusal that begins no session and is told to the audit log."""
    assert answer.status_code == status, answer.text
    assert "meterhouse=ey" not in answer.headers.get("set-cookie", "")
    doors.house.authentication.notices.write(every_us=0)
    assert reason in {entry["reason"] for entry in doors.audited("authentication.failed")}
    return said_in(answer)


# --- what it takes ----------------------------------------------------------------------------------------------------


def test_a_person_signs_in_there_and_is_back_where_they_were(
    person: httpx.Client, doors: Gatehouse, provider: Provider
) -> None:
    led = person.get(PAGE)
    page = person.get(led.headers["location"])
    host = urlsplit(provider.url).netloc
    assert f'href="/sign-in/oidc?next=/chargeback%3Ftenant%3Dacme%26by%3Dmodel">Sign in with {host}<' in page.text
    provider.person = {"sub": "ben", "name": "Ben", "meterhouse_role": "finance"}
    done = sign_in(person)
    assert (done.status_code, done.headers["location"]) == (303, PAGE)
    me = person.get("/v1/me").json()
    assert (me["id"], me["name"], me["role"]) == ("oidc:ben", "Ben", "finance")
    doors.house.authentication.notices.write(every_us=0)
    told = {"actor": "oidc:ben", "subject": "oidc:ben", "reason": CALLBACK, "address": "127.0.0.1", "count": 1}
    assert told in doors.audited("session.begun")
    assert person.get(PAGE).status_code == 200


def test_a_product_owner_sees_what_the_provider_grants_and_no_more(
    person: httpx.Client, doors: Gatehouse, provider: Provider
) -> None:
    provider.person = {"meterhouse_role": ["staff", "product_owner"], "meterhouse_grants": ["acme/assistant"]}
    assert sign_in(person).status_code == 303
    assert person.get("/v1/me").json()["grants"] == [{"tenant": "acme", "application": "assistant"}]
    prices = person.get("/rate-cards").text
    assert "acme" in person.get("/v1/me").text
    assert "borea" not in prices
    assert person.get("/audit").status_code == 403


def test_nothing_secret_goes_by_the_browser(person: httpx.Client, provider: Provider) -> None:
    led = person.get("/sign-in/oidc")
    asked = parse_qs(urlsplit(led.headers["location"]).query)
    assert {name: values[0] for name, values in asked.items() if name not in ("state", "nonce", "code_challenge")} == {
        "audience": "people",
        "response_type": "code",
        "client_id": CLIENT,
        "redirect_uri": f"{str(person.base_url).rstrip('/')}{CALLBACK}",
        "scope": "openid profile email",
        "code_challenge_method": "S256",
    }
    cookie = led.headers["set-cookie"]
    assert {"HttpOnly", "Path=/", "SameSite=lax", f"Max-Age={LASTS_S}"} <= set(cookie.split("; "))
    claims = jwt.decode(cookie.partition("=")[2].partition(";")[0], options={"verify_signature": False})
    assert claims.keys() == {"jti", "back", "exp"}


def test_beyond_this_machine_an_attempts_cookie_is_held_to_tls_and_to_this_host(person: httpx.Client) -> None:
    led = person.get("/sign-in/oidc", headers={"host": "meterhouse.example"})
    assert led.headers["set-cookie"].startswith("__Host-meterhouse-attempt=ey")
    assert "Secure" in led.headers["set-cookie"].split("; ")


def test_a_public_client_is_protected_by_its_verifier_alone(tmp_path: Path, provider: Provider) -> None:
    provider.secret = None
    settings = settings_of(free_port(), oidc_client_secret=None, oidc_scopes="openid")
    with gatehouse(tmp_path, provider, **settings) as doors, person_at(doors) as person:
        assert sign_in(person).status_code == 303


def test_whoever_signs_in_takes_the_place_of_whoever_was(person: httpx.Client, provider: Provider) -> None:
    sign_in(person)
    kept = dict(person.cookies)
    provider.person = {"sub": "ben", "meterhouse_role": "auditor"}
    sign_in(person)
    assert person.get("/v1/me").json()["id"] == "oidc:ben"
    person.cookies.clear()
    person.cookies.update(kept)
    assert not is_known(person)


def test_who_signs_out_is_told_where_to_sign_out_there_too(person: httpx.Client, provider: Provider) -> None:
    sign_in(person)
    left = person.post("/sign-out", data={"form_token": token_of(person.get(PAGE))})
    assert left.headers["location"] == "/sign-in?signed_out=true"
    assert person.get(PAGE).status_code == 303
    page = person.get(left.headers["location"])
    assert f'href="{provider.url}/leave?client_id={CLIENT}"' in page.text
    assert "sign out there too" not in person.get("/sign-in").text
    assert person.post("/sign-out").headers["location"] == "/sign-in"  # again: no session, no form of one


# --- the way back -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "back",
    ["//evil.example", "/\\evil.example", "https://evil.example/", "https:evil.example", "javascript:alert(1)",
     "/a\r\nLocation: //evil.example", "\\\\evil.example", "evil.example", "/" + "x" * 5_000, ""],
)  # fmt: skip
def test_nobody_is_led_elsewhere_from_there(person: httpx.Client, provider: Provider, back: str) -> None:
    assert sign_in(person, back).headers["location"] == "/"


@pytest.mark.parametrize("part", ["/overview/risks", "/chargeback?by=kind"])
def test_a_session_that_ends_while_a_part_of_a_page_is_asked_leads_back_to_the_page(
    person: httpx.Client, part: str
) -> None:
    base = str(person.base_url).rstrip("/")
    headers = {"accept": "*/*", "HX-Request": "true", "HX-Current-URL": f"{base}{PAGE}#lines"}
    led = person.get(part, headers=headers)
    assert (led.status_code, led.headers["hx-redirect"]) == (
        204, "/sign-in?next=%2Fchargeback%3Ftenant%3Dacme%26by%3Dmodel",
    )  # fmt: skip
    posted = person.post("/pipeline/verification", headers={**headers, "HX-Current-URL": f"{base}/pipeline"})
    assert posted.headers["hx-redirect"] == "/sign-in?next=%2Fpipeline"


@pytest.mark.parametrize(
    "url", ["https://evil.example/chargeback", "http://[", "//evil.example/", "javascript:alert(1)", "", None]
)
def test_only_a_page_of_this_server_is_led_back_to(person: httpx.Client, url: str | None) -> None:
    named = {} if url is None else {"HX-Current-URL": url, "referer": url}
    part = person.get("/overview/risks", headers={"accept": "*/*", "HX-Request": "true", **named})
    assert part.headers["hx-redirect"] == "/sign-in?next=%2F"
    assert person.post("/pipeline/verification", headers=named).headers["location"] == "/sign-in?next=%2F"


def test_a_form_whose_session_ended_leads_back_to_its_page(person: httpx.Client) -> None:
    base = str(person.base_url).rstrip("/")
    posted = person.post("/pipeline/verification", headers={"referer": f"{base}/pipeline?x=1"})
    assert (posted.status_code, posted.headers["location"]) == (303, "/sign-in?next=%2Fpipeline%3Fx%3D1")


# --- what is refused --------------------------------------------------------------------------------------------------


def test_an_answer_of_another_browser_is_refused(person: httpx.Client, doors: Gatehouse, provider: Provider) -> None:
    with person_at(doors) as other:
        back = leave(other).headers["location"]
        asked = provider.exchanges
        assert "in this browser" in refused(person.get(back), doors, "state")  # it attempted nothing
        person.get("/sign-in/oidc")
        assert "in this browser" in refused(person.get(back), doors, "state")  # it attempted something else
        assert "in this browser" in refused(person.get(CALLBACK), doors, "state")
        assert provider.exchanges == asked
        assert other.get(back).status_code == 303


def test_an_answer_is_taken_once(person: httpx.Client, doors: Gatehouse, provider: Provider) -> None:
    back = leave(person).headers["location"]
    attempt = dict(person.cookies)
    assert person.get(back).status_code == 303
    asked = provider.exchanges
    person.cookies.clear()
    person.cookies.update(attempt)
    assert "of one that ended" in refused(person.get(back), doors, "used")
    assert provider.exchanges == asked


def test_a_code_is_taken_once_by_whatever_attempt(person: httpx.Client, doors: Gatehouse, provider: Provider) -> None:
    code = parse_qs(urlsplit(leave(person).headers["location"]).query)["code"][0]
    provider.misled = {"code": code}
    assert "does not take this code" in refused(sign_in(person), doors, "code")  # its verifier is another's


def test_an_answer_that_names_another_provider_or_none_is_refused(
    person: httpx.Client, doors: Gatehouse, provider: Provider
) -> None:
    for named in ("https://elsewhere.example", None):
        provider.misled = {"iss": named}
        assert "another identity provider" in refused(sign_in(person), doors, "issuer")


def unsigned(provider: Provider, claims: dict[str, Any]) -> str:
    return jwt.encode(provider.claims(**claims), None, "none", {"kid": "first"})


def signed_with_the_public_key(provider: Provider, claims: dict[str, Any]) -> str:
    pem = provider.keys["first"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    parts = [{"alg": "HS256", "typ": "JWT", "kid": "first"}, provider.claims(**claims)]
    head = b".".join(_b64(json.dumps(part).encode()) for part in parts)
    return (head + b"." + _b64(hmac.new(pem, head, hashlib.sha256).digest())).decode()


def signed_elsewhere(provider: Provider, claims: dict[str, Any]) -> str:
    with own_issuer() as other:
        return jwt.encode(provider.claims(**claims), other.keys["first"], "RS256", {"kid": "first"})


def _b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def but(**changes: Any) -> Callable[[Provider, dict[str, Any]], str]:
    return lambda provider, claims: provider.token(**{**claims, **changes})


WRONG = {
    "another nonce": (but(nonce="another"), "nonce"),
    "a nonce that is no text": (but(nonce=7), "nonce"),
    "a nonce that is half a character": (but(nonce="\ud800"), "nonce"),
    "no nonce": (but(nonce=None), "token"),
    "no time of issue": (but(iat=None), "token"),
    "another issuer": (but(iss="https://elsewhere.example"), "issuer"),
    "the API's audience": (but(aud="meterhouse"), "audience"),
    "others' too, and nobody's": (but(aud=[CLIENT, "billing"]), "authorized_party"),
    "another's": (but(azp="billing"), "authorized_party"),
    "expired": (but(exp=1), "expired"),
    "alg none": (unsigned, "algorithm"),
    "HS256 with the public key": (signed_with_the_public_key, "algorithm"),
    "another's signature": (signed_elsewhere, "signature"),
    "no token at all": (lambda provider, claims: "rubbish", "token"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_id_token_that_is_not_ours_signs_nobody_in(
    person: httpx.Client, doors: Gatehouse, provider: Provider, name: str
) -> None:
    provider.made, reason = WRONG[name]
    assert "audit log" in refused(sign_in(person), doors, reason)
    assert not is_known(person)


def test_an_id_token_for_us_and_others_names_us_as_the_party(person: httpx.Client, provider: Provider) -> None:
    provider.person = {"aud": [CLIENT, "billing"], "azp": CLIENT}
    assert sign_in(person).status_code == 303


def test_an_id_token_is_no_bearer_token(doors: Gatehouse, provider: Provider) -> None:
    assert doors.show(provider.token(aud=CLIENT)).status_code == 401


def test_what_the_provider_refuses_is_said_with_what_to_do(
    person: httpx.Client, doors: Gatehouse, provider: Provider
) -> None:
    provider.refusal = {"error": "access_denied", "error_description": "Not\x07 in <group> staff" + "!" * 500}
    said = refused(sign_in(person), doors, "issuer_refused")
    assert said.startswith("The identity provider says access_denied (“Not in <group> staff!!")
    assert len(said) < 450
    assert said.endswith("let you in, or sign in with a key.")
    provider.refusal = {"error": "unheard_of"}
    assert "says unheard_of. " in refused(sign_in(person), doors, "issuer_refused")
    provider.refusal, provider.misled = {}, {"code": None}
    assert "sent no code" in refused(sign_in(person), doors, "issuer_refused")


def test_a_client_that_the_provider_does_not_know_is_told_which_settings_to_look_at(
    person: httpx.Client, doors: Gatehouse, provider: Provider
) -> None:
    provider.secret = None
    assert "METERHOUSE_OIDC_CLIENT_SECRET" in refused(sign_in(person), doors, "exchange")


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"meterhouse_role": None}, "exactly one of the roles"),
        ({"meterhouse_role": ["admin", "finance"]}, "exactly one of the roles"),
        ({"meterhouse_role": "product_owner"}, "needs a grant"),
    ],
)
def test_who_has_no_role_here_is_told_which_claim_lacks(
    person: httpx.Client, provider: Provider, claims: dict[str, Any], said: str
) -> None:
    provider.person = claims
    answer = sign_in(person)
    assert answer.status_code == 403
    assert said in said_in(answer)
    assert not is_known(person)


def test_a_provider_that_is_away_is_a_503_and_keys_go_on(tmp_path: Path, provider: Provider) -> None:
    with gatehouse(tmp_path, provider, **settings_of(free_port())) as doors, person_at(doors) as person:
        provider.away = True
        away = person.get("/sign-in/oidc")
        assert away.status_code == 503
        assert said_in(away) == (
            "Nobody can sign in this way now: the addresses of the identity provider are not to be had. Try again in"
            " half a minute, or sign in another way."
        )
        fields = {"form_token": token_of(away), "credentials": doors.keys["finance"]}
        assert person.post("/sign-in", data=fields).status_code == 303


def test_a_provider_that_goes_away_before_the_exchange_signs_nobody_in(
    person: httpx.Client, doors: Gatehouse, provider: Provider
) -> None:
    back = leave(person).headers["location"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(issuers, "MAX_BYTES", 10)  # its answer is longer than what is read
        assert person.get(back).status_code == 503
    assert not is_known(person)
    refused(person.get(back), doors, "used")


def test_more_people_than_are_let_in_at_once_are_told_to_try_again(
    person: httpx.Client, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = provider.exchanges
    monkeypatch.setattr(code_flow, "MAX_AT_ONCE", 0)
    answer = sign_in(person)
    assert (answer.status_code, provider.exchanges) == (503, asked)
    assert "Try again" in said_in(answer)


def test_a_server_that_is_no_client_says_so(tmp_path: Path, provider: Provider) -> None:
    with gatehouse(tmp_path, provider) as doors, person_at(doors) as person:
        for path in ("/sign-in/oidc", CALLBACK):
            answer = person.get(path)
            assert answer.status_code == 404
            assert "METERHOUSE_OIDC_CLIENT_ID" in answer.text
        assert "Sign in with " not in person.get("/sign-in").text


# --- the attempt itself -----------------------------------------------------------------------------------------------


def request_with(cookie: str) -> Request:
    headers = [(b"host", b"localhost"), (b"cookie", cookie.encode())]
    return Request({"type": "http", "scheme": "http", "path": "/", "headers": headers, "server": ("localhost", 80)})


def test_an_attempt_lasts_ten_minutes_and_is_this_servers(person: httpx.Client) -> None:
    clock = Clock()
    attempts, same, other = (Attempts(secret, clock) for secret in ("s" * 32, "s" * 32, "t" * 32))
    begun, response = attempts.new("/chargeback"), Response()
    attempts.begin(request_with(""), response, begun)
    shown = request_with(response.headers["set-cookie"].partition(";")[0])
    assert [each.of(shown) for each in (attempts, same, other)] == [begun, begun, None]
    clock.at_us += (LASTS_S - 1) * 1_000_000
    assert attempts.of(shown) == begun
    clock.at_us += 1_000_000
    assert attempts.of(shown) is None


# --- in a browser -----------------------------------------------------------------------------------------------------


def test_a_browser_goes_there_and_comes_back_twice(opened: Browser, doors: Gatehouse, provider: Provider) -> None:
    with reading(opened, doors) as reader:
        reader.open(PAGE)
        there = reader.page.get_by_role("link", name=f"Sign in with {urlsplit(provider.url).netloc}")
        assert reader.faults() == []
        there.click()
        reader.page.locator("nav").wait_for()
        assert reader.page.url == f"{reader.base}{PAGE}"
        reader.page.context.clear_cookies()  # the session ends, and the page does not know
        reader.page.locator("#asked-by").select_option("application")
        there.click()
        reader.page.locator("nav").wait_for()
        assert reader.page.url == f"{reader.base}{PAGE}"
        assert reader.complaints == []
