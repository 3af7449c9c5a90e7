"""Operations that will go: said in one table, and by it in the OpenAPI document and in the fields of every answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, Final

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from meterhouse.api.operations import routes_of


@dataclass(frozen=True, slots=True)
class Deprecation:
    """That an operation is not to be used in new work. `link`: what to use instead, for people."""

    since: datetime  # aware; may be to come
    link: str
    sunset: datetime | None = None  # from then on it may be gone

    def __post_init__(self) -> None:
        if self.sunset is not None and self.sunset < self.since:
            raise ValueError(f"its sunset, {self.sunset}, is before it is deprecated, {self.since}")

    def headers(self) -> dict[str, str]:
        """RFC 9745's Deprecation and its link, RFC 8594's Sunset, each date in the form of its own RFC."""
        fields = {
            "Deprecation": f"@{int(self.since.timestamp())}",
            "Link": f'<{self.link}>; rel="deprecation"; type="text/html"',
        }
        if self.sunset is not None:
            fields["Sunset"] = format_datetime(self.sunset.astimezone(UTC), usegmt=True)
        return fields


DEPRECATIONS: Final[Mapping[str, Deprecation]] = {}
"""By operation id. `/v1` only adds, so what is listed here works on until its sunset, with which `/v1` itself ends."""


class NoSuchOperation(Exception):
    """A deprecation is of an operation that there is not."""


def install(app: FastAPI, deprecations: Mapping[str, Deprecation]) -> None:
    """Marks these operations of `app`, whose routes are all there. Raises NoSuchOperation."""
    if not deprecations:
        return
    if missing := sorted(deprecations.keys() - {route.name for route in routes_of(app)}):
        raise NoSuchOperation(f"{', '.join(missing)}: give the name of a route's function, as in the OpenAPI document")
    app.add_middleware(_AddFields, fields={name: each.headers() for name, each in deprecations.items()})
    made = app.openapi

    def openapi() -> dict[str, Any]:
        document = made()
        for methods in document["paths"].values():
            for operation in methods.values():
                if operation["operationId"] in deprecations:
                    operation["deprecated"] = True
        return document

    app.openapi = openapi  # type: ignore[method-assign]


class _AddFields:
    """Adds the fields to every answer of a marked operation, errors too."""

    def __init__(self, app: ASGIApp, fields: Mapping[str, Mapping[str, str]]) -> None:
        self._app = app
        self._fields = fields

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                # The route is in the scope once it is found.
                fields = self._fields.get(getattr(scope.get("route"), "name", ""), {})
                headers = MutableHeaders(scope=message)
                for name, value in fields.items():
                    headers.append(name, value)
            await send(message)

        await self._app(scope, receive, add)
