"""People sign in at the issuer: OpenID Connect's authorization code flow, with PKCE (RFC 7636) for every client.

Of what the issuer gives, the ID token alone is used: it says who signed in, by the claims that a bearer token has too.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote_plus, urlsplit

import httpx
import structlog

from meterhouse.api.auth import issuer as issuers
from meterhouse.api.auth.attempts import Attempt, Attempts
from meterhouse.api.auth.caller import Caller, NotAuthenticated
from meterhouse.api.auth.issuer import IssuerTrouble, Kept
from meterhouse.api.auth.oidc import OidcTokens
from meterhouse.warehouse.control import ControlUnavailable

RETURN: Final = "/sign-in/oidc/done"
"""The path that the issuer sends people back to."""
MAX_AT_ONCE: Final = 16
"""Codes that are exchanged at the same time: each holds a thread for some seconds at most, and anyone may ask. Beyond
it people are told to try again."""
MAX_SAID: Final = 200
"""Characters of an issuer's own words that are shown."""

_AGAIN: Final = "Sign in again."
_OF_ANOTHER: Final = (
    "This answer is of no attempt to sign in that began in this browser within ten minutes, or of one that ended."
    f" {_AGAIN} Cookies must be on, and the address must be the one that pages are always opened by."
)
_NOT_VALID: Final = (
    "What the identity provider said of you is not valid here. Whoever runs this server finds in the audit log why."
)

_log = structlog.get_logger("meterhouse.auth")


@dataclass(frozen=True, slots=True)
class Client:
    """This server as the issuer knows it. `secret` None: a public client. `base`: where browsers reach the pages."""

    id: str
    secret: str | None
    base: str
    scopes: str

    @property
    def return_address(self) -> str:
        return self.base + RETURN


@dataclass(frozen=True, slots=True)
class Answer:
    """What the issuer sends people back with."""

    state: str | None
    code: str | None
    issuer: str | None
    error: str | None
    error_description: str | None


@dataclass(frozen=True, slots=True)
class _Endpoints:
    authorization: str
    token: str
    end_session: str | None
    names_itself: bool  # in each answer (RFC 9207)


