"""What an OpenID Connect issuer publishes and answers: read over HTTP within limits, and what is published is kept."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, TypeVar

import httpx
import structlog

from meterhouse.api.addresses import is_safe_address
from meterhouse.warehouse.control import ControlUnavailable

TIMEOUT_S: Final = 5.0
"""For each document: who signs in waits for it."""
MAX_BYTES: Final = 256 * 2**10
FRESH_S: Final = 600.0
"""What the issuer took away, a key of its own say, is not believed for longer than this."""
ASKED_AGAIN_S: Final = 30.0
"""At most so often for what is not there, or after a failure: whoever invents key ids must not reach the issuer."""
KEEP_S: Final = 3_600.0
"""An issuer that does not answer: what it said last is believed for so long."""
DISCOVERY: Final = "/.well-known/openid-configuration"

_log = structlog.get_logger("meterhouse.auth")

T = TypeVar("T")


class IssuerTrouble(Exception):
    """The issuer is away, or says what cannot be used."""


class Kept(Generic[T]):
    """What an issuer publishes, fetched again when it is old or lacks what is wanted. To be used on one event loop;
    fetching is done in a thread."""

    def __init__(self, what: str, fetch: Callable[[], T]) -> None:
        """`what`: in the words of errors. `fetch` raises IssuerTrouble."""
        self._what, self._fetch_it = what, fetch
        self.last: T | None = None
        self._fetched_s: float | None = None
        self._asked_s: float | None = None
        self._fetching: asyncio.Future[None] | None = None

    async def read(self, suffices: Callable[[T], bool] = lambda _: True) -> T:
        """The newest there is, which may not suffice. Raises ControlUnavailable: it is not known, or too old."""
        enough = self.last is not None and suffices(self.last)
        fetching = self._fetch_if_due(wanted=not enough)
        if not enough and fetching is not None:
            await asyncio.shield(fetching)
        if self.last is None or self._fetched_s is None or time.monotonic() - self._fetched_s > KEEP_S:
            raise ControlUnavailable(f"{self._what} are not to be had")
        return self.last

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
            self.last = self._fetch_it()
        except IssuerTrouble as trouble:
            _log.warning(f"{self._what} are not to be had; the last are used", reason=str(trouble))
            return
        self._fetched_s = time.monotonic()


def client() -> httpx.Client:
    """What asks the issuer: nobody leads it elsewhere."""
    return httpx.Client(timeout=TIMEOUT_S, follow_redirects=False)


def discovered(http: httpx.Client, issuer: str) -> Mapping[str, Any]:
    """The issuer's discovery document. Raises IssuerTrouble."""
    document = read(http, "GET", issuer.rstrip("/") + DISCOVERY)
    if document.get("issuer") != issuer:
        raise IssuerTrouble(f"its discovery document is of {document.get('issuer')!r}, not of {issuer!r}")
    return document


def address(document: Mapping[str, Any], name: str, otherwise: str) -> str:
    """An address that a discovery document has, which TLS must protect as it does the issuer's. Raises IssuerTrouble;
    `otherwise`: what to do then."""
    url = document.get(name)
    if not isinstance(url, str) or not is_safe_address(url) or not url.isprintable():
        raise IssuerTrouble(f"its discovery document has no {name} that can be used: {otherwise}")
    return url


def read(http: httpx.Client, method: str, url: str, **more: Any) -> dict[str, Any]:
    """The JSON object that answers with 200. Raises IssuerTrouble."""
    status, document = asked(http, method, url, **more)
    if status != httpx.codes.OK:
        raise IssuerTrouble(f"{url} answers {status}")
    return document


def asked(http: httpx.Client, method: str, url: str, **more: Any) -> tuple[int, dict[str, Any]]:
    """Status, and a JSON object of at most MAX_BYTES, read within TIMEOUT_S: empty where it is an error without one.
    Raises IssuerTrouble."""
    ends_s, body = time.monotonic() + TIMEOUT_S, bytearray()
    try:
        with http.stream(method, url, **more) as answer:
            for chunk in answer.iter_bytes():
                body += chunk
                if len(body) > MAX_BYTES or time.monotonic() > ends_s:
                    raise IssuerTrouble(f"{url} is longer than {MAX_BYTES} bytes, or takes longer than {TIMEOUT_S} s")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise IssuerTrouble(f"{url}: {type(error).__name__}") from error
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict):
        return answer.status_code, document
    if answer.status_code == httpx.codes.OK:
        raise IssuerTrouble(f"{url} is no JSON object")
    return answer.status_code, {}
