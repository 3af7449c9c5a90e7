"""An operation that will go says so: in every answer, and in the OpenAPI document."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
import pytest
from fastapi import APIRouter, FastAPI

from meterhouse.api import deprecation, problems
from meterhouse.api.deprecation import Deprecation, NoSuchOperation
from meterhouse.api.streams import Streams
from tests.api.serving import served

SINCE, SUNSET = datetime(2027, 1, 1, tzinfo=UTC), datetime(2028, 6, 30, 23, 59, 59, tzinfo=UTC)
LINK = "https://meterhouse.example/docs/bill"


def application(**deprecations: Deprecation) -> FastAPI:
    app, router = FastAPI(generate_unique_id_function=lambda route: route.name), APIRouter(prefix="/v1")
    app.state.streams = Streams()
    problems.install(app)

    @router.get("/bill")
    def bill(month: int = 1) -> str:
        return "paid"

    @router.get("/chargeback")
    def chargeback() -> str:
        return "billed"

    app.include_router(router)
    deprecation.install(app, deprecations)
    return app


def fields(answer: httpx.Response) -> dict[str, str]:
    return {name: answer.headers[name] for name in ("Deprecation", "Sunset", "Link") if name in answer.headers}


def test_every_answer_of_a_deprecated_operation_says_since_when_until_when_and_what_instead() -> None:
    said = {
        "Deprecation": "@1798761600",
        "Sunset": "Fri, 30 Jun 2028 23:59:59 GMT",
        "Link": '<https://meterhouse.example/docs/bill>; rel="deprecation"; type="text/html"',
    }
    with served(application(bill=Deprecation(SINCE, LINK, SUNSET))) as client:
        assert fields(client.get("/v1/bill")) == said
        wrong = client.get("/v1/bill", params={"month": "x"})
    assert (wrong.status_code, fields(wrong)) == (400, said)


def test_other_operations_say_nothing() -> None:
    with served(application(bill=Deprecation(SINCE, LINK))) as client:
        assert fields(client.get("/v1/chargeback")) == {}
        assert fields(client.get("/v1/nothing")) == {}
        assert fields(client.get("/v1/bill")).keys() == {"Deprecation", "Link"}


def test_the_document_marks_it() -> None:
    paths = application(bill=Deprecation(SINCE, LINK)).openapi()["paths"]
    assert paths["/v1/bill"]["get"]["deprecated"] is True
    assert "deprecated" not in paths["/v1/chargeback"]["get"]


def test_a_deprecation_of_nothing_does_not_start() -> None:
    with pytest.raises(NoSuchOperation, match="invoice: give the name of a route's function"):
        application(invoice=Deprecation(SINCE, LINK))


def test_nothing_ends_before_it_is_deprecated() -> None:
    with pytest.raises(ValueError, match="is before it is deprecated"):
        Deprecation(SUNSET, LINK, SINCE)
