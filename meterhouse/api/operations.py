"""The routes of an application, each as it is reached."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import FastAPI
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts


def routes_of(app: FastAPI) -> Iterator[RouteContext]:
    """Each route of the API, those of included routers too: `app.routes` has a router where its routes would be."""
    for route in iter_route_contexts(app.routes):
        if isinstance(route.original_route, APIRoute):
            yield route
