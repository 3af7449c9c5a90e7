"""The HTTP API over a real house: a temporary home, its log, lake and control data."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from meterhouse.api.app import create_app
from meterhouse.api.clock import now_us
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.api.workers import Workers
from meterhouse.ingest.log import USAGE_EVENTS, LogFull, Message
from meterhouse.warehouse.control import ControlUnavailable
from meterhouse.warehouse.control_file import parse
from meterhouse.warehouse.control_plan import plan
from meterhouse.warehouse.lake import LakeUnavailable
from meterhouse.warehouse.lake_writing import Writing
from tests.api.serving import served
from tests.api.sites import problem
from tests.kafka.logs import await_that

CONTROL = """
currency: USD
tenants:
  - {id: acme, name: Acme, org: [group, consumer], cost_center: CC-1}
rate_card:
  - provider: atlas
    model: large
    valid_from: 2026-01-01T00:00:00Z
    per_million: {input: "2.50", cache_read: "0.25", cache_write: "3.125", output: "10.00", reasoning: "10.00"}
budgets:
  - {id: acme-month, scope: {tenant: acme}, window: {every: month, time_zone: UTC}, limit: "0.001", thresholds: [50, 100], on_exceeded: block}
objectives:
  - {id: fast, scope: {application: assistant}, sli: duration, below_ms: 2000, target: "0.99", window_days: 30}
