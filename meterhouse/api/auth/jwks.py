"""An issuer's public keys: kept, and fetched again when a token names a key that is not among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from jwt import PyJWK
from jwt.exceptions import PyJWTError

from meterhouse.api.auth import issuer as issuers
from meterhouse.api.auth.issuer import IssuerTrouble, Kept

MAX_KEYS: Final = 100
"""Issuers publish a handful; more is somebody else's document."""

Keys = Mapping[tuple[str, str], PyJWK]


class Jwks:
    """The keys by (key id, algorithm). To be used on one event loop."""

    def __init__(self, issuer: str, url: str | None, algorithms: Sequence[str]) -> None:
        """`url`: of the key set; None: the issuer's discovery document says it."""
        self._issuer, self._url, self._algorithms = issuer, url, tuple(algorithms)
        self._kept = Kept[Keys]("the keys of the token's issuer", self._fetch)

    async def find(self, key_id: str, algorithm: str) -> PyJWK | None:
        """The key that verifies such tokens; None: there is none. Raises ControlUnavailable: keys are not known."""
        wanted = (key_id, algorithm)
        return (await self._kept.read(lambda keys: wanted in keys)).get(wanted)

    def _fetch(self) -> Keys:
        with issuers.client() as http:
            url = self._url
            if url is None:
                document = issuers.discovered(http, self._issuer)
                url = issuers.address(document, "jwks_uri", "set METERHOUSE_OIDC_JWKS_URL")
            return _keys_of(issuers.read(http, "GET", url), self._algorithms)


def _keys_of(document: Mapping[str, Any], algorithms: Sequence[str]) -> dict[tuple[str, str], PyJWK]:
    """Keys that may verify, each under the algorithms that it is for. Those of other kinds are passed over."""
    entries = document.get("keys")
    if not isinstance(entries, list):
        raise IssuerTrouble("its key set has no `keys`")
    found = {}
    for entry in entries[:MAX_KEYS]:
        if not isinstance(entry, dict) or not isinstance(entry.get("kid"), str) or "d" in entry:
            continue
        if entry.get("use", "sig") != "sig":
            continue
        for algorithm in algorithms:
            if entry.get("alg", algorithm) == algorithm:
                try:
                    found[entry["kid"], algorithm] = PyJWK(entry, algorithm=algorithm)
                except PyJWTError:  # not of this algorithm's kind
                    continue
    if not found:
        raise IssuerTrouble("its key set has no key for " + ", ".join(algorithms))
    return found
