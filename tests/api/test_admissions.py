"""Admissions over HTTP: a server whose gate is filled from the log of a real house."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from meterhouse.api import wiring
from meterhouse.api.app import create_app
from meterhouse.api.clock import now_us
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.ingest.log import BUDGET_STATES, Message
from meterhouse.streams.control import WindowSpec
from meterhouse.streams.gate_wire import State, Terms
from meterhouse.streams.money import PICO
from meterhouse.streams.windows import window_of
from meterhouse.warehouse.control_file import parse
from meterhouse.warehouse.control_plan import plan
from tests.api.serving import served
from tests.api.test_http import problem
from tests.kafka.logs import await_that
from tests.streams.gate_builders import record, state, terms

CONTROL = """
currency: USD
tenants: [{id: acme, name: Acme}, {id: borg, name: Borg}]
rate_card:
  - {provider: atlas, model: large, valid_from: 2026-01-01T00:00:00Z, per_million: {input: "2.50", cache_read: "0.25", output: "10.00"}}
  - {provider: atlas, model: large, valid_from: 2026-01-01T00:00:00Z, tenant: borg, per_million: {input: "1.00", output: "4.00"}}
  - {provider: atlas, model: shared, valid_from: 2026-01-01T00:00:00Z, per_million: {input: "1.00", output: "1.00"}}
  - {provider: boreal, model: shared, valid_from: 2026-01-01T00:00:00Z, per_million: {input: "2.00", output: "2.00"}}
  - {provider: boreal, model: embed, valid_from: 2026-01-01T00:00:00Z, per_million: {input: "0.10"}}
