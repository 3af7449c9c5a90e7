"""Attempts to sign in at the issuer: begun here, and ended once, by the same browser, within ten minutes.

A cookie holds an attempt's id and the page to go on to, nothing else. `state`, `nonce` and the code's verifier follow
from the id by this server's secret: the verifier never leaves it but for the issuer's token endpoint, and nothing is
kept of attempts that nobody ends.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fastapi import Request, Response

from meterhouse.api.auth.seals import MAX_COOKIE, Over, Seal
from meterhouse.api.auth.sessions import keep, kept, take_back

LASTS_S: Final = 600
"""To find a password, a second factor and their device. A cookie that is stolen later is worth nothing."""

_COOKIE: Final = "meterhouse-attempt"


@dataclass(frozen=True, slots=True)
class Attempt:
    """`state`: what the issuer must send back; `nonce`: what its ID token must hold; `verifier`: what the code is worth
    nothing without (RFC 7636)."""

    id: str
    back: str
    until_s: int
    state: str
    nonce: str
    verifier: str

    @property
    def challenge(self) -> str:
        return _text(hashlib.sha256(self.verifier.encode()).digest())


class Attempts:
    """May be shared between threads. `secret` None: made anew, so that attempts end when the process does."""

    def __init__(self, secret: str | None, clock_us: Callable[[], int]) -> None:
        self._seal = Seal(secret, "attempt", clock_us)
        self._ended = Over(self._seal.now_s)

    def new(self, back: str) -> Attempt:
        """An attempt that begins now; `back`: a path of this site to go on to. One that no cookie holds is left out."""
        attempt = self._attempt(secrets.token_urlsafe(16), back, self._seal.now_s() + LASTS_S)
        return attempt if len(self._closed(attempt)) <= MAX_COOKIE else self._attempt(attempt.id, "/", attempt.until_s)

    def begin(self, request: Request, response: Response, attempt: Attempt) -> None:
        """Sets the cookie, in place of another attempt's."""
        keep(request, response, _COOKIE, self._closed(attempt), LASTS_S)

    def of(self, request: Request) -> Attempt | None:
        """What this browser attempts; None: nothing, or its time is over."""
        claims = self._seal.opened(kept(request, _COOKIE))
        return None if claims is None else self._attempt(claims["jti"], claims["back"], claims["exp"])

    def end(self, attempt: Attempt) -> bool:
        """Whether it had not ended yet."""
        return self._ended.note(attempt.id, attempt.until_s)

    def take_back(self, request: Request, response: Response) -> None:
        take_back(request, response, _COOKIE)

    def _closed(self, attempt: Attempt) -> str:
        return self._seal.closed({"jti": attempt.id, "back": attempt.back, "exp": attempt.until_s})

    def _attempt(self, id_: str, back: str, until_s: int) -> Attempt:
        state, nonce, verifier = (_text(self._seal.mac(f"{use}:{id_}")) for use in ("state", "nonce", "verifier"))
        return Attempt(id_, back, until_s, state, nonce, verifier)


def _text(raw: bytes) -> str:
    """base64url without padding: 43 characters of 32 bytes, the fewest that a verifier may have."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
