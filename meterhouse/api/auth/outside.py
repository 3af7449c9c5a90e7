"""What stands between the network and the routes: refusals are told to the audit log, and answers carry the headers
that browsers heed. Plain ASGI: Starlette's base of middleware starts a task for each request."""

from __future__ import annotations

from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from meterhouse.api.auth.caller import Caller, NotAuthenticated
from meterhouse.api.auth.notices import Notice, Notices

_NOTHING: Final = "default-src 'none'; frame-ancestors 'none'"
PAGE: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " font-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
"""Of a page: nothing from elsewhere, and no script or style but those of our own files."""
_ONCE_GOOD: Final = ("expired", "revoked")
_YEAR_S: Final = 31_536_000


class SecureHeaders:
    """On every answer: no guessed types, no framing, no scripts, nothing kept by caches unless the route says how."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                is_page = headers.get("Content-Type", "").startswith("text/html")
                # Without a referrer a form would not say from where it is sent, and pages check that.
                headers["Referrer-Policy"] = "same-origin" if is_page else "no-referrer"
                headers["Content-Security-Policy"] = PAGE if is_page else _NOTHING
                headers.setdefault("Cache-Control", "no-store")
                if scope["scheme"] == "https":
                    headers["Strict-Transport-Security"] = f"max-age={_YEAR_S}"
            await send(message)

        await self._app(scope, receive, with_headers)


class TellRefusals:
    """Notes each 401 and 403 for the audit log."""

    def __init__(self, app: ASGIApp, notices: Notices) -> None:
        self._app, self._notices = app, notices

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def seen(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in (401, 403):
                self._notices.note(_refusal(scope, message["status"]))
            await send(message)

        await self._app(scope, receive, seen if scope["type"] == "http" else send)


def _refusal(scope: Scope, status: int) -> Notice:
    address = scope["client"][0] if scope.get("client") else "unknown"
    state = scope.get("state", {})
    failed: NotAuthenticated | None = state.get("failed")
    if status == 401:
        reason = failed.reason if failed else "none"
        subject: str = f"key:{failed.claimed}" if failed and failed.claimed else scope["path"]
        # Only who had its secret was once the key.
        known = failed is not None and failed.claimed is not None and reason in _ONCE_GOOD
        return Notice(subject if known else f"address:{address}", "authentication.failed", reason, subject, address)
    caller: Caller | None = state.get("caller")
    route = str(getattr(scope.get("route"), "path", scope["path"]))
    who = f"address:{address}" if caller is None else caller.id
    return Notice(who, "access.refused", f"{scope['method']} {route}", route, address)
