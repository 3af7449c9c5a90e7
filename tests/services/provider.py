"""An identity provider for tests: an issuer at which one person is signed in, and which gives codes for ID tokens."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode

from tests.services.issuer import Asked, Issuer, Said

CLIENT: Final = "meterhouse-pages"
SECRET: Final = "s+cret/of a client"  # what HTTP Basic spells wrongly unless it is encoded first


@dataclass
class Provider(Issuer):
    """`person`: claims of who is signed in there. `refusal`: an error in place of a code. `misled`: what a
    test changes of an answer. `made`: how an ID token is made of its claims. `secret` None: the client is public."""

    person: dict[str, Any] = field(default_factory=dict)
    refusal: dict[str, str] = field(default_factory=dict)
    misled: dict[str, str | None] = field(default_factory=dict)
    made: Callable[[Provider, dict[str, Any]], str] = lambda provider, claims: provider.token(**claims)
    secret: str | None = SECRET
    codes: dict[str, Asked] = field(default_factory=dict)
    exchanges: int = 0

    def documents(self) -> dict[str, Any]:
        documents = super().documents()
        documents["/.well-known/openid-configuration"] |= {
            "authorization_endpoint": f"{self.url}/authorize?audience=people",
            "token_endpoint": f"{self.url}/token",
            "end_session_endpoint": f"{self.url}/leave",
            "authorization_response_iss_parameter_supported": True,
        }
        return documents

    def got(self, path: str, asked: Asked) -> Said:
        if path == "/leave":
            return Said(200, asked)
        return super().got(path, asked) if path != "/authorize" else self._authorized(asked)

    def _authorized(self, asked: Asked) -> Said:
        wanted = {"response_type": "code", "client_id": CLIENT, "code_challenge_method": "S256", "audience": "people"}
        if not wanted.items() <= asked.items() or "openid" not in asked["scope"].split():
            return Said(400, {"error": "invalid_request"})
        code = secrets.token_urlsafe(8)
        self.codes[code] = asked
        answer = {"code": code, **self.refusal, "state": asked["state"], "iss": self.url, **self.misled}
        if self.refusal:
            del answer["code"]
        said = {name: text for name, text in answer.items() if text is not None}
        return Said(302, location=f"{asked['redirect_uri']}?{urlencode(said)}")

    def posted(self, path: str, form: Asked, authorization: str) -> Said:
        if path != "/token" or self.away:
            return Said(404)
        self.exchanges += 1
        if not self._is_client(form, authorization):
            return Said(401, {"error": "invalid_client"})
        asked = self.codes.pop(form["code"], None)
        if asked is None or form["grant_type"] != "authorization_code" or not _fits(asked, form):
            return Said(400, {"error": "invalid_grant"})
        claims = {"aud": CLIENT, "nonce": asked["nonce"], **self.person}
        return Said(200, {"id_token": self.made(self, claims), "access_token": "opaque", "token_type": "Bearer"})

    def _is_client(self, form: Asked, authorization: str) -> bool:
        if self.secret is None:
            return form.get("client_id") == CLIENT and not authorization
        # The secret of SECRET, encoded as a form's field.
        pair = base64.b64encode(f"{CLIENT}:s%2Bcret%2Fof+a+client".encode()).decode()
        return authorization == f"Basic {pair}" and "client_secret" not in form


def _fits(asked: Asked, form: Asked) -> bool:
    digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
    challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    return asked["code_challenge"] == challenge and asked["redirect_uri"] == form["redirect_uri"]
