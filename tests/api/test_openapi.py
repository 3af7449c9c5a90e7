"""The OpenAPI document: `/v1` only adds, and every operation says what its caller must know."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import APIRouter, FastAPI

from meterhouse.api import openapi
from meterhouse.api.auth.guard import PUBLIC, RouteUnguarded, check_guarded
from tools.openapi import release

PROBLEM = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
FOR_ALL = {"500"}
FOR_GUARDED = {"401", "403", "429", "503"}
FOR_BODIES = {"400", "413", "415"}
OPAQUE = {"after"}
"""Parameters without an example: their values come from an answer."""
DOCUMENT = release.current()
OPERATIONS = [
    (path, method, operation) for path, methods in DOCUMENT["paths"].items() for method, operation in methods.items()
]
every_operation = pytest.mark.parametrize(
    ("path", "operation"),
    [(path, operation) for path, _, operation in OPERATIONS],
    ids=[f"{method} {path}" for path, method, _ in OPERATIONS],
)


def test_what_was_released_still_works() -> None:
    assert not (said := release.broken(release.released(), DOCUMENT)), said


@every_operation
def test_an_operation_has_a_summary_a_description_and_a_known_tag(path: str, operation: dict[str, Any]) -> None:
    assert operation["summary"], f"{path}: give the route a `summary`"
    assert operation["description"], f"{path}: give the route's function a docstring"
    known = {tag["name"] for tag in DOCUMENT["tags"]}
    assert len(operation["tags"]) == 1, f"{path}: give its router one tag"
    assert set(operation["tags"]) <= known, f"{path}: say in `openapi_tags` of api/app.py what its tag means"


@every_operation
def test_an_operation_says_who_may_call_it(path: str, operation: dict[str, Any]) -> None:
    if path in PUBLIC:
        assert operation["security"] == []
    else:
        assert operation["security"] == [{openapi.BEARER: []}]
        assert "\n\nFor the roles admin" in operation["description"]


@every_operation
def test_an_operation_lists_the_problems_it_can_answer_with(path: str, operation: dict[str, Any]) -> None:
    expected = FOR_ALL | (set() if path in PUBLIC else FOR_GUARDED)
    expected |= {"404"} if "{" in path else set()
    expected |= FOR_BODIES if "requestBody" in operation else set()
    parameters = operation.get("parameters", ())
    may_be_wrong = any(each["in"] != "path" or each["schema"].get("type") != "string" for each in parameters)
    expected |= {"400"} if may_be_wrong else set()
    answers = operation["responses"]
    assert expected <= answers.keys()
    assert "422" not in answers, "a wrong parameter is a 400"
    errors = {status for status in answers if int(status) >= 400}
    assert [status for status in errors if path not in PUBLIC and answers[status]["content"] != PROBLEM] == []
    assert all(answers[status]["description"] for status in answers)


@every_operation
def test_a_parameter_has_a_description_and_an_example_or_its_values(path: str, operation: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", ()):
        name, schema = parameter["name"], parameter["schema"]
        kinds = [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]
        kinds = [each["items"] if each.get("type") == "array" else each for each in kinds]
        told = "examples" in schema or name in OPAQUE
        told = told or all(each.get("type") != "string" or "enum" in each or "$ref" in each for each in kinds)
        assert told, f"{path}: give `{name}` an example, or add it to EXAMPLES of api/openapi.py"
        assert parameter["in"] == "path" or schema.get("default") is not None or parameter.get("description"), name


def test_operation_ids_are_the_names_of_the_functions() -> None:
    ids = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(ids) == len(set(ids))
    assert {"publish", "admit", "chargeback", "end_silence"} <= set(ids)


def test_two_functions_of_one_name_do_not_start() -> None:
    app = FastAPI()
    for path in ("/v1/one", "/v1/two"):

        @app.get(path)
        def usage() -> None: ...

    with pytest.raises(openapi.OperationIdTaken, match="usage is GET /v1/one and GET /v1/two"):
        openapi.install(app, {})


def test_a_route_that_asks_for_no_permission_does_not_start() -> None:
    router = APIRouter(prefix="/v1")

    @router.get("/secrets")
    def secrets() -> None: ...

    app = FastAPI(openapi_url=None)
    app.include_router(router)
    with pytest.raises(RouteUnguarded, match="/v1/secrets asks for no permission"):
        check_guarded(app)
