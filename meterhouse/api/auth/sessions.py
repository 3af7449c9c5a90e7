"""Sessions of people who signed in to the pages: a signed cookie that names who they are, for a working day.

The cookie holds no key and no token: it names the key by its public id, or says what the issuer's token said. A key
that is revoked ends its sessions at once; signing out ends one on this server, and it takes its cookie away.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from fastapi import Request, Response

from meterhouse.api.addresses import LOOPBACK
from meterhouse.api.auth.caller import Caller, Role, grant_of
from meterhouse.api.auth.seals import MAX_COOKIE, Over, Seal
from meterhouse.warehouse.view import Grant

LASTS_S: Final = 8 * 3_600
"""A working day. Whoever was given less, or nothing more, is not let in for longer than that by a cookie."""
TOKEN_LASTS_S: Final = 3_600
"""Of a session that a token began: the issuer cannot take it back, so it is asked again each hour."""
FORM_FIELD: Final = "form_token"

_COOKIE: Final = "meterhouse"
_TOKEN_BYTES: Final = 32


class SessionTooLarge(Exception):
    """A cookie cannot hold the grants of this caller."""


@dataclass(frozen=True, slots=True)
class Session:
    """Who signed in. `via` key: `subject` is the key's id; token: it is the issuer's, with what the token gave."""

    id: str
    via: Literal["key", "token"]
    subject: str
    name: str
    role: Role
    grants: tuple[Grant, ...] | None
    until_s: int


class Sessions:
    """May be shared between threads. `secret` None: made anew, so that sessions end when the process does."""

    def __init__(self, secret: str | None, clock_us: Callable[[], int]) -> None:
        self._seal = Seal(secret, "session", clock_us)
        self._ended = Over(self._seal.now_s)

    def begin(self, request: Request, response: Response, session: Session) -> None:
        """Signs someone in: sets the cookie. Raises SessionTooLarge."""
        claims = {
            "jti": session.id,
            "via": session.via,
            "sub": session.subject,
            "name": session.name,
            "role": session.role.value,
            "grants": None if session.grants is None else list(map(str, session.grants)),
            "exp": session.until_s,
        }
        text = self._seal.closed(claims)
        if len(text) > MAX_COOKIE:
            raise SessionTooLarge
        keep(request, response, _COOKIE, text, session.until_s - self._seal.now_s())

    def new(self, who: Caller) -> Session:
        """A session of this caller that begins now."""
        sort, _, subject = who.id.partition(":")
        via: Literal["key", "token"] = "key" if sort == "key" else "token"
        until_s = self._seal.now_s() + (LASTS_S if via == "key" else TOKEN_LASTS_S)
        return Session(secrets.token_urlsafe(16), via, subject, who.name, who.role, who.view.grants, until_s)

    def of(self, request: Request) -> Session | None:
        """The session of whoever makes the request; None: there is none, or it is over."""
        claims = self._seal.opened(kept(request, _COOKIE))
        return None if claims is None or claims["jti"] in self._ended else _session(claims)

    def end(self, request: Request, response: Response) -> None:
        """Signs out: the cookie is taken back, and is worth nothing any more."""
        session = self.of(request)
        if session is not None:
            self._ended.note(session.id, session.until_s)
        take_back(request, response, _COOKIE)

    def form_token(self, session: Session | None) -> str:
        """What a form of this session must send back; no other site can read it. It is another text each time: the size
        of a packed page would tell of a text that stays (BREACH)."""
        mask = secrets.token_bytes(_TOKEN_BYTES)
        return (mask + _xor(mask, self._token(session))).hex()

    def is_form_token(self, session: Session | None, shown: str) -> bool:
        try:
            raw = bytes.fromhex(shown)
        except ValueError:
            return False
        return hmac.compare_digest(_xor(raw[:_TOKEN_BYTES], raw[_TOKEN_BYTES:]), self._token(session))

    def _token(self, session: Session | None) -> bytes:
        return self._seal.mac("form:" + (session.id if session else ""))


def _xor(mask: bytes, text: bytes) -> bytes:
    """As long as the shorter of both."""
    return bytes(one ^ other for one, other in zip(mask, text, strict=False))


def _session(claims: dict[str, Any]) -> Session:
    grants = claims["grants"]
    return Session(
        id=claims["jti"],
        via=claims["via"],
        subject=claims["sub"],
        name=claims["name"],
        role=Role(claims["role"]),
        grants=None if grants is None else tuple(grant_of(text) for text in grants),
        until_s=claims["exp"],
    )


def keep(request: Request, response: Response, name: str, text: str, lasts_s: int) -> None:
    """Has the browser keep a text that scripts do not read, and that it sends this server alone."""
    # Lax: with strict a link in a mail would lead those who are signed in to the sign-in page, and who comes back from
    # an issuer would have no attempt.
    response.set_cookie(
        _named(request, name),
        text,
        max_age=lasts_s,
        path="/",
        httponly=True,
        secure=is_secure(request),
        samesite="lax",
    )


def kept(request: Request, name: str) -> str | None:
    return request.cookies.get(_named(request, name))


def take_back(request: Request, response: Response, name: str) -> None:
    secure = is_secure(request)
    response.delete_cookie(_named(request, name), path="/", httponly=True, secure=secure, samesite="lax")


def _named(request: Request, name: str) -> str:
    """`__Host-`: the browser itself holds the cookie to this host, to TLS and to no Domain."""
    return f"__Host-{name}" if is_secure(request) else name


def is_secure(request: Request) -> bool:
    """All but plain HTTP within this machine, which nobody overhears. A proxy that ends TLS passes the host on."""
    return request.url.scheme == "https" or request.url.hostname not in LOOPBACK
