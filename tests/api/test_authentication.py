"""Who may ask: keys and tokens that are good, each way in which they are not, and what the audit log says of it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meterhouse.api.app import create_app
from meterhouse.api.auth import issuer as issuers
from meterhouse.api.clock import now_us
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.warehouse.view import Grant
from tests.api.doors import Gatehouse, apply, delete_tenant, gatehouse
from tests.api.serving import served
from tests.api.test_http import problem
from tests.kafka.logs import await_that
from tests.services.issuer import Issuer, own_issuer


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with own_issuer() as there:
        there.add_key("curve", curve=True)
        yield there


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[Gatehouse]:
    with gatehouse(tmp_path_factory.mktemp("doors"), issuer) as there:
        yield there


# --- what is good ----------------------------------------------------------------------------------------------------


def test_a_key_says_who_one_is(doors: Gatehouse) -> None:
    me = doors.ask("product_owner").json()
    assert me == {
        "id": f"key:{doors.keys['product_owner'][4:16]}",
        "name": "product_owner",
        "role": "product_owner",
        "grants": [{"tenant": "acme", "application": None}],
        "permissions": ["answer_alerts", "export", "read_alerts", "read_prices", "read_rejects", "read_reports",
                        "read_self"],
    }  # fmt: skip


@pytest.mark.parametrize("key_id", ["first", "curve"])
def test_a_token_says_who_one_is(doors: Gatehouse, issuer: Issuer, key_id: str) -> None:
    grants = {"meterhouse_role": ["staff", "product_owner"], "meterhouse_grants": ["acme/assistant", "gone"]}
    me = doors.show(issuer.token(key_id, **grants)).json()
    assert (me["id"], me["name"], me["role"]) == ("oidc:ann", "Ann", "product_owner")
    assert me["grants"] == [{"tenant": "acme", "application": "assistant"}]


def test_a_signing_key_that_is_new_is_fetched_and_unknown_ones_do_not_hammer_the_issuer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with own_issuer() as issuer, gatehouse(tmp_path, issuer) as doors:
        assert doors.show(issuer.token()).status_code == 200
        assert issuer.asked == 1
        issuer.add_key("second")
        for number in range(20):
            problem(doors.show(issuer.token() + f"{number}"), 401, "unauthenticated")
            forged = jwt.encode(issuer.claims(), issuer.keys["first"], "RS256", {"kid": f"made-up-{number}"})
            problem(doors.show(forged), 401, "unauthenticated")
        assert issuer.asked == 1  # half a minute has not gone by
        monkeypatch.setattr(issuers, "ASKED_AGAIN_S", 0.0)
        issuer.away = True
        problem(doors.show(issuer.token("second")), 401, "unauthenticated")
        assert doors.show(issuer.token()).status_code == 200  # the last keys are believed meanwhile
        issuer.away = False
        assert doors.show(issuer.token("second")).status_code == 200
        assert issuer.asked == 2


def test_an_issuer_that_is_away_is_a_503_until_it_is_back_and_no_reason_to_let_anyone_in(tmp_path: Path) -> None:
    with own_issuer() as issuer, gatehouse(tmp_path, issuer) as doors:
        issuer.away = True
        problem(doors.show(issuer.token()), 503, "unavailable")
        assert doors.ask("admin").status_code == 200


# --- what is not -----------------------------------------------------------------------------------------------------


def unsigned(issuer: Issuer) -> str:
    return jwt.encode(issuer.claims(), None, "none", {"kid": "first"})


def signed_with_the_public_key(issuer: Issuer) -> str:
    """HS256 with the PEM that everyone may have. PyJWT refuses to make it, so it is made by hand."""
    pem = issuer.keys["first"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    parts = [{"alg": "HS256", "typ": "JWT", "kid": "first"}, issuer.claims()]
    head = b".".join(_b64(json.dumps(part).encode()) for part in parts)
    return (head + b"." + _b64(hmac.new(pem, head, hashlib.sha256).digest())).decode()


def nested(issuer: Issuer) -> str:
    return (_b64(b'{"alg":' + b"[" * 3_000) + b".e30.e30").decode()


def _b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _soon(**claims: int) -> Callable[[Issuer], str]:
    return lambda issuer: issuer.token(**{name: int(time.time()) + s for name, s in claims.items()})


def _lacking(claim: str) -> Callable[[Issuer], str]:
    return lambda issuer: issuer.token(**{claim: None})


def of_another_issuers_key(issuer: Issuer) -> str:
    with own_issuer() as other:
        return jwt.encode(issuer.claims(), other.keys["first"], "RS256", {"kid": "first"})


BAD_TOKENS: dict[str, tuple[Callable[[Issuer], str], str]] = {
    "rubbish": (lambda _: "rubbish", "token"),
    "three dots": (lambda _: "a.b.c", "token"),
    "nested": (nested, "token"),
    "alg none": (unsigned, "algorithm"),
    "HS256 with the public key": (signed_with_the_public_key, "algorithm"),
    "an algorithm not of the key": (
        lambda i: jwt.encode(i.claims(), i.keys["first"], "RS256", {"kid": "curve"}), "unknown_signer",
    ),
    "an algorithm not taken": (
        lambda i: jwt.encode(i.claims(), i.keys["first"], "PS256", {"kid": "first"}), "algorithm",
    ),
    "unknown signer": (
        lambda i: jwt.encode(i.claims(), i.keys["first"], "RS256", {"kid": "third"}), "unknown_signer",
    ),
    "no signer": (lambda i: jwt.encode(i.claims(), i.keys["first"], "RS256"), "unknown_signer"),
    "another's signature": (of_another_issuers_key, "signature"),
    "cut signature": (lambda i: i.token()[:-8], "signature"),
    "other issuer": (lambda i: i.token(iss="https://elsewhere.example"), "issuer"),
    "other audience": (lambda i: i.token(aud="billing"), "audience"),
    "expired": (_soon(exp=-120), "expired"),
    "not yet": (_soon(nbf=120), "not_yet_valid"),
    "no exp": (_lacking("exp"), "token"),
    "no iss": (_lacking("iss"), "token"),
    "no aud": (_lacking("aud"), "token"),
    "no sub": (_lacking("sub"), "token"),
    "empty sub": (lambda i: i.token(sub=""), "subject"),
}  # fmt: skip


def refused(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["www-authenticate"] == 'Bearer realm="meterhouse", error="invalid_token"'
    return problem(answer, 401, "unauthenticated")


def test_what_is_wrong_with_a_token_is_told_to_the_audit_log_alone(doors: Gatehouse, issuer: Issuer) -> None:
    said = {refused(doors.show(make(issuer)))["detail"] for make, _ in BAD_TOKENS.values()}
    assert said == {"The API key or token is not valid, or no more. Ask whoever runs this server for a new one."}


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_a_bad_token_is_a_401_with_a_reason_in_the_audit_log(doors: Gatehouse, issuer: Issuer, name: str) -> None:
    make, reason = BAD_TOKENS[name]
    refused(doors.show(make(issuer)))
    told = {"actor": "address:127.0.0.1", "subject": "/v1/me", "reason": reason, "address": "127.0.0.1"}
    entries: list[dict[str, Any]] = []

    def written() -> bool:
        entries[:] = [each for each in doors.audited("authentication.failed") if each["reason"] == reason]
        return bool(entries)

    await_that(written)
    assert told.items() <= entries[0].items()


def test_clocks_may_differ_by_a_minute(doors: Gatehouse, issuer: Issuer) -> None:
    assert doors.show(_soon(exp=-30, nbf=30)(issuer)).status_code == 200


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"meterhouse_role": None}, "exactly one of the roles"),
        ({"meterhouse_role": "root"}, "exactly one of the roles"),
        ({"meterhouse_role": ["admin", "finance"]}, "exactly one of the roles"),
        ({"meterhouse_role": {"admin": True}}, "exactly one of the roles"),
        ({"meterhouse_role": "product_owner"}, "needs a grant"),
        ({"meterhouse_role": "product_owner", "meterhouse_grants": "acme"}, "must be a list"),
        ({"meterhouse_role": "product_owner", "meterhouse_grants": ["acme/"]}, "is no grant"),
        ({"meterhouse_role": "finance", "meterhouse_grants": ["acme"]}, "takes no grants"),
        ({"meterhouse_role": "product_owner", "meterhouse_grants": ["gone"]}, "sees nothing"),
        ({"meterhouse_role": "gateway", "meterhouse_grants": []}, "sees nothing"),
    ],
)
def test_a_sound_token_without_a_role_here_is_a_403(
    doors: Gatehouse, issuer: Issuer, claims: dict[str, Any], said: str
) -> None:
    assert said in problem(doors.show(issuer.token(**claims)), 403, "forbidden")["detail"]


@pytest.mark.parametrize(
    ("headers", "challenge"),
    [
        ([], 'Bearer realm="meterhouse"'),
        ([("authorization", "Basic YTpi")], 'Bearer realm="meterhouse", error="invalid_token"'),
        ([("authorization", "Bearer")], 'Bearer realm="meterhouse", error="invalid_token"'),
        ([("authorization", "Bearer a"), ("authorization", "Bearer b")],
         'Bearer realm="meterhouse", error="invalid_token"'),
        ([("x-api-key", "mhk_")], 'Bearer realm="meterhouse"'),
    ],
)  # fmt: skip
def test_no_credentials_are_a_401_that_says_what_to_send(
    doors: Gatehouse, headers: list[tuple[str, str]], challenge: str
) -> None:
    answer = doors.http.get("/v1/me", headers=headers)
    assert "Authorization: Bearer" in problem(answer, 401, "unauthenticated")["detail"]
    assert answer.headers["www-authenticate"] == challenge


def test_a_mistyped_key_is_told_so(doors: Gatehouse) -> None:
    for wrong in (doors.keys["admin"][:-1], doors.keys["admin"].swapcase(), "mhk_", "mhk_\xe9"):
        document = problem(
            doors.http.get("/v1/me", headers={"authorization": f"Bearer {wrong}".encode("latin-1")}), 401,
            "unauthenticated",
        )  # fmt: skip
        assert ("Copy it again" in document["detail"]) == wrong.startswith("mhk_")


def test_keys_that_are_no_more_and_keys_that_never_were_are_answered_alike(doors: Gatehouse) -> None:
    revoked, expired = doors.make("revoked", "admin"), doors.make("expired", "admin", expires_us=now_us() + 1_000)
    doors.house.keys.revoke(revoked, "ann", now_us())
    unknown = "mhk_000102030405_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf28VjO7"
    keys = {"unknown_key": unknown, "revoked": doors.keys["revoked"], "expired": doors.keys["expired"]}
    answers = [refused(doors.show(key)) for key in keys.values()]
    assert answers[0] == answers[1] == answers[2]

    def told() -> dict[str, str]:
        for key in keys.values():
            doors.show(key)
        return {e["reason"]: e["actor"] for e in doors.audited("authentication.failed") if e["reason"] in keys}

    await_that(lambda: len(told()) == 3)
    assert told() == {
        "unknown_key": "address:127.0.0.1", "revoked": f"key:{revoked}", "expired": f"key:{expired}",
    }  # fmt: skip


def test_a_key_whose_tenant_was_deleted_sees_nothing(tmp_path: Path) -> None:
    with gatehouse(tmp_path) as doors:
        doors.make("both", "product_owner", Grant("acme"), Grant("borea"))
        doors.make("borea", "product_owner", Grant("borea"))
        await_that(lambda: doors.ask("borea").status_code == 200)
        delete_tenant(doors.house, "borea")
        await_that(lambda: doors.ask("borea").status_code == 403)
        for path in ("/v1/me", "/v1/chargeback", "/v1/alerts"):
            assert "sees nothing" in problem(doors.ask("borea", path), 403, "forbidden")["detail"]
        assert doors.ask("both").json()["grants"] == [{"tenant": "acme", "application": None}]
        await_that(lambda: bool(doors.audited("access.refused")))


# --- keys over HTTP --------------------------------------------------------------------------------------------------


def test_keys_are_made_replaced_listed_and_revoked_over_http(tmp_path: Path) -> None:
    with gatehouse(tmp_path) as doors:
        admin = f"key:{doors.keys['admin'][4:16]}"
        asked = {
            "name": "search team",
            "role": "product_owner",
            "grants": [{"tenant": "acme", "application": "search"}],
        }
        made = doors.ask("admin", "/v1/keys", "POST", json=asked).json()
        assert {**asked, "created_by": admin, "expires": None, "standing": "in_force"}.items() <= made.items()
        await_that(lambda: doors.show(made["key"]).status_code == 200)
        renewed = doors.ask("admin", f"/v1/keys/{made['id']}/rotation", "POST", json={"overlap_s": 0}).json()
        assert (renewed["replaces"], renewed["grants"]) == (made["id"], made["grants"])
        await_that(lambda: doors.show(made["key"]).status_code == 401)
        assert doors.show(renewed["key"]).json()["id"] == f"key:{renewed['id']}"
        assert doors.ask("admin", f"/v1/keys/{renewed['id']}", "DELETE").status_code == 204
        await_that(lambda: doors.show(renewed["key"]).status_code == 401)
        answer = doors.ask("admin", "/v1/keys")
        assert "mhk_" not in answer.text
        standing = {line["id"]: line["standing"] for line in answer.json()["keys"]}
        assert (standing[made["id"]], standing[renewed["id"]]) == ("expired", "revoked")
        assert [doors.audited(action)[-1]["actor"] for action in ("key.created", "key.rotated", "key.revoked")] == (
            [admin] * 3
        )
        for path in ("/v1/keys/nobody/rotation", "/v1/keys/nobody"):
            problem(doors.ask("admin", path, "POST" if "rotation" in path else "DELETE", json={}), 404, "not-found")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"name": "x", "role": "product_owner"}, "needs a grant"),
        ({"name": "x", "role": "product_owner", "grants": []}, "needs a grant"),
        ({"name": "x", "role": "auditor", "grants": [{"tenant": "acme"}]}, "takes no grants"),
        ({"name": "x", "role": "gateway", "grants": [{"tenant": "nobody"}]}, "control data has no tenant nobody"),
        ({"name": "x", "role": "root"}, "role"),
        ({"name": "x", "role": "admin", "expires": "2026-01-01T00:00:00Z"}, "later than now"),
    ],
)
def test_a_key_that_cannot_be_is_a_400_that_says_why(doors: Gatehouse, asked: dict[str, Any], said: str) -> None:
    assert said in problem(doors.ask("admin", "/v1/keys", "POST", json=asked), 400, "invalid-parameter")["detail"]


def test_last_use_is_noted(doors: Gatehouse) -> None:
    doors.ask("auditor")

    def used() -> bool:
        listed = doors.ask("admin", "/v1/keys").json()["keys"]
        return {line["last_used"] is not None for line in listed if line["name"] in ("auditor", "admin")} == {True}

    await_that(used)


# --- on and off ------------------------------------------------------------------------------------------------------


def test_the_first_key_turns_authentication_on(tmp_path: Path) -> None:
    with House(Settings(home=tmp_path / "home"), writer=True) as house:  # type: ignore[call-arg]
        apply(house)
        with served(create_app(house)) as http:
            assert http.get("/v1/me").json()["id"] == "local"
            there = Gatehouse(house, create_app(house), http)
            there.make("admin", "admin")
            await_that(lambda: http.get("/v1/me").status_code == 401)
            assert there.ask("admin").json()["role"] == "admin"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST:1", 200), ("127.0.0.1:8080", 200), ("[::1]:8080", 200), ("[::1]", 200),
        ("evil.example", 403), ("localhost.evil.example", 403), ("evil.example:8080", 403), ("127.0.0.2", 403),
    ],
)  # fmt: skip
def test_without_authentication_only_names_of_this_machine_are_answered(tmp_path: Path, host: str, status: int) -> None:
    settings = Settings(home=tmp_path / "home")  # type: ignore[call-arg]
    with House(settings, writer=True) as house, served(create_app(house)) as http:
        assert http.get("/v1/me", headers={"host": host}).status_code == status


def test_without_authentication_no_page_of_another_site_sends_a_form(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")  # type: ignore[call-arg]
    with House(settings, writer=True) as house, served(create_app(house)) as http:
        asked = {"name": "planted", "role": "admin"}
        for origin in ("https://evil.example", "null", "http://[", "http://localhost.evil.example"):
            problem(http.post("/v1/keys", json=asked, headers={"origin": origin}), 403, "forbidden")
        assert house.keys.edition() == (0, 0)
        assert http.get("/v1/me", headers={"origin": "http://localhost:3000"}).status_code == 200


def test_off_is_off_though_there_are_keys(tmp_path: Path) -> None:
    with gatehouse(tmp_path, auth="off") as doors:
        assert doors.http.get("/v1/me").json()["id"] == "local"


def test_on_is_on_though_there_is_no_key(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", auth="on")  # type: ignore[call-arg]
    with House(settings, writer=True) as house, served(create_app(house)) as http:
        assert http.get("/v1/me").status_code == 401
        assert http.get("/healthz").status_code == 200
        assert http.get("/openapi.json").status_code == 200


# --- rates and headers -----------------------------------------------------------------------------------------------


def test_a_caller_that_asks_too_often_is_told_when_to_come_back(tmp_path: Path) -> None:
    with gatehouse(tmp_path, rate_per_minute="reports=3") as doors:
        answers = [doors.ask("finance") for _ in range(7)]  # a minute may turn once between them
        assert {answer.status_code for answer in answers} == {200, 429}
        told = problem(answers[-1], 429, "rate-limited") if answers[-1].status_code == 429 else None
        late = next(answer for answer in answers if answer.status_code == 429)
        assert told is None or "`reports`" in told["detail"]
        assert 1 <= int(late.headers["retry-after"]) <= 60
        assert late.headers["ratelimit-policy"] == '"reports";q=3;w=60'
        assert late.headers["ratelimit"] == f'"reports";r=0;t={late.headers["retry-after"]}'
        assert doors.ask("auditor").status_code == 200  # each caller has its own


def test_every_answer_has_the_headers_that_browsers_heed(doors: Gatehouse) -> None:
    report, stranger, nowhere = (
        doors.ask("finance", "/v1/chargeback"), doors.http.get("/v1/me"), doors.http.get("/nowhere"),
    )  # fmt: skip
    # A report may be kept by who asked, and is asked for again: its tag says whether it is still so.
    for answer, kept in ((report, "private, no-cache"), (stranger, "no-store"), (nowhere, "no-store")):
        assert {
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cache-control": kept,
            "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
        }.items() <= dict(answer.headers).items()
        assert "server" not in answer.headers
        assert "strict-transport-security" not in answer.headers


def test_a_page_loads_nothing_from_elsewhere_and_no_script_within_it(doors: Gatehouse) -> None:
    answer = doors.http.get("/docs")
    policy = dict(each.split(" ", 1) for each in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["form-action"] == "'self'"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert not re.search(r"(src|href)=\"https?:|<script>|<style|style=\"|\son[a-z]+=", answer.text)
