"""The guard of each route: who asks, and may they?"""

from __future__ import annotations

from typing import Annotated, Final, Protocol

from fastapi import Depends, FastAPI, Request, params
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, RouteContext

from meterhouse.api.auth.caller import Caller, Permission
from meterhouse.api.auth.rates import Rates
from meterhouse.api.operations import every_route
from meterhouse.api.problems import Problem

PUBLIC: Final = frozenset(
    {
        "/healthz",
        "/readyz",
        "/metrics",
        "/",
        "/sign-in",
        "/sign-in/oidc",
        "/sign-in/oidc/done",
        "/sign-out",
        "/look",
        "/static/{name}",
    }
)
"""Paths that anyone who reaches the server may read: they tell of no tenant."""

DOCUMENTATION: Final = frozenset({"/docs", "/openapi.json"})
"""They hold what the sources hold."""


class Authenticator(Protocol):
    async def caller_of(self, request: Request) -> Caller:
        """Who makes the request. Raises Problem (`unauthenticated`, `forbidden`) and ControlUnavailable."""
        ...


class RouteUnguarded(Exception):
    """A route asks for no permission."""


async def caller(request: Request) -> Caller:
    """Found out once per request."""
    known: Caller | None = getattr(request.state, "caller", None)
    if known is None:
        authenticator: Authenticator = request.app.state.authenticator
        known = request.state.caller = await authenticator.caller_of(request)
    return known


CallerOf = Annotated[Caller, Depends(caller)]


class needs:  # noqa: N801 - called like a function
    """A dependency: the caller, who has this permission and does not ask too often. Raises Problem (`unauthenticated`,
    `forbidden`, `rate-limited`)."""

    def __init__(self, permission: Permission) -> None:
        self.permission = permission

    async def __call__(self, request: Request, who: CallerOf) -> Caller:
        if not who.may(self.permission):
            raise Problem(
                "forbidden", f"The role `{who.role}` may not do this: it needs the permission `{self.permission}`."
            )
        rates: Rates = request.app.state.rates
        rates.count(who, self.permission)
        return who


def only(permission: Permission) -> list[params.Depends]:
    """`dependencies` of a route or router that needs this permission."""
    return [params.Depends(needs(permission))]


def check_guarded(app: FastAPI) -> None:
    """Raises RouteUnguarded unless each route is public or asks for a permission."""
    for route in every_route(app):
        guarded = isinstance(route.original_route, APIRoute) and permissions_of(route)
        if route.path not in PUBLIC | DOCUMENTATION and not guarded:
            raise RouteUnguarded(f"{route.path} asks for no permission: give it or its router `dependencies=only(...)`")


def permissions_of(route: APIRoute | RouteContext) -> list[Permission]:
    """What a route asks for."""
    found, waiting = list[Permission](), [route.dependant]
    while waiting:
        dependant: Dependant = waiting.pop()
        if isinstance(dependant.call, needs):
            found.append(dependant.call.permission)
        waiting += dependant.dependencies
    return found
