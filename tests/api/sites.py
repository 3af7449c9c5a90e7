"""A small house behind a real socket, for tests of the HTTP API."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import httpx

from meterhouse.api.app import create_app
from meterhouse.api.clock import now_us
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.api.workers import Workers
from meterhouse.warehouse.control_file import parse
from meterhouse.warehouse.control_plan import plan
from tests.api.serving import served

CONTROL: Final = """
currency: USD
tenants:
  - {id: acme, name: Acme, org: [group, consumer], cost_center: CC-1}
  - {id: bolt, name: Bolt, org: [group], cost_center: CC-2}
rate_card:
  - provider: atlas
    model: large
    valid_from: 2026-01-01T00:00:00Z
    per_million: {input: "2.50", cache_read: "0.25", cache_write: "3.125", output: "10.00", reasoning: "10.00"}
budgets:
  - {id: acme-month, scope: {tenant: acme}, window: {every: month, time_zone: UTC}, limit: "0.001", thresholds: [50], on_exceeded: block}
objectives:
  - {id: fast, scope: {application: assistant}, sli: duration, below_ms: 2000, target: "0.99", window_days: 30}
"""  # noqa: E501


@dataclass(slots=True)
class Site:
    house: House
    http: httpx.Client

    def get(self, path: str, **params: Any) -> Any:
        answer = self.http.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def publish(self, *events: dict[str, Any]) -> None:
        headers = {"content-type": "application/cloudevents-batch+json"}
        assert self.http.post("/v1/events", content=json.dumps(events), headers=headers).status_code == 204

    def work(self) -> None:
        with Workers(self.house) as workers:
            workers.run_until_idle(threading.Event())

    def apply(self, control: str) -> None:
        put_in_force(self.house, control)


def put_in_force(house: House, control: str) -> None:
    house.control.apply(plan(parse(control), house.control.snapshot(), now_us()), now_us())


@contextmanager
def opened(folder: Path) -> Iterator[Site]:
    """A house of its own in `folder`, served."""
    settings = Settings(home=folder / "home")  # type: ignore[call-arg]
    with House(settings, writer=True) as house:
        # Before anything of it looks: what has looked, workers of the next fifth of a second go by.
        put_in_force(house, CONTROL)
        with served(create_app(house)) as client:
            client.timeout = httpx.Timeout(60)  # a machine may be busy
            yield Site(house, client)


def event(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A request that ended a few seconds ago."""
    data = {
        "application": "assistant",
        "model": "large",
        "provider": "atlas",
        "status": "ok",
        "input_tokens": 1_000 + number,
        "output_tokens": 100,
        "duration_us": 1_500_000,
    }
    return {
        "specversion": "1.0",
        "id": f"e-{number}",
        "source": "/gateway",
        "type": "meterhouse.request.v1",
        "subject": "acme",
        "time": (datetime.now(UTC) - timedelta(seconds=5)).isoformat(),
        "data": data | changes.pop("data", {}),
    } | changes


def problem(answer: httpx.Response, status: int, name: str) -> dict[str, Any]:
    """The problem document that an answer is."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["type"] == f"/problems/{name}"
    assert document["status"] == status
    assert document["detail"]
    assert isinstance(document, dict)
    return document
