"""Tokens of an OpenID Connect issuer: who they name, verified offline with the issuer's public keys."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import jwt
from jwt.exceptions import (
    ExpiredSignatureError,
    ImmatureSignatureError,
    InvalidAlgorithmError,
    InvalidAudienceError,
    InvalidIssuerError,
    InvalidSignatureError,
    PyJWTError,
)

from meterhouse.api.auth.caller import Caller, NotAuthenticated, Role, RoleMisfit, check_grants, grant_of, view_of
from meterhouse.api.auth.jwks import Jwks
from meterhouse.api.problems import Problem
from meterhouse.warehouse.api_keys import MAX_GRANTS, MAX_NAME
from meterhouse.warehouse.view import Grant

MAX_SUBJECT: Final = 255  # OpenID Connect Core, 2: a `sub` is no longer
_REQUIRED: Final = ("exp", "iss", "aud", "sub")
_REASONS: Final[Mapping[type[PyJWTError], str]] = {
    ExpiredSignatureError: "expired",
    ImmatureSignatureError: "not_yet_valid",
    InvalidAlgorithmError: "algorithm",
    InvalidAudienceError: "audience",
    InvalidIssuerError: "issuer",
    InvalidSignatureError: "signature",
}


@dataclass(frozen=True, slots=True)
class OidcSettings:
    """Whose tokens are taken, and which claims say what they may."""

    issuer: str
    audience: str
    jwks_url: str | None
    algorithms: tuple[str, ...]
    clock_skew_s: int
    role_claim: str
    grants_claim: str


class OidcTokens:
    """Turns a token into its caller."""

    def __init__(self, settings: OidcSettings) -> None:
        self._settings = settings
        self._jwks = Jwks(settings.issuer, settings.jwks_url, settings.algorithms)

    async def caller_of(self, token: str, tenants: frozenset[str]) -> Caller:
        """Whom the token names; `tenants`: those that control data knows.

        Raises NotAuthenticated; Problem (`forbidden`): the token is sound and its claims give no role here;
        ControlUnavailable: the issuer's keys are not known.
        """
        return self._named(await self._claims(token, self._settings.audience, _REQUIRED), tenants)

    async def person_of(self, id_token: str, client_id: str, nonce: str, tenants: frozenset[str]) -> Caller:
        """Whom an ID token names that the issuer made for this client, when it was asked with this nonce. Raises as
        `caller_of`. OpenID Connect Core, 3.1.3.7; its `azp` must be ours wherever it is not for us alone."""
        claims = await self._claims(id_token, client_id, (*_REQUIRED, "iat", "nonce"))
        said = claims["nonce"]
        if not isinstance(said, str) or not hmac.compare_digest(said.encode(errors="replace"), nonce.encode()):
            raise NotAuthenticated("nonce")
        is_for_others = claims["aud"] not in (client_id, [client_id])
        if claims.get("azp", None if is_for_others else client_id) != client_id:
            raise NotAuthenticated("authorized_party")
        return self._named(claims, tenants)

    async def _claims(self, token: str, audience: str, required: Sequence[str]) -> Mapping[str, Any]:
        settings = self._settings
        try:
            # Not verified yet: it says which key to try, of those that are the issuer's own.
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in settings.algorithms:
                raise InvalidAlgorithmError("not among those that are taken")
            key_id = header.get("kid")
            key = await self._jwks.find(key_id, header["alg"]) if isinstance(key_id, str) else None
            if key is None:
                raise NotAuthenticated("unknown_signer")
            return jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=audience,
                issuer=settings.issuer,
                leeway=settings.clock_skew_s,
                options={"require": list(required), "enforce_minimum_key_length": True},
            )
        except PyJWTError as wrong:
            raise NotAuthenticated(_REASONS.get(type(wrong), "token")) from None
        except (RecursionError, OverflowError, ValueError):  # JSON that nobody signs
            raise NotAuthenticated("token") from None

    def _named(self, claims: Mapping[str, Any], tenants: frozenset[str]) -> Caller:
        subject = claims["sub"]
        if not subject or len(subject) > MAX_SUBJECT or not subject.isprintable():
            raise NotAuthenticated("subject")
        try:
            role = self._role(claims)
            grants = self._grants(claims)
            check_grants(role, grants)
        except RoleMisfit as misfit:
            raise Problem("forbidden", f"The token gives no access here: {misfit}.") from None
        name = next((text for key in ("name", "email") if isinstance(text := claims.get(key), str) and text), subject)
        return Caller(f"oidc:{subject}", name[:MAX_NAME], role, view_of(role, grants, tenants))

    def _role(self, claims: Mapping[str, Any]) -> Role:
        said = _claim(claims, self._settings.role_claim)
        names = said if isinstance(said, list) else [said]
        roles = [role for role in Role if role.value in names]
        if len(roles) != 1:
            raise RoleMisfit(
                f"its claim `{self._settings.role_claim}` must name exactly one of the roles {', '.join(Role)}"
            )
        return roles[0]

    def _grants(self, claims: Mapping[str, Any]) -> Sequence[Grant] | None:
        name = self._settings.grants_claim
        said = _claim(claims, name)
        if said is None:
            return None
        if not isinstance(said, list) or len(said) > MAX_GRANTS or not all(isinstance(text, str) for text in said):
            raise RoleMisfit(
                f"its claim `{name}` must be a list of at most {MAX_GRANTS} texts, `tenant` or `tenant/application`"
            )
        return [grant_of(text) for text in said]


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name; one that is not there by its path, as in `realm_access.roles`."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found
