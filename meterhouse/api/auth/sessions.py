"""Sessions of people who signed in to the pages: a signed cookie that names who they are, for a working day.

The cookie holds no key and no token: it names the key by its public id, or says what the issuer's token said. A key
that is revoked ends its sessions at once; signing out ends one on this server, and it takes its cookie away.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import jwt
from fastapi import Request, Response
from jwt.exceptions import PyJWTError

from meterhouse.api.auth.caller import Caller, Role, grant_of
from meterhouse.api.settings import LOOPBACK
from meterhouse.warehouse.view import Grant

LASTS_S: Final = 8 * 3_600
"""A working day. Whoever was given less, or nothing more, is not let in for longer than that by a cookie."""
TOKEN_LASTS_S: Final = 3_600
"""Of a session that a token began: the issuer cannot take it back, so it is asked again each hour."""
MAX_ENDED: Final = 100_000
"""Sessions that are remembered to be over, some 10 MB. Beyond it the oldest would be forgotten, which are those that
end next by themselves."""
MAX_COOKIE: Final = 3_500
"""Characters; browsers drop a cookie of more than 4,096 with its name and attributes."""
FORM_FIELD: Final = "form_token"

_ALGORITHM: Final = "HS256"
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
        self._key = hashlib.sha256((secret or secrets.token_urlsafe(32)).encode()).digest()
        self._clock_us = clock_us
        self._ended: dict[str, int] = {}
        self._lock = threading.Lock()

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
        text = jwt.encode(claims, self._key, _ALGORITHM)
        if len(text) > MAX_COOKIE:
            raise SessionTooLarge
        lasts_s = session.until_s - self._now_s()
        # Lax: with strict a link in a mail would lead those who are signed in to the sign-in page.
        response.set_cookie(
            cookie_of(request),
            text,
            max_age=lasts_s,
            path="/",
            httponly=True,
            secure=is_secure(request),
            samesite="lax",
        )

    def new(self, who: Caller) -> Session:
        """A session of this caller that begins now."""
        sort, _, subject = who.id.partition(":")
        via: Literal["key", "token"] = "key" if sort == "key" else "token"
        until_s = self._now_s() + (LASTS_S if via == "key" else TOKEN_LASTS_S)
        return Session(secrets.token_urlsafe(16), via, subject, who.name, who.role, who.view.grants, until_s)

    def of(self, request: Request) -> Session | None:
        """The session of whoever makes the request; None: there is none, or it is over."""
        text = request.cookies.get(cookie_of(request))
        if text is None or len(text) > MAX_COOKIE:
            return None
        try:
            # The time is checked below, by our own clock.
            options: Any = {"verify_exp": False, "require": ["jti", "exp", "sub"]}
            claims = jwt.decode(text, self._key, algorithms=[_ALGORITHM], options=options)
        except PyJWTError:
            return None
        session = _session(claims)
        return session if self._now_s() < session.until_s and session.id not in self._ended else None

    def end(self, request: Request, response: Response) -> None:
        """Signs out: the cookie is taken back, and is worth nothing any more."""
        session = self.of(request)
        if session is not None:
            self._note_end(session)
        response.delete_cookie(cookie_of(request), path="/", httponly=True, secure=is_secure(request), samesite="lax")

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
        return hmac.digest(self._key, b"form:" + (session.id if session else "").encode(), "sha256")

    def _note_end(self, session: Session) -> None:
        with self._lock:
            if len(self._ended) >= MAX_ENDED:
                self._ended = dict(sorted(self._ended.items(), key=lambda each: each[1])[MAX_ENDED // 10 :])
            now_s = self._now_s()
            self._ended = {id_: until_s for id_, until_s in self._ended.items() if until_s > now_s}
            self._ended[session.id] = session.until_s

    def _now_s(self) -> int:
        return self._clock_us() // 1_000_000


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


def cookie_of(request: Request) -> str:
    """The cookie's name. `__Host-`: the browser itself holds it to this host, to TLS and to no Domain."""
    return "__Host-meterhouse" if is_secure(request) else "meterhouse"


def is_secure(request: Request) -> bool:
    """All but plain HTTP within this machine, which nobody overhears. A proxy that ends TLS passes the host on."""
    return request.url.scheme == "https" or request.url.hostname not in LOOPBACK
