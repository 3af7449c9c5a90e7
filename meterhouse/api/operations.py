"""The routes of an application, each as it is reached."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from fastapi import FastAPI
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts

PAGES: Final = "pages"
"""The tag of routes that are pages: for people, not in the API's document, with sessions and forms."""


def every_route(app: FastAPI) -> Iterator[RouteContext]:
    """Each route, those of included routers too: `app.routes` has a router where its routes would be."""
    yield from iter_route_contexts(app.routes)


def routes_of(app: FastAPI) -> Iterator[RouteContext]:
    """Each route of the API."""
    for route in every_route(app):
        if isinstance(route.original_route, APIRoute):
            yield route