"""  # noqa: E501
ASK = {"tenant": "acme", "application": "assistant", "model": "large"}
DAY_US = 86_400 * 1_000_000


class Clock:
    """Of the gate; it may be set ahead."""

    ahead_us = 0

    def __call__(self) -> int:
        return now_us() + self.ahead_us


class Site:
    def __init__(self, house: House, http: httpx.Client, clock: Clock) -> None:
        self.house, self.http, self.clock = house, http, clock

    def say(self, *said: Terms | State) -> None:
        """Puts records into the log, and waits for the gate to have them."""
        records = [record(each) for each in said]
        self.house.log.append(BUDGET_STATES, [Message(key, value, partition=0) for key, value in records])
        with self.house.admissions.hub.subscribe(lambda: None) as subscription:
            held: dict[bytes, bytes | None] = {}

            def has_all() -> bool:
                held.update((key, value) for _, key, value in subscription.drain().records)
                return all(held.get(key) == value for key, value in records)

            await_that(has_all)

    def admit(self, **changes: Any) -> httpx.Response:
        return self.http.post("/v1/admissions", json=ASK | changes)

    def spent(self, amount: int, budget_id: str = "day") -> State:
        """Of today, in dollars."""
        return state(amount * PICO, budget_id, window=window_of(WindowSpec("day", "UTC"), self.clock()))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    clock = Clock()
    monkeypatch.setattr(wiring, "now_us", clock)
    with House(Settings(home=tmp_path / "home"), writer=True) as house:
        house.control.apply(plan(parse(CONTROL.encode()), house.control.snapshot(), now_us()), now_us())
        with served(create_app(house)) as client:
            made = Site(house, client, clock)
            made.say(terms(limit=str(100 * PICO)))
            yield made


def ratelimit(answer: httpx.Response) -> tuple[str, str]:
    """Both fields, without the seconds that are left."""
    return answer.headers["ratelimit-policy"], answer.headers["ratelimit"].rpartition(";t=")[0]


def test_an_admission_tells_its_reservation_its_bound_and_what_is_left(site: Site) -> None:
    answer = site.admit(max_cost="0.5")
    assert answer.status_code == 200
    body = answer.json()
    assert body.pop("reservation")
    assert body == {
        "outcome": "allow", "bound": "0.500000000000", "budget": "day", "unit": "USD", "remaining": "99.500000000000",
        "throttle_per_minute": None,
    }  # fmt: skip
    assert ratelimit(answer) == ('"day";q=100000000;qu="micro-USD";w=86400', '"day";r=99500000')
    assert "retry-after" not in answer.headers


def test_a_request_that_no_budget_looks_at_is_admitted_without_a_reservation(site: Site) -> None:
    answer = site.admit(tenant="borg", max_cost="1000")
    assert (answer.status_code, answer.json()["reservation"], answer.json()["budget"]) == (200, None, None)
    assert "ratelimit" not in answer.headers


def test_a_spent_budget_is_a_429_that_only_a_new_window_lifts(site: Site) -> None:
    site.say(site.spent(100))
    answer = site.admit(max_cost="0.01")
    document = problem(answer, 429, "budget-refusal")
    assert {name: document[name] for name in ("reason", "budget", "retryable", "instance")} == {
        "reason": "exceeded", "budget": "day", "retryable": False, "instance": "/v1/admissions",
    }  # fmt: skip
    assert "retry-after" not in answer.headers
    assert ratelimit(answer)[1] == '"day";r=0'
    site.clock.ahead_us = DAY_US
    assert site.admit(max_cost="0.01").status_code == 200


def test_what_running_requests_reserve_is_refused_for_now_until_one_is_settled(site: Site) -> None:
    reservation = site.admit(max_cost="60").json()["reservation"]
    answer = site.admit(max_cost="50")
    assert problem(answer, 429, "budget-refusal")["reason"] == "reserved"
    assert answer.headers["retry-after"] == "1"
    settled = site.http.post(f"/v1/admissions/{reservation}/settlement", json={"cost": "10.5", "tokens": 7})
    assert (settled.status_code, settled.content) == (204, b"")
    answer = site.admit(max_cost="50")
    assert (answer.status_code, answer.json()["remaining"]) == (200, "39.500000000000")


def test_a_settlement_sent_again_is_a_404_and_changes_nothing(site: Site) -> None:
    reservation = site.admit(max_cost="60").json()["reservation"]
    path = f"/v1/admissions/{reservation}/settlement"
    assert site.http.post(path, json={"cost": "10.5"}).status_code == 204
    problem(site.http.post(path, json={"cost": "20"}), 404, "not-found")
    assert site.admit().json()["remaining"] == "89.500000000000"


def test_what_is_not_known_of_a_settled_request_is_taken_for_its_bound(site: Site) -> None:
    reservation = site.admit(max_cost="60").json()["reservation"]
    assert site.http.post(f"/v1/admissions/{reservation}/settlement", json={"tokens": 5}).status_code == 204
    assert site.admit().json()["remaining"] == "40.000000000000"


def test_a_settlement_counts_until_states_cover_its_event(site: Site) -> None:
    reservation = site.admit(max_cost="60").json()["reservation"]
    where = {"partition": 0, "offset": 12}
    site.http.post(f"/v1/admissions/{reservation}/settlement", json={"cost": "30", "position": where})
    site.say(state(20 * PICO, window=window_of(WindowSpec("day", "UTC"), site.clock()), offsets={"0": 12}))
    assert site.admit().json()["remaining"] == "50.000000000000"
    site.say(state(50 * PICO, window=window_of(WindowSpec("day", "UTC"), site.clock()), offsets={"0": 13}))
    assert site.admit().json()["remaining"] == "50.000000000000"


def test_a_cancelled_reservation_is_given_back_and_unknown_ones_are_a_404(site: Site) -> None:
    reservation = site.admit(max_cost="60").json()["reservation"]
    assert site.http.delete(f"/v1/admissions/{reservation}").status_code == 204
    assert site.admit().json()["remaining"] == "100.000000000000"
    problem(site.http.delete(f"/v1/admissions/{reservation}"), 404, "not-found")
    problem(site.http.post(f"/v1/admissions/{reservation}/settlement", json={}), 404, "not-found")


@pytest.mark.parametrize(
    ("changes", "bound"),
    [
        ({"input_tokens": 1_000, "max_tokens": 500}, "0.007500000000"),
        ({"input_tokens": 1_000, "max_tokens": 500, "provider": "atlas"}, "0.007500000000"),
        ({"input_tokens": 1_000, "max_tokens": 500, "tenant": "borg"}, "0.003000000000"),
        ({"input_tokens": 1_000, "max_tokens": 0, "model": "embed"}, "0.000100000000"),
        ({"input_tokens": 1_000, "max_tokens": 5, "model": "embed"}, None),
        ({"input_tokens": 1_000, "max_tokens": 500, "model": "unheard-of"}, None),
        ({"input_tokens": 1, "max_tokens": 1, "model": "shared", "provider": "boreal"}, "0.000004000000"),
        ({"input_tokens": 1, "max_tokens": 1, "max_cost": "2"}, "2.000000000000"),
        ({}, None),
    ],
)
def test_the_bound_follows_from_token_counts_and_the_price_in_force(
    site: Site, changes: dict[str, Any], bound: str | None
) -> None:
    assert site.admit(**changes).json()["bound"] == bound


def test_a_new_price_counts_without_a_restart(site: Site) -> None:
    text = CONTROL + '  - {provider: new, model: new, valid_from: 2026-01-01T00:00:00Z, per_million: {input: "3.00"}}\n'
    house = site.house
    house.control.apply(plan(parse(text.encode()), house.control.snapshot(), now_us()), now_us())
    await_that(lambda: site.admit(model="new", input_tokens=1, max_tokens=0).json()["bound"] == "0.000003000000")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tenant": 7}, "tenant"),
        ({"tenant": ""}, "tenant"),
        ({"application": None}, "application"),
        ({"model": "x" * 257}, "model"),
        ({"maxcost": "1"}, "maxcost"),
        ({"max_cost": 0.1}, "max_cost"),
        ({"max_cost": "0.1234567890123"}, "twelve decimals"),
        ({"max_cost": "-1"}, "negative"),
        ({"input_tokens": -1, "max_tokens": 0}, "input_tokens"),
        ({"input_tokens": "1", "max_tokens": 0}, "input_tokens"),
        ({"input_tokens": 1}, "max_tokens"),
        ({"input_tokens": 1, "max_tokens": 1, "model": "shared"}, "atlas, boreal"),
    ],
)
def test_a_wrong_request_is_a_400_that_says_what_is_wrong(site: Site, changes: dict[str, Any], says: str) -> None:
    assert says in problem(site.admit(**changes), 400, "invalid-parameter")["detail"]


@pytest.mark.parametrize(
    "changes", [{"cost": 1}, {"cost": "-1"}, {"tokens": -1}, {"position": 3}, {"position": {"partition": 0}}]
)
def test_a_wrong_settlement_is_a_400_and_settles_nothing(site: Site, changes: dict[str, Any]) -> None:
    reservation = site.admit(max_cost="60").json()["reservation"]
    problem(site.http.post(f"/v1/admissions/{reservation}/settlement", json=changes), 400, "invalid-parameter")
    assert site.http.delete(f"/v1/admissions/{reservation}").status_code == 204


@pytest.mark.parametrize(
    ("content", "media_type", "status", "name"),
    [
        (b"{", "application/json", 400, "malformed-body"),
        (b"", "application/json", 400, "malformed-body"),
        (b"[]", "application/json", 400, "invalid-parameter"),
        (b" " * 20_000, "application/json", 413, "too-large"),
        (b"{}", "text/plain", 415, "unsupported-media-type"),
    ],
)
def test_a_body_that_is_no_request_is_a_problem(
    site: Site, content: bytes, media_type: str, status: int, name: str
) -> None:
    headers = {"content-type": media_type}
    problem(site.http.post("/v1/admissions", content=content, headers=headers), status, name)
    problem(site.http.post("/v1/admissions/x/settlement", content=content, headers=headers), status, name)


def test_admissions_reservations_and_the_age_of_states_are_counted(site: Site) -> None:
    site.say(terms("closed", tenants=("borg",), limit="0"))
    site.admit(max_cost="1")
    site.admit(tenant="borg")
    lines = site.http.get("/metrics").text.splitlines()
    assert 'meterhouse_admissions_total{outcome="allow",reason="none"} 1.0' in lines
    assert 'meterhouse_admissions_total{outcome="refuse",reason="exceeded"} 1.0' in lines
    assert "meterhouse_reservations 1.0" in lines
    assert "meterhouse_budget_state_age_seconds NaN" in lines
    assert 'meterhouse_http_requests_total{method="POST",route="/v1/admissions",status="429"} 1.0' in lines


def prices(site: Site, **params: str) -> list[tuple[str, str, str, bool]]:
    document = site.http.get("/v1/prices", params=params).json()
    assert (document["currency"], document["control_version"]) == ("USD", 1)
    return [
        (each["provider"], each["model"], each["per_million"]["input"], each["negotiated"])
        for each in document["prices"]
    ]


def test_prices_in_force_are_told_with_the_tenants_own(site: Site) -> None:
    assert prices(site, model="large") == [("atlas", "large", "2.50", False)]
    assert prices(site, model="large", tenant="borg") == [("atlas", "large", "1.00", True)]
    assert prices(site, provider="boreal") == [("boreal", "shared", "2.00", False), ("boreal", "embed", "0.10", False)]
    assert len(prices(site)) == 4
    assert prices(site, model="unheard-of") == []
