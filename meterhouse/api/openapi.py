"""The OpenAPI document: what FastAPI knows of each route, and what holds for all of them, said in one place.

Every operation has its function's name as `operationId`, who may call it, and each problem that it can answer with.
What follows from a guard, a body or a parameter is added here, so a route says only what is its own. The document of
the last release is docs/openapi/v1.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import APIRoute, RouteContext
from pydantic import BaseModel

from meterhouse.api import problems
from meterhouse.api.auth.caller import PERMITTED, Permission
from meterhouse.api.auth.guard import permissions_of
from meterhouse.api.operations import routes_of

BEARER: Final = "bearer"
SCHEMES: Final = {
    BEARER: {"type": "http", "scheme": "bearer", "description": "an API key, or a token of the identity provider"}
}

EXAMPLES: Final[Mapping[str, Any]] = {
    "action": "control.applied",
    "actor": "key:5f0c9a3e",
    "alert_id": "5c0f8a1be2d94f7a",
    "application": "assistant",
    "cost_center": "CC-1001",
    "environment": "production",
    "from": "2026-11-01",
    "group_by": "tenant,model",
    "Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324",
    "key_id": "k5f0c9a3e",
    "model": "atlas-large",
    "objective": "assistant-fast",
    "operation": "chat",
    "org_unit": "consumer",
    "provider": "atlas",
    "reservation": "5f0c9a3e-1a",
    "silence_id": "0197a2c4",
    "subject": "acme-retail-month",
    "tenant": "acme-retail",
    "to": "2026-12-01T00:00:00Z",
}
"""Of parameters that do not give one themselves, by their name: one word for one thing, so one example."""

_RETRY_AFTER: Final = {
    "Retry-After": {"description": "seconds until trying again may help", "schema": {"type": "integer"}}
}
_MAY_HELP_LATER: Final = ("429", "503")


class OperationIdTaken(Exception):
    """Two routes have functions of one name, which would be one method of a client."""


def operation_id(route: APIRoute) -> str:
    """The name of the route's function: give it to FastAPI as `generate_unique_id_function`."""
    return route.name


def install(app: FastAPI, schemas: Mapping[str, type[BaseModel]]) -> None:
    """Completes the document of `app`, whose routes are all there. `schemas`: those that no route returns.

    Raises OperationIdTaken.
    """
    _check_operation_ids(app)
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = made()
            components = document.setdefault("components", {})
            components["securitySchemes"] = SCHEMES
            listed = components.setdefault("schemas", {})
            listed |= {name: model.model_json_schema() for name, model in schemas.items()}
            for unused in ("HTTPValidationError", "ValidationError"):
                listed.pop(unused, None)
            for route, operation in _operations(app, document):
                _complete(operation, permissions_of(route))
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _operations(app: FastAPI, document: Mapping[str, Any]) -> Iterator[tuple[RouteContext, dict[str, Any]]]:
    for route in routes_of(app):
        methods = document["paths"].get(route.path_format, {})
        yield from ((route, methods[each.lower()]) for each in route.methods or () if each.lower() in methods)


def _check_operation_ids(app: FastAPI) -> None:
    seen = dict[str, str]()
    for route in routes_of(app):
        place = f"{', '.join(sorted(route.methods or ()))} {route.path}"
        if (other := seen.setdefault(route.name or "", place)) != place:
            raise OperationIdTaken(f"{route.name} is {other} and {place}: give one of the functions another name")


def _complete(operation: dict[str, Any], permissions: Sequence[Permission]) -> None:
    operation["security"] = [{BEARER: []}] if permissions else []
    if permissions:
        roles = [role.value for role, has in PERMITTED.items() if has.issuperset(permissions)]
        operation["description"] = f"{operation.get('description', '')}\n\nFor the roles {', '.join(roles)}.".lstrip()
    for parameter in operation.get("parameters", ()):
        schema = parameter["schema"] = _without_null(parameter["schema"])
        if "examples" not in schema and parameter["name"] in EXAMPLES and not _is_closed(schema):
            example = EXAMPLES[parameter["name"]]
            schema["examples"] = [[example] if _takes_a_list(schema) else example]
    said = operation["responses"]
    said.pop("422", None)  # a wrong parameter is a 400 here
    for name in _problems_of(operation, guarded=bool(permissions)):
        problems.add_response(said, name)
    for status in _MAY_HELP_LATER:
        if problems.MEDIA_TYPE in said.get(status, {}).get("content", ()):
            said[status].setdefault("headers", {}).update(_RETRY_AFTER)
    operation["responses"] = {status: said[status] for status in sorted(said)}


def _problems_of(operation: Mapping[str, Any], *, guarded: bool) -> Iterator[str]:
    """The problems that follow from what an operation has."""
    yield "internal-error"
    if guarded:
        yield from ("unauthenticated", "forbidden", "rate-limited", "unavailable")
    parameters = operation.get("parameters", ())
    if any(each["in"] == "path" for each in parameters):
        yield "not-found"
    if any(each["in"] != "path" or each["schema"].get("type") != "string" for each in parameters):
        yield "invalid-parameter"
    if "requestBody" in operation:
        yield from ("invalid-parameter", "malformed-body", "too-large", "unsupported-media-type")
    if len(operation["responses"].get("200", {}).get("content", ())) > 1:
        yield "not-acceptable"


def _alternatives(schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter that is not given is absent: a query has no null."""
    if "anyOf" not in schema:
        return schema
    rest = {name: value for name, value in schema.items() if name != "anyOf"}
    left = _alternatives(schema)
    return {**left[0], **rest} if len(left) == 1 else {**rest, "anyOf": left}


def _takes_a_list(schema: Mapping[str, Any]) -> bool:
    return any(each.get("type") == "array" for each in _alternatives(schema))


def _is_closed(schema: Mapping[str, Any]) -> bool:
    """Its values are listed."""
    return any("enum" in each or "const" in each for each in _alternatives(schema))
