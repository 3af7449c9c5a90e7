"""The authenticator of a server: API keys and tokens, or, on loopback without any, everyone is the operator."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, Self
from urllib.parse import urlsplit

from fastapi import Request

from meterhouse.api.addresses import LOOPBACK
from meterhouse.api.auth.attempts import Attempt
from meterhouse.api.auth.caller import LOCAL, Caller, NotAuthenticated, view_of
from meterhouse.api.auth.code_flow import Answer, CodeFlow
from meterhouse.api.auth.key_ring import KeyRing
from meterhouse.api.auth.notices import Notices
from meterhouse.api.auth.oidc import OidcTokens
from meterhouse.api.auth.sessions import Sessions
from meterhouse.api.operations import PAGES
from meterhouse.api.problems import Problem
from meterhouse.warehouse import key_text

Mode = Literal["auto", "on", "off"]

LOOK_EVERY_S: Final = 0.5
"""A key that is made or revoked is known so much later at most; a look costs one small read."""
MAX_CREDENTIALS: Final = 8_192
"""Characters of an Authorization header: tokens with long lists of groups have some thousands."""

_HOW: Final = "Send `Authorization: Bearer` with an API key (`meterhouse keys create`, POST /v1/keys) or a token."
_NO_FLOW: Final = (
    "Nobody signs in to this server at an identity provider. Whoever runs it sets METERHOUSE_OIDC_CLIENT_ID and"
    " METERHOUSE_PUBLIC_URL beside its issuer; meanwhile, sign in with a key at /sign-in."
)
_NOT_VALID: Final = "The API key or token is not valid, or no more. Ask whoever runs this server for a new one."


@dataclass(frozen=True, slots=True)
class Doors:
    """What credentials are held against; `tokens` None: there is no issuer; `code_flow` None: nobody signs in there."""

    ring: KeyRing
    tokens: OidcTokens | None
    notices: Notices
    sessions: Sessions
    code_flow: CodeFlow | None


class Authentication:
    """Follows keys in a thread of its own."""

    def __init__(self, mode: Mode, doors: Doors) -> None:
        self._mode = mode
        self._ring, self._tokens, self.notices = doors.ring, doors.tokens, doors.notices
        self.sessions, self.code_flow = doors.sessions, doors.code_flow
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="meterhouse-keys", daemon=True)

    @property
    def is_on(self) -> bool:
        """Whether callers must say who they are: `auto` is on as soon as there ever was a key, or there is an issuer.
        Raises ControlUnavailable."""
        if self._mode == "auto":
            return self._tokens is not None or self._ring.any_made
        return self._mode == "on"

    async def caller_of(self, request: Request) -> Caller:
        """Who makes the request. Raises Problem (`unauthenticated`, `forbidden`) and ControlUnavailable."""
        if not self.is_on:
            _check_local(request)
            return LOCAL
        try:
            shown = request.headers.getlist("authorization")
            who = await self._shown(shown) if shown else self._signed_in(request)
        except NotAuthenticated as failed:
            request.state.failed = failed  # for the audit log
            raise _unauthenticated(failed) from None
        if who.view.grants == ():
            request.state.caller = who
            raise Problem("forbidden", "What this key or token was granted is not there any more: it sees nothing.")
        return who

    def _signed_in(self, request: Request) -> Caller:
        """By the session's cookie, which browsers send whoever makes them ask: it opens what changes nothing, and the
        forms of pages, which have a token of their own."""
        session = self.sessions.of(request)
        reads = request.method in ("GET", "HEAD")
        if session is None or not (reads or PAGES in getattr(request.scope.get("route"), "tags", ())):
            raise NotAuthenticated("none", _HOW)
        request.state.session = session
        if session.via == "key":
            return self._ring.holder_of(session.subject)
        view = view_of(session.role, session.grants, self._ring.tenants)
        return Caller(f"oidc:{session.subject}", session.name, session.role, view)

    async def _shown(self, headers: list[str]) -> Caller:
        scheme, _, credentials = headers[0].partition(" ")
        credentials = credentials.strip()
        if len(headers) > 1 or scheme.lower() != "bearer" or not credentials:
            raise NotAuthenticated("malformed", _HOW)
        return await self.holder_of(credentials)

    async def holder_of(self, credentials: str) -> Caller:
        """Who holds this key or token. Raises NotAuthenticated, Problem (`forbidden`), ControlUnavailable."""
        if credentials.startswith(key_text.PREFIX):
            try:
                return self._ring.caller_of(key_text.read(credentials))
            except key_text.KeyMistyped as mistyped:
                raise NotAuthenticated("malformed", str(mistyped)) from None
        if self._tokens is None or len(credentials) > MAX_CREDENTIALS:
            raise NotAuthenticated("malformed")
        return await self._tokens.caller_of(credentials, self._ring.tenants)

    async def returned(self, attempt: Attempt | None, answer: Answer) -> Caller:
        """Who comes back from the issuer. Raises NotAuthenticated, Problem (`forbidden`; `not-found`: nobody signs in
        there), ControlUnavailable."""
        return await self.flow().caller_of(attempt, answer, self._ring.tenants)

    def flow(self) -> CodeFlow:
        """Raises Problem (`not-found`)."""
        if self.code_flow is None:
            raise Problem("not-found", _NO_FLOW)
        return self.code_flow

    def __enter__(self) -> Self:
        self._ring.look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._ring.note_uses(every_us=0)
        self.notices.write(every_us=0)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            self._ring.look()
            self._ring.note_uses()
            self.notices.write()


def _unauthenticated(failed: NotAuthenticated) -> Problem:
    """One text for all that would tell more than it should: whether a key exists, or what a token lacks."""
    error = "" if failed.reason == "none" else ', error="invalid_token"'
    challenge = f'Bearer realm="meterhouse"{error}'
    return Problem("unauthenticated", failed.said or _NOT_VALID, headers={"WWW-Authenticate": challenge})


def _check_local(request: Request) -> None:
    """Pages of other sites that someone at this machine looks at ask from here too. One may name this machine by a name
    of its own (DNS rebinding): its Host tells it. One may send a form across: its Origin does."""
    headers = request.headers
    origins = [f"//{headers.get('host', '')}", *headers.getlist("origin")]
    if any(_host_of(origin) not in LOOPBACK for origin in origins):
        raise Problem(
            "forbidden",
            "Without authentication this server answers to localhost, 127.0.0.1 and [::1] only, and to pages of these."
            " Use one of them, or turn authentication on: `meterhouse keys create --role admin`.",
        )


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
