"""The guard of each route: who asks, and may they?"""

from __future__ import annotations

from typing import Annotated, Final, Protocol

from fastapi import Depends, FastAPI, Request, params
from fastapi.dependencies.models import Dependant
from fastapi.routing import RouteContext

from meterhouse.api.auth.caller import LOCAL, Caller, Permission
from meterhouse.api.operations import routes_of
from meterhouse.api.problems import Problem

PUBLIC: Final = frozenset({"/healthz", "/readyz", "/metrics"})
"""Paths that anyone who reaches the server may read: they tell of no tenant."""


class Authenticator(Protocol):
    async def caller_of(self, request: Request) -> Caller:
        """Who makes the request. Raises Problem (`unauthenticated`)."""
        ...


class Open:
    """Everyone is the operator at the machine: for a server that binds loopback only."""

    async def caller_of(self, request: Request) -> Caller:
        return LOCAL


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
    """A dependency: the caller, who has this permission. Raises Problem (`unauthenticated`, `forbidden`)."""

    def __init__(self, permission: Permission) -> None:
        self.permission = permission

    async def __call__(self, who: CallerOf) -> Caller:
        if not who.may(self.permission):
            raise Problem(
                "forbidden", f"The role `{who.role}` may not do this: it needs the permission `{self.permission}`."
            )
        return who


def only(permission: Permission) -> list[params.Depends]:
    """`dependencies` of a route or router that needs this permission."""
    return [params.Depends(needs(permission))]


def check_guarded(app: FastAPI) -> None:
    """Raises RouteUnguarded unless each route of the API is public or asks for a permission."""
    for route in routes_of(app):
        if route.path not in PUBLIC and not permissions_of(route):
            raise RouteUnguarded(f"{route.path} asks for no permission: give it or its router `dependencies=only(...)`")


def permissions_of(route: RouteContext) -> list[Permission]:
    """What a route asks for."""
    found, waiting = list[Permission](), [route.dependant]
    while waiting:
        dependant: Dependant = waiting.pop()
        if isinstance(dependant.call, needs):
            found.append(dependant.call.permission)
        waiting += dependant.dependencies
    return found