"""  # noqa: E501


class Site:
    def __init__(self, house: House, http: httpx.Client) -> None:
        self.house = house
        self.http = http
        self.workers_alive = True

    def post(self, body: bytes, media_type: str = "application/cloudevents+json") -> httpx.Response:
        return self.http.post("/v1/events", content=body, headers={"content-type": media_type})

    def work(self) -> None:
        with Workers(self.house) as workers:
            workers.run_until_idle(threading.Event())

    def get(self, path: str, **params: Any) -> Any:
        answer = self.http.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def records(self) -> int:
        return sum(self.house.log.end_offsets(USAGE_EVENTS).values())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    settings = Settings(home=tmp_path / "home", max_body_bytes=400_000)  # type: ignore[call-arg]
    with House(settings, writer=True) as house:
        house.control.apply(plan(parse(CONTROL), house.control.snapshot(), now_us()), now_us())
        with served(create_app(house, workers_alive=lambda: site.workers_alive)) as client:
            site = Site(house, client)
            yield site


def event(number: int = 1, **changes: Any) -> dict[str, Any]:
    data = {
        "application": "assistant",
        "model": "large",
        "provider": "atlas",
        "status": "ok",
        "input_tokens": 1_000,
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


def body(*events: dict[str, Any]) -> bytes:
    return json.dumps(events[0] if len(events) == 1 else events).encode()


@pytest.mark.parametrize(
    "media_type",
    ["application/cloudevents+json", "application/cloudevents+json; charset=utf-8", "application/json"],
)
def test_an_event_is_answered_with_204_and_an_empty_body_and_is_billed(site: Site, media_type: str) -> None:
    answer = site.post(body(event()), media_type)
    assert (answer.status_code, answer.content) == (204, b"")
    assert site.records() == 1
    site.work()
    report = site.get("/v1/chargeback", group_by="tenant,cost_center,org_unit,model")
    assert report["lines"] == [
        {
            "tenant": "acme",
            "cost_center": "CC-1",
            "org_unit": "group/consumer",
            "model": "large",
            "requests": 1,
            "billed_requests": 1,
            "unpriced_requests": 0,
            "tokens": {"input": 1_000, "cache_read": 0, "cache_write": 0, "output": 100, "reasoning": 0},
            "cost": "0.003500000000",
        }
    ]
    assert report["currency"] == "USD"
    assert report["as_of"]["lag_seconds"] == 0


def test_the_same_event_sent_twice_is_billed_once(site: Site) -> None:
    for _ in range(2):
        assert site.post(body(event())).status_code == 204
    site.work()
    assert site.get("/v1/chargeback")["total"]["billed_requests"] == 1


def test_one_bad_event_among_a_hundred_rejects_itself_alone(site: Site) -> None:
    events = [event(i) for i in range(100)]
    events[42]["data"]["input_tokens"] = -1
    answer = site.post(body(*events), "application/cloudevents-batch+json")
    assert answer.status_code == 204
    site.work()
    assert site.get("/v1/chargeback")["total"]["billed_requests"] == 99
    [rejected] = site.get("/v1/rejects")["rejects"]
    assert rejected["reason"] == "count_out_of_range"
    assert json.loads(rejected["payload"]) == events[42]


def test_a_malformed_event_is_a_400_that_teaches_and_its_bytes_are_kept(site: Site) -> None:
    wrong = event(data={"output_tokens": "many"})
    document = problem(site.post(body(wrong)), 400, "malformed-event")
    assert document["reason"] == "wrong_type"
    assert "output_tokens" in document["detail"]
    site.work()
    [rejected] = site.get("/v1/rejects", reason="wrong_type")["rejects"]
    assert json.loads(rejected["payload"]) == wrong


@pytest.mark.parametrize("rubbish", [b"", b"{", b"\xff\xfe", b"12", b'[{"id": 1}'])
def test_a_body_that_does_not_parse_is_a_400(site: Site, rubbish: bytes) -> None:
    problem(site.post(rubbish), 400, "malformed-body")
    site.work()
    assert [line["reason"] for line in site.get("/v1/rejects")["rejects"]] == ["not_json"] * bool(rubbish)


def test_a_body_beyond_the_limit_is_a_413_and_is_not_taken(site: Site) -> None:
    problem(site.post(b" " * 400_001), 413, "too-large")
    assert site.records() == 0


def test_a_foreign_content_type_is_a_415(site: Site) -> None:
    document = problem(site.post(body(event()), "text/plain"), 415, "unsupported-media-type")
    assert "application/cloudevents+json" in document["detail"]


def test_a_full_log_is_a_507_and_the_event_was_not_taken(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(topic: str, messages: list[Message]) -> None:
        raise LogFull("the log is full: raise its limit")

    monkeypatch.setattr(site.house.log, "append", full)
    problem(site.post(body(event())), 507, "log-full")


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("/v1/chargeback", {"group_by": "colour"}),
        ("/v1/chargeback", {"from": "yesterday"}),
        ("/v1/chargeback", {"from": "2026-11-02", "to": "2026-11-01"}),
        ("/v1/usage", {"every": "fortnight"}),
        ("/v1/usage", {"from": "2026-11-01T00:00:00"}),
        ("/v1/rejects", {"limit": "0"}),
        ("/v1/rejects", {"after": "page two"}),
        ("/v1/rejects", {"reason": "dislike"}),
        ("/v1/alerts", {"limit": "many"}),
        ("/v1/alerts", {"after": "page two"}),
        ("/v1/alerts", {"status": "asleep"}),
        ("/v1/alerts", {"kind": "dislike"}),
    ],
)
def test_a_wrong_parameter_is_a_400_that_says_what_to_do(site: Site, path: str, params: dict[str, str]) -> None:
    problem(site.http.get(path, params=params), 400, "invalid-parameter")


def test_unknown_paths_and_methods_are_problems_too(site: Site) -> None:
    problem(site.http.get("/v2/chargeback"), 404, "not-found")
    answer = site.http.delete("/v1/silences")
    assert problem(answer, 405, "method-not-allowed")["detail"] == "Use GET, POST on this path."
    assert answer.headers["allow"] == "GET, POST"


def test_budgets_alerts_slo_and_usage_tell_of_the_same_event(site: Site) -> None:
    site.post(body(event()))
    site.work()
    [budget] = site.get("/v1/budgets")["budgets"]
    assert (budget["spent"], budget["limit"], budget["state"]) == ("0.003500000000", "0.001000000000", "exceeded")
    assert budget["thresholds_crossed"] == ["50", "100"]
    alerts = site.get("/v1/alerts")["alerts"]
    assert sorted(alert["threshold"] for alert in alerts) == ["100", "50"]
    assert {alert["state"] for alert in alerts} == {"delivered"}
    [objective] = site.get("/v1/slo")["objectives"]
    assert (objective["good"], objective["total"], objective["compliance"]) == (1, 1, 1.0)
    assert objective["duration_ms"]["p95"] == pytest.approx(1_500, rel=0.01)
    usage = site.get("/v1/usage", every="day", group_by="tenant")
    assert usage["total"]["by_status"]["ok"] == 1
    assert usage["lines"][0]["tenant"] == "acme"


def test_rejects_are_read_page_by_page(site: Site) -> None:
    site.post(b"[" + b",".join(b"%d" % i for i in range(5)) + b"]", "application/json")
    site.work()
    seen, after = [], {}
    for _ in range(3):
        page = site.get("/v1/rejects", limit=2, **after)
        seen += [line["payload"] for line in page["rejects"]]
        after = {"after": page["next"]}
    assert sorted(seen) == ["0", "1", "2", "3", "4"]
    assert page["next"] is None


def test_health_and_readiness(site: Site) -> None:
    assert site.get("/healthz")["status"] == "ok"
    await_that(lambda: site.http.get("/readyz").json()["checks"]["gate_ready"])
    assert site.get("/readyz") == {
        "status": "ok",
        "checks": {
            "log": 0, "control_version": 1, "lake_lag_records": 0, "gate_ready": True, "budget_state_age_s": None,
            "workers": True,
        },
    }  # fmt: skip
    site.workers_alive = False
    answer = site.http.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (503, "unready")


def test_trouble_behind_the_server_is_told_without_where_that_is(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise LakeUnavailable("the lake at /srv/meterhouse/lake/catalogue.sqlite cannot be read, try again: locked")

    def lost(*_: object) -> None:
        try:
            raise OSError("connection to server at db.internal refused")
        except OSError as cause:
            raise ControlUnavailable(f"the control database does not answer ({cause})") from cause

    monkeypatch.setattr(site.house.lake, "begun", away)
    monkeypatch.setattr(Writing, "newest", None)
    answer = site.http.get("/v1/chargeback")
    assert (answer.status_code, answer.json()["detail"]) == (503, "the lake cannot be read. Try again.")
    assert site.http.get("/readyz").json()["checks"]["trouble"] == "the lake cannot be read"
    monkeypatch.setattr(site.house.control, "version", lost)
    assert site.http.get("/readyz").json()["checks"]["trouble"] == "the control database does not answer"


def test_a_request_that_fails_on_our_side_is_a_500_and_is_counted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> int:
        raise RuntimeError("a defect")

    monkeypatch.setattr(site.house.control, "version", broken)
    # On a connection of its own: the server closes it.
    problem(httpx.get(f"{site.http.base_url}/readyz"), 500, "internal-error")
    counted = 'meterhouse_http_requests_total{method="GET",route="/readyz",status="500"} 1.0'
    assert counted in site.http.get("/metrics").text.splitlines()


def test_methods_that_no_route_has_are_counted_together(site: Site) -> None:
    for method in ("PROPFIND", "MKCOL", "SEARCH"):
        assert site.http.request(method, "/nothing").status_code == 404
    counted = 'meterhouse_http_requests_total{method="other",route="unknown",status="404"} 3.0'
    assert counted in site.http.get("/metrics").text.splitlines()


def test_metrics_are_served_beside_the_api(site: Site) -> None:
    answer = site.http.get("/metrics")
    assert answer.status_code == 200
    assert "# TYPE python_info gauge" in answer.text


def test_a_body_that_does_not_come_is_a_408(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meterhouse.api.dependencies.BODY_S", 0.05)
    head = b"POST /v1/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n"
    with socket.create_connection(("127.0.0.1", site.http.base_url.port or 0), timeout=30) as connection:
        connection.sendall(head + b"[")
        answered = connection.recv(65_536)
    assert answered.startswith(b"HTTP/1.1 408 ")
    assert site.records() == 0