class CodeFlow:
    """To be used on one event loop."""

    def __init__(self, issuer: str, client: Client, tokens: OidcTokens, attempts: Attempts) -> None:
        self._issuer, self._client, self._tokens = issuer, client, tokens
        self.attempts = attempts
        self._endpoints = Kept[_Endpoints]("the addresses of the identity provider", self._fetch)
        self._exchanging = 0

    @property
    def host(self) -> str:
        """The issuer's, which people know it by."""
        return urlsplit(self._issuer).netloc

    @property
    def sign_out_address(self) -> str | None:
        """Where one signs out of the issuer itself; None: it says no such address, or none is known yet."""
        known = self._endpoints.last
        if known is None or known.end_session is None:
            return None
        return _with(known.end_session, {"client_id": self._client.id})

    async def address(self, attempt: Attempt) -> str:
        """Where a browser goes to sign in. Raises ControlUnavailable."""
        endpoints = await self._endpoints.read()
        asked = {
            "response_type": "code",
            "client_id": self._client.id,
            "redirect_uri": self._client.return_address,
            "scope": self._client.scopes,
            "state": attempt.state,
            "nonce": attempt.nonce,
            "code_challenge": attempt.challenge,
            "code_challenge_method": "S256",
        }
        return _with(endpoints.authorization, asked)

    async def caller_of(self, attempt: Attempt | None, answer: Answer, tenants: frozenset[str]) -> Caller:
        """Who signed in; the attempt is over, whatever comes of it. `tenants`: those that control data knows. Raises
        NotAuthenticated, Problem (`forbidden`: the issuer gives them no role here), ControlUnavailable."""
        if attempt is None or not hmac.compare_digest(attempt.state.encode(), (answer.state or "").encode()):
            raise NotAuthenticated("state", _OF_ANOTHER)
        if not self.attempts.end(attempt):
            raise NotAuthenticated("used", _OF_ANOTHER)
        endpoints = await self._endpoints.read()
        if answer.issuer != self._issuer and (endpoints.names_itself or answer.issuer is not None):
            raise NotAuthenticated("issuer", f"This answer is of another identity provider. {_AGAIN}")
        if answer.error is not None or not answer.code:
            raise NotAuthenticated("issuer_refused", _words_of(answer))
        id_token = await self._exchanged(endpoints.token, answer.code, attempt)
        try:
            return await self._tokens.person_of(id_token, self._client.id, attempt.nonce, tenants)
        except NotAuthenticated as failed:
            raise NotAuthenticated(failed.reason, _NOT_VALID) from None

    async def _exchanged(self, url: str, code: str, attempt: Attempt) -> str:
        """The ID token that a code is for."""
        if self._exchanging >= MAX_AT_ONCE:
            raise ControlUnavailable("too many people sign in at the same moment")
        self._exchanging += 1
        try:
            status, document = await asyncio.to_thread(self._post, url, code, attempt.verifier)
        except IssuerTrouble as trouble:
            _log.warning("a code was not exchanged", reason=str(trouble))
            raise ControlUnavailable("the identity provider does not answer") from None
        finally:
            self._exchanging -= 1
        id_token = document.get("id_token")
        if status == httpx.codes.OK and isinstance(id_token, str):
            return id_token
        said = _shown(document.get("error"))
        _log.warning("a code was not exchanged", status=status, error=said)
        if said == "invalid_grant":
            raise NotAuthenticated("code", f"The identity provider does not take this code, or no more. {_AGAIN}")
        raise NotAuthenticated(
            "exchange",
            f"The identity provider did not say who you are ({said or status}). Whoever runs this server looks at"
            " METERHOUSE_OIDC_CLIENT_ID, METERHOUSE_OIDC_CLIENT_SECRET and METERHOUSE_PUBLIC_URL.",
        )

    def _post(self, url: str, code: str, verifier: str) -> tuple[int, dict[str, Any]]:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._client.return_address,
            "code_verifier": verifier,
        }
        headers = {"accept": "application/json"}
        if self._client.secret is None:
            form["client_id"] = self._client.id
        else:
            headers["authorization"] = _basic(self._client.id, self._client.secret)
        with issuers.client() as http:
            return issuers.asked(http, "POST", url, data=form, headers=headers)

    def _fetch(self) -> _Endpoints:
        with issuers.client() as http:
            document = issuers.discovered(http, self._issuer)
        why = "people cannot sign in there"
        end_session = "end_session_endpoint"
        return _Endpoints(
            issuers.address(document, "authorization_endpoint", why),
            issuers.address(document, "token_endpoint", why),
            issuers.address(document, end_session, why) if end_session in document else None,
            document.get("authorization_response_iss_parameter_supported") is True,
        )


def _with(url: str, asked: dict[str, str]) -> str:
    """Parameters added to those that the address has."""
    return str(httpx.URL(url).copy_merge_params(asked))


def _basic(name: str, secret: str) -> str:
    """`client_secret_basic`: each half is encoded as in a form first (RFC 6749, 2.3.1)."""
    pair = f"{quote_plus(name)}:{quote_plus(secret)}"
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _words_of(answer: Answer) -> str:
    if answer.error is None:
        return f"The identity provider sent no code. {_AGAIN}"
    why = {
        "access_denied": "You may not sign in to this server there, or chose not to. Ask whoever runs the identity"
        " provider to let you in, or sign in with a key.",
        "login_required": _AGAIN,
        "interaction_required": _AGAIN,
        "temporarily_unavailable": "Try again in a minute.",
        "server_error": "Try again in a minute.",
    }.get(answer.error, "Whoever runs this server finds these words in the provider’s documentation.")
    said = _shown(answer.error_description)
    return f"The identity provider says {_shown(answer.error)}{f' (“{said}”)' if said else ''}. {why}"


def _shown(text: object) -> str:
    """An issuer's words, as far as a page shows them."""
    return "".join(each for each in str(text or "")[:MAX_SAID] if each.isprintable())
