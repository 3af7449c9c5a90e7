"""What a caller may do and for whom: roles on every route, events, admissions, reservations, prices, signatures."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI

from meterhouse.api.auth.caller import PERMITTED, Permission, Role
from meterhouse.api.auth.guard import PUBLIC, RouteUnguarded, check_guarded, only, permissions_of
from meterhouse.api.operations import routes_of
from meterhouse.api.workers import Workers
from meterhouse.ingest.log import USAGE_EVENTS
from tests.api.doors import Gatehouse, gatehouse
from tests.api.test_alerts import alert
from tests.api.test_http import event, problem
from tests.kafka.logs import await_that

EXPECTED = {
    "publish": {"admin", "gateway"},
    "admit": {"admin", "gateway"},
    "read_budget_states": {"admin", "gateway"},
    "read_prices": {"admin", "finance", "product_owner", "gateway", "auditor"},
    "read_reports": {"admin", "finance", "product_owner", "auditor"},
    "export": {"admin", "finance", "product_owner", "auditor"},
    "read_rejects": {"admin", "finance", "product_owner", "auditor"},
    "resolve_rejects": {"admin"},
    "read_alerts": {"admin", "finance", "product_owner", "auditor"},
    "answer_alerts": {"admin", "product_owner"},
    "read_quality": {"admin", "finance", "auditor"},
    "read_audit": {"admin", "auditor"},
    "manage_keys": {"admin"},
    "read_self": {"admin", "finance", "product_owner", "gateway", "auditor"},
}
"""Written down a second time: who changes the table of permissions changes it here too, on purpose."""


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gatehouse]:
    with gatehouse(tmp_path_factory.mktemp("scopes")) as there:
        with Workers(there.house) as workers:
            workers.run_until_idle(threading.Event())  # the gate hears of the budget
        await_that(lambda: _admitted(there)["reservation"] is not None)
        yield there


def _admitted(doors: Gatehouse) -> dict[str, Any]:
    answer = doors.ask("gateway", "/v1/admissions", "POST", json=admission())
    return {"reservation": None} | answer.json()


def test_who_may_do_what() -> None:
    found = {p.value: {role.value for role in Role if p in PERMITTED[role]} for p in Permission}
    assert found == EXPECTED


@pytest.mark.parametrize("role", Role)
def test_each_role_is_let_into_its_routes_and_no_others(doors: Gatehouse, role: Role) -> None:
    asked = 0
    for route in routes_of(doors.app):
        pattern = route.path or ""
        if pattern in PUBLIC:
            continue
        permitted = all(permission in PERMITTED[role] for permission in permissions_of(route))
        path = pattern.replace("{", "no-such-").replace("}", "")
        for method in route.methods or ():
            with doors.http.stream(method, path, headers={"authorization": f"Bearer {doors.keys[role]}"}) as answer:
                assert (answer.status_code != 403) == permitted, f"{role}: {method} {path}: {answer.status_code}"
                asked += 1
    assert asked > 15


@pytest.mark.parametrize("nested", [False, True])
def test_an_application_with_an_unguarded_route_does_not_start(nested: bool) -> None:
    guarded, unguarded, app = APIRouter(dependencies=only(Permission.publish)), APIRouter(), FastAPI(redoc_url=None)
    guarded.get("/guarded")(lambda: None)
    unguarded.get("/unguarded")(lambda: None)
    app.router.routes[:] = [route for route in app.router.routes if route.path in ("/docs", "/openapi.json")]  # type: ignore[attr-defined]
    app.include_router(guarded)
    check_guarded(app)
    if nested:
        outer = APIRouter(prefix="/v1")
        outer.include_router(unguarded)
        unguarded = outer
    app.include_router(unguarded)
    with pytest.raises(RouteUnguarded, match="/unguarded"):
        check_guarded(app)


# --- events ----------------------------------------------------------------------------------------------------------


def records(doors: Gatehouse) -> int:
    return sum(doors.house.log.end_offsets(USAGE_EVENTS).values())


@pytest.mark.parametrize(
    ("who", "events"),
    [
        ("acme_gateway", [event(1), event(2, subject="borea")]),
        ("acme_gateway", [event(1, subject="nobody"), event(2)]),
        ("assistant_gateway", [event(1), event(2, data={"application": "search"})]),
        ("assistant_gateway", [event(1, data={"application": None})]),
        ("assistant_gateway", [event(1) | {"data": "text"}]),
    ],
)
def test_an_event_of_another_refuses_the_body_whole(doors: Gatehouse, who: str, events: list[dict[str, Any]]) -> None:
    before = records(doors)
    problem(doors.ask(who, "/v1/events", "POST", json=events), 403, "forbidden")
    assert records(doors) == before


def test_a_foreign_tenant_and_an_absent_one_are_refused_alike(doors: Gatehouse) -> None:
    answers = [
        doors.ask("acme_gateway", "/v1/events", "POST", json=[event(1, subject=tenant)])
        for tenant in ("borea", "nobody")
    ]
    assert answers[0].json() == answers[1].json()


def test_a_gateway_publishes_for_its_own(doors: Gatehouse) -> None:
    for who in ("acme_gateway", "assistant_gateway", "gateway"):
        assert doors.ask(who, "/v1/events", "POST", json=[event(1)]).status_code == 204
    assert doors.ask("gateway", "/v1/events", "POST", json=[event(2, subject="borea")]).status_code == 204


def test_an_event_of_nobody_is_kept_among_the_rejects_as_ever(doors: Gatehouse) -> None:
    problem(doors.ask("acme_gateway", "/v1/events", "POST", json=event(1, subject=7)), 400, "malformed-event")


# --- admissions ------------------------------------------------------------------------------------------------------


def admission(**changes: Any) -> dict[str, Any]:
    return {"tenant": "acme", "application": "assistant", "model": "large", "max_cost": "0.01"} | changes


def test_a_gateway_asks_for_its_own(doors: Gatehouse) -> None:
    refusals = [
        doors.ask("assistant_gateway", "/v1/admissions", "POST", json=admission(**foreign)).json()
        for foreign in ({"tenant": "borea"}, {"tenant": "nobody"}, {"application": "search"})
    ]
    assert [each["type"] for each in refusals] == ["/problems/forbidden"] * 3
    assert refusals[0] == refusals[1] == refusals[2]
    assert doors.ask("assistant_gateway", "/v1/admissions", "POST", json=admission()).status_code == 200


def test_only_who_made_a_reservation_settles_or_cancels_it(doors: Gatehouse) -> None:
    name = doors.ask("acme_gateway", "/v1/admissions", "POST", json=admission()).json()["reservation"]
    absent = doors.ask("assistant_gateway", "/v1/admissions/none", "DELETE").json()
    for stranger in ("assistant_gateway", "gateway", "admin"):
        for place in (name, name.rpartition(".")[0]):
            answer = doors.ask(stranger, f"/v1/admissions/{place}", "DELETE")
            assert problem(answer, 404, "not-found") == absent | {"instance": f"/v1/admissions/{place}"}
            settled = doors.ask(stranger, f"/v1/admissions/{place}/settlement", "POST", json={"cost": "0.01"})
            problem(settled, 404, "not-found")
    assert doors.ask("acme_gateway", f"/v1/admissions/{name}", "DELETE").status_code == 204
    problem(doors.ask("acme_gateway", f"/v1/admissions/{name}", "DELETE"), 404, "not-found")


def test_budget_states_are_for_who_sees_all(doors: Gatehouse) -> None:
    refusal = problem(doors.ask("acme_gateway", "/v1/budget-states"), 403, "forbidden")
    assert "POST /v1/admissions" in refusal["detail"]


def test_a_foreign_tenants_prices_are_those_of_one_that_is_not_there(doors: Gatehouse) -> None:
    prices = {
        (who, tenant): doors.ask(who, "/v1/prices", params={"tenant": tenant}).json()["prices"]
        for who in ("product_owner", "finance")
        for tenant in ("borea", "nobody")
    }
    assert prices["product_owner", "borea"] == prices["product_owner", "nobody"] == prices["finance", "nobody"]
    assert prices["finance", "borea"][0]["negotiated"]


# --- signatures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "recorded"),
    [
        ({}, "admin"),
        ({"by": "admin"}, "admin"),
        ({"by": "boss"}, "boss (via admin)"),
        ({"by": "boss (via finance)"}, "boss (via finance) (via admin)"),
    ],
)
def test_nobody_signs_for_another(doors: Gatehouse, given: dict[str, str], recorded: str) -> None:
    doors.house.outbox.add([alert()])
    told = doors.ask("admin", "/v1/alerts/a/acknowledgement", "POST", json=given).json()
    assert told["acknowledged_by"] == recorded
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    asked = {"subject": "month", "until": until, "reason": "work", **given}
    assert doors.ask("admin", "/v1/silences", "POST", json=asked).json()["by"] == recorded
