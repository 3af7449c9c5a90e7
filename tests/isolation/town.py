"""Twelve tenants in one house, each with marks of its own in everything that is stored of it.

A *name* is in what others may guess: ids of tenants, applications, budgets. A *secret* is only in what is stored:
whoever reads it has read what is the tenant's.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx
from fastapi import FastAPI
from starlette.requests import Request

from meterhouse.api.app import create_app
from meterhouse.api.auth.caller import Caller, Role
from meterhouse.api.clock import now_us
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.api.workers import Workers
from meterhouse.streams.silences import Silence
from meterhouse.warehouse.control_file import parse
from meterhouse.warehouse.control_plan import plan
from meterhouse.warehouse.view import EVERYTHING, Grant, View
from tests.api.doors import AT_WILL
from tests.api.serving import served

TENANTS: Final = 12
APPLICATIONS: Final = ("search", "writing")
HOUR_US: Final = 3_600 * 1_000_000


@dataclass(frozen=True)
class Marks:
    """Of one tenant."""

    number: int

    @property
    def name(self) -> str:
        return f"nm{self.number:02d}qz"

    @property
    def secret(self) -> str:
        return f"sx{self.number:02d}kw"

    @property
    def tenant(self) -> str:
        return f"tenant-{self.name}"

    def application(self, place: int = 0) -> str:
        return f"{APPLICATIONS[place]}-{self.name}"

    @property
    def in_text(self) -> tuple[str, str]:
        return self.name, self.secret


MARKS: Final = [Marks(number) for number in range(TENANTS)]
ABSENT: Final = Marks(99)
"""A tenant that is not there: what is answered about it is what has to be answered about those of others."""


def callers_of(marks: Marks) -> list[Caller]:
    """Those who see of one tenant only, the widest first."""
    whole = View((Grant(marks.tenant),))
    one = View((Grant(marks.tenant, marks.application(1)),))
    return [
        Caller(f"key:owner{marks.number}", "owner", Role.product_owner, whole),
        Caller(f"key:narrow{marks.number}", "owner of one application", Role.product_owner, one),
        Caller(f"key:gate{marks.number}", "gateway", Role.gateway, whole),
    ]


WIDE: Final = [Caller(f"key:{role}", role, role, EVERYTHING) for role in (Role.admin, Role.finance, Role.auditor)]
CALLERS: Final[Mapping[str, Caller]] = {
    each.id: each for each in [*WIDE, *(caller for marks in MARKS for caller in callers_of(marks))]
}


class Named:
    """Takes callers at their word: what is tested is what each may see, not who they are."""

    async def caller_of(self, request: Request) -> Caller:
        return CALLERS[request.headers["x-caller"]]


@dataclass(frozen=True)
class Town:
    house: House
    app: FastAPI
    http: httpx.Client
    known: Mapping[str, Mapping[int, str]]
    """Ids that are made by chance, by kind (alert, silence, place) and tenant."""

    def ask(self, caller: Caller, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"x-caller": caller.id, **more.pop("headers", {})}
        return self.http.request(method, path, headers=headers, **more)


@contextmanager
def built(folder: Path) -> Iterator[Town]:
    with House(Settings(home=folder / "home", rate_per_minute=AT_WILL), writer=True) as house:  # type: ignore[call-arg]
        moment_us = now_us()
        house.control.apply(plan(parse(_control()), house.control.snapshot(), moment_us), moment_us)
        app = create_app(house)
        app.state.authenticator = Named()
        with served(app) as http:
            http.timeout = httpx.Timeout(60)
            _fill(http)
            with Workers(house) as workers:
                workers.run_until_idle(threading.Event())
            for marks in MARKS:
                house.silences.add(_silence(marks))
            yield Town(house, app, http, _known(house))


def _control() -> str:
    tenants = [
        {"id": m.tenant, "name": f"Name {m.secret}", "org": ["group", f"unit-{m.name}"], "cost_center": f"CC-{m.name}"}
        for m in MARKS
    ]
    prices = {"input": "2.50", "cache_read": "0.25", "cache_write": "3.125", "output": "10.00", "reasoning": "10.00"}
    card = {"provider": "atlas", "valid_from": "2026-01-01T00:00:00Z", "per_million": prices}
    cards = [
        card | {"model": "shared"},
        *(
            card | {"model": "shared", "tenant": m.tenant, "approved_by": f"{m.secret}@example.com",
                    "per_million": prices | {"input": f"1.{m.number + 1:02d}7391"}}
            for m in MARKS
        ),
    ]  # fmt: skip
    budgets = [
        {"id": f"budget-{m.name}", "scope": {"tenant": m.tenant}, "window": {"every": "month", "time_zone": "UTC"},
         "limit": "0.001", "thresholds": ["50", "100"], "on_exceeded": "block"}
        for m in MARKS
    ] + [
        {"id": "budget-of-all", "scope": {"org_unit": "group"}, "window": {"every": "month", "time_zone": "UTC"},
         "limit": "0.001", "thresholds": ["50"], "on_exceeded": "notify"}
    ]  # fmt: skip
    objectives = [
        {"id": f"objective-{m.name}", "scope": {"tenant": m.tenant, "application": m.application(1)},
         "sli": "availability", "target": "0.9", "window_days": 30}
        for m in MARKS
    ] + [{"id": "objective-of-all", "scope": {"model": "shared"}, "sli": "availability", "target": "0.9",
          "window_days": 30}]  # fmt: skip
    return json.dumps(
        {"currency": "USD", "tenants": tenants, "rate_card": cards, "budgets": budgets, "objectives": objectives}
    )


def event(marks: Marks, number: int, **changes: Any) -> dict[str, Any]:
    data = {
        "application": marks.application(number % 2),
        "model": "shared" if number % 5 else f"model-{marks.secret}",  # which has no price
        "provider": "atlas",
        "environment": f"env-{marks.secret}",
        "user": f"user-{marks.secret}",
        "request_id": f"request-{marks.secret}-{number}",
        "labels": {"team": f"label-{marks.secret}"},
        "status": "error" if number % 4 == 3 else "ok",
        "input_tokens": 1_000 + marks.number,
        "output_tokens": 100,
        "duration_us": 1_500_000,
        "time_to_first_token_us": 300_000,
    }
    return {
        "specversion": "1.0",
        "id": f"event-{marks.name}-{marks.secret}-{number}",
        "source": f"/gateway-{marks.secret}",
        "type": "meterhouse.request.v1",
        "subject": marks.tenant,
        "time": (datetime.now(UTC) - timedelta(seconds=5 + number)).isoformat(),
        "data": data | changes.pop("data", {}),
    } | changes


def work_of_a_node(marks: Marks, number: int) -> dict[str, Any]:
    """On a request that no gateway tells of."""
    data = {"request_id": f"work-{marks.secret}", "node": f"node-{marks.secret}", "accelerator_us": 5}
    return event(marks, number, type="meterhouse.inference.v1", data=data)


def _fill(http: httpx.Client) -> None:
    events = [event(marks, number) for number in range(12) for marks in MARKS]
    events += [work_of_a_node(marks, 200) for marks in MARKS]
    events += [event(marks, 100, data={"input_tokens": -1, "note": marks.secret}) for marks in MARKS]  # rejected
    for payload in (events, event(MARKS[3], 101, time="yesterday")):
        answer = http.post("/v1/events", json=payload, headers={"x-caller": "key:admin"})
        assert answer.status_code in (204, 400), answer.text
    answer = http.post(
        "/v1/events",
        content=b'[{"subject": "' + MARKS[5].secret.encode(),  # a whole record that does not parse
        headers={"x-caller": "key:admin", "content-type": "application/json"},
    )
    assert answer.status_code == 400


def _silence(marks: Marks) -> Silence:
    moment_us = now_us()
    return Silence(
        id=f"silence-{marks.secret}",
        kind=None,
        subject=f"budget-{marks.name}",
        from_us=moment_us,
        until_us=moment_us + HOUR_US,
        by=f"person-{marks.secret}",
        reason=f"reason-{marks.secret}",
        created_us=moment_us,
    )


def _known(house: House) -> dict[str, dict[int, str]]:
    alerts = {m.number: e.alert.id for e in house.outbox.list(limit=1_000) for m in MARKS if m.name in e.alert.subject}
    with house.lake.read() as cursor:
        rows = cursor.execute('SELECT tenant, min(("partition", "offset", "index")) FROM charges GROUP BY tenant')
        places = {tenant: f"{p}/{o}/{i}" for tenant, (p, o, i) in rows.fetchall()}
    return {
        "alert": alerts,
        "silence": {m.number: f"silence-{m.secret}" for m in MARKS},
        "place": {m.number: places[m.tenant] for m in MARKS},
    }
