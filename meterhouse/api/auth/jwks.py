"""An issuer's public keys: fetched over HTTP, kept, fetched again when a token names a key that is not among them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import httpx
import structlog
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from meterhouse.warehouse.control import ControlUnavailable

TIMEOUT_S: Final = 5.0
"""For each of the two documents: who logs in waits for it."""
MAX_BYTES: Final = 256 * 2**10
MAX_KEYS: Final = 100
"""Issuers publish a handful; more is somebody else's document."""
FRESH_S: Final = 600.0
"""A key that the issuer took away is not believed for longer than this."""
ASKED_AGAIN_S: Final = 30.0
"""At most so often for an unknown key, or after a failure: who invents key ids must not make us hammer the issuer."""
KEEP_S: Final = 3_600.0
"""An issuer that does not answer: its last keys are believed for so long."""
DISCOVERY: Final = "/.well-known/openid-configuration"

_log = structlog.get_logger("meterhouse.auth")


class IssuerTrouble(Exception):
    """The issuer's keys are not to be had."""


class Jwks:
    """The keys by (key id, algorithm). To be used on one event loop; fetching is done in a thread."""

    def __init__(self, issuer: str, url: str | None, algorithms: Sequence[str]) -> None:
        """`url`: of the key set; None: the issuer's discovery document says it."""
        self._issuer, self._url, self._algorithms = issuer, url, tuple(algorithms)
        self._keys: Mapping[tuple[str, str], PyJWK] = {}
        self._fetched_s: float | None = None
        self._asked_s: float | None = None
        self._fetching: asyncio.Future[None] | None = None

    async def find(self, key_id: str, algorithm: str) -> PyJWK | None:
        """The key that verifies such tokens; None: there is none. Raises ControlUnavailable: keys are not known."""
        found = self._keys.get((key_id, algorithm))
        fetching = self._fetch_if_due(wanted=found is None)
        if found is None and fetching is not None:
            await asyncio.shield(fetching)
            found = self._keys.get((key_id, algorithm))
        if self._fetched_s is None or time.monotonic() - self._fetched_s > KEEP_S:
            raise ControlUnavailable("the keys of the token's issuer are not to be had")
        return found

    def _fetch_if_due(self, *, wanted: bool) -> asyncio.Future[None] | None:
        """The fetch that runs, begun where it is due."""
        if self._fetching is not None and not self._fetching.done():
            return self._fetching
        now_s = time.monotonic()
        stale = self._fetched_s is None or now_s - self._fetched_s > FRESH_S
        recently = self._asked_s is not None and now_s - self._asked_s < ASKED_AGAIN_S
        if recently or not (wanted or stale):
            return None
        self._asked_s = now_s
        self._fetching = asyncio.ensure_future(asyncio.to_thread(self._fetch))
        return self._fetching

    def _fetch(self) -> None:
        try:
            with httpx.Client(timeout=TIMEOUT_S, follow_redirects=False) as http:
                url = self._url or self._discovered(http)
                self._keys = _keys_of(_document(http, url), self._algorithms)
        except IssuerTrouble as trouble:
            _log.warning("the issuer's keys are not to be had; the last are used", reason=str(trouble))
            return
        self._fetched_s = time.monotonic()

    def _discovered(self, http: httpx.Client) -> str:
        document = _document(http, self._issuer.rstrip("/") + DISCOVERY)
        if document.get("issuer") != self._issuer:
            raise IssuerTrouble(f"its discovery document is of {document.get('issuer')!r}, not of {self._issuer!r}")
        url = document.get("jwks_uri")
        if not isinstance(url, str) or (url.startswith("http:") and not self._issuer.startswith("http:")):
            raise IssuerTrouble("its discovery document has no jwks_uri that can be used: set METERHOUSE_OIDC_JWKS_URL")
        return url


def _document(http: httpx.Client, url: str) -> dict[str, Any]:
    """A JSON object of at most MAX_BYTES, read within TIMEOUT_S. Raises IssuerTrouble."""
    ends_s, body = time.monotonic() + TIMEOUT_S, bytearray()
    try:
        with http.stream("GET", url) as answer:
            if answer.status_code != httpx.codes.OK:
                raise IssuerTrouble(f"{url} answers {answer.status_code}")
            for chunk in answer.iter_bytes():
                body += chunk
                if len(body) > MAX_BYTES or time.monotonic() > ends_s:
                    raise IssuerTrouble(f"{url} is longer than {MAX_BYTES} bytes, or takes longer than {TIMEOUT_S} s")
        document = json.loads(body)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, RecursionError) as error:
        raise IssuerTrouble(f"{url}: {type(error).__name__}") from error
    if not isinstance(document, dict):
        raise IssuerTrouble(f"{url} is no JSON object")
    return document


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
