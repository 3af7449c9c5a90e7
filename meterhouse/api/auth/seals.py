"""What browsers keep for this server and cannot change, and what they must not show twice."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

import jwt
from jwt.exceptions import PyJWTError

MAX_COOKIE: Final = 3_500
"""Characters; browsers drop a cookie of more than 4,096 with its name and attributes."""
MAX_OVER: Final = 100_000
"""Ids that are remembered to be over, some 10 MB. Beyond it the oldest are forgotten, which are those that end next by
themselves."""

_ALGORITHM: Final = "HS256"


class Seal:
    """Signs claims that have `jti` and `exp`. `secret` None: made anew, so that they end when the process does.
    `purpose`: what is signed for one is nothing for another."""

    def __init__(self, secret: str | None, purpose: str, clock_us: Callable[[], int]) -> None:
        key = hashlib.sha256((secret or secrets.token_urlsafe(32)).encode()).digest()
        self._key = hmac.digest(key, purpose.encode(), "sha256")
        self._clock_us = clock_us

    def now_s(self) -> int:
        return self._clock_us() // 1_000_000

    def closed(self, claims: Mapping[str, Any]) -> str:
        return jwt.encode(dict(claims), self._key, _ALGORITHM)

    def opened(self, text: str | None) -> dict[str, Any] | None:
        """The claims; None: this server did not sign them, or their time is over."""
        if text is None or len(text) > MAX_COOKIE:
            return None
        try:
            # The time is checked below, by our own clock.
            options: Any = {"verify_exp": False, "require": ["jti", "exp"]}
            claims: dict[str, Any] = jwt.decode(text, self._key, algorithms=[_ALGORITHM], options=options)
        except PyJWTError:
            return None
        return claims if self.now_s() < claims["exp"] else None

    def mac(self, text: str) -> bytes:
        """32 bytes that nobody else can make of the text."""
        return hmac.digest(self._key, text.encode(), "sha256")


class Over:
    """Ids that are over before their time. May be shared between threads."""

    def __init__(self, now_s: Callable[[], int]) -> None:
        self._now_s = now_s
        self._until_s: dict[str, int] = {}
        self._lock = threading.Lock()

    def __contains__(self, id_: str) -> bool:
        return id_ in self._until_s

    def note(self, id_: str, until_s: int) -> bool:
        """Whether it was not over yet. Remembered until its time."""
        with self._lock:
            if id_ in self._until_s:
                return False
            kept = self._until_s
            if len(kept) >= MAX_OVER:
                kept = dict(sorted(kept.items(), key=lambda each: each[1])[MAX_OVER // 10 :])
            now_s = self._now_s()
            self._until_s = {each: until for each, until in kept.items() if until > now_s}
            self._until_s[id_] = until_s
            return True
