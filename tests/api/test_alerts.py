"""What people see of alerts and do about them, over HTTP and on the command line, on a real control database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from meterhouse.api.app import create_app
from meterhouse.api.clock import now_us
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.streams.alert import Alert, resolution_of, rfc3339
from meterhouse.streams.alerts import OutboxUnavailable
from tests.api.serving import served
from tests.commands import invoked
from tests.services.postgres import Postgres
from tests.services.receiver import Receiver, own_receiver

SECOND = 1_000_000
JSON = {"content-type": "application/json"}
DAY = 86_400 * SECOND


@dataclass
class Site:
    """A house over HTTP and on the command line."""

    house: House
    http: httpx.Client

    def get(self, path: str, **params: Any) -> Any:
        answer = self.http.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def ids(self, **params: Any) -> list[str]:
        return [line["id"] for line in self.get("/v1/alerts", **params)["alerts"]]

    def run(self, *words: str, code: int = 0) -> str:
        """What a command says: its data, or its message where it fails."""
        done = invoked(self.house.settings.home, *words)
        assert done.exit_code == code, done.output
        return done.stdout if code == 0 else done.stderr


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    settings = Settings(home=tmp_path / "home")
    with House(settings, writer=True) as house, served(create_app(house)) as http:
        yield Site(house, http)


def alert(name: str = "a", ago_s: int = 10, **changes: Any) -> Alert:
    created_us = now_us() - ago_s * SECOND
    fields: dict[str, Any] = {
        "kind": "threshold",
        "subject": "acme-month",
        "summary": "budget acme-month has reached 80 % of its limit",
        "budget_id": "acme-month",
        "window_start_us": created_us - DAY,
        "window_end_us": created_us + DAY,
        "threshold": "80",
        "spent": "81.000000000000",
        "limit": "100.000000000000",
    }
    return Alert(**{"id": name, "created_us": created_us, **fields, **changes})


def unpriced(name: str = "model", ago_s: int = 5) -> Alert:
    about = {"kind": "unpriced", "subject": "atlas/x", "summary": "atlas/x has no price", "budget_id": None}
    return alert(name, ago_s, **about, window_start_us=None, window_end_us=None, threshold=None, spent=None, limit=None)


def problem(answer: httpx.Response, status: int, name: str) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document["type"] == f"/problems/{name}"
    return str(document["detail"])


# -- HTTP ------------------------------------------------------------------------------------------------------------


def test_alerts_are_listed_by_kind_subject_and_status(site: Site) -> None:
    old = alert("old", 30)
    back = resolution_of(old, now_us(), "the limit was raised")
    site.house.outbox.add([old, alert("new"), unpriced(), back])
    assert site.ids() == [back.id, "model", "new", "old"]
    assert site.ids(status="open") == ["model", "new"]
    assert site.ids(status="resolved") == ["old"]
    assert site.ids(kind="unpriced") == site.ids(subject="atlas/x") == ["model"]
    assert [line["standing"] for line in site.get("/v1/alerts")["alerts"]] == [None, "open", "open", "resolved"]


def test_alerts_are_read_page_by_page(site: Site) -> None:
    site.house.outbox.add([alert(str(number), number) for number in range(5)])
    seen, after = [], {}
    for _ in range(3):
        page = site.get("/v1/alerts", limit=2, **after)
        seen += [line["id"] for line in page["alerts"]]
        after = {"after": page["next"]}
    assert seen == ["0", "1", "2", "3", "4"]
    assert page["next"] is None


def test_an_alert_tells_what_happened_to_it(site: Site) -> None:
    news = alert()
    site.house.outbox.add([news])
    site.house.alert_sender().run_once()
    answer = site.http.post("/v1/alerts/a/acknowledgement", json={"by": "ann", "note": "asking acme"})
    assert answer.status_code == 200
    back = resolution_of(news, now_us(), "the limit was raised")
    site.house.outbox.add([back])
    told = site.get("/v1/alerts/a")
    assert [(each["what"], each["channel"], each["by"], each["detail"]) for each in told["history"]] == [
        ("raised", None, None, "budget acme-month has reached 80 % of its limit"),
        ("delivered", "log", None, None),
        ("acknowledged", None, "ann", "asking acme"),
        ("resolved", None, back.id, None),
    ]
    assert (told["standing"], told["acknowledged_by"], told["note"]) == ("resolved", "ann", "asking acme")
    assert told["created"] == rfc3339(news.created_us) == told["history"][0]["at"]
    assert told["channels"]["log"]["state"] == told["state"] == "delivered"


def test_an_acknowledged_alert_is_open_and_says_by_whom(site: Site) -> None:
    site.house.outbox.add([alert(), unpriced()])
    told = site.http.post("/v1/alerts/a/acknowledgement", json={"by": "ann"}).json()
    assert (told["standing"], told["acknowledged_by"], told["note"]) == ("acknowledged", "ann", None)
    assert (site.ids(status="acknowledged"), site.ids(status="open")) == (["a"], ["model", "a"])


def test_what_is_not_there_is_a_404_that_says_where_to_look(site: Site) -> None:
    assert "GET /v1/alerts" in problem(site.http.get("/v1/alerts/nobody"), 404, "not-found")
    said = site.http.post("/v1/alerts/nobody/acknowledgement", json={"by": "ann"})
    assert "there is no alert nobody" in problem(said, 404, "not-found")
    assert "GET /v1/silences" in problem(site.http.delete("/v1/silences/nobody"), 404, "not-found")


@pytest.mark.parametrize(
    ("body", "name", "said"),
    [
        (b"", "malformed-body", "Invalid JSON"),
        (b"{}", "invalid-parameter", "`by` is a text"),
        (b'{"by": ""}', "invalid-parameter", "by: "),
        (b'{"by": " "}', "invalid-parameter", "`by` is a text"),
        (b'{"by": "ann", "colour": 1}', "invalid-parameter", "colour: "),
        (json.dumps({"by": "ann", "note": "x" * 501}).encode(), "invalid-parameter", "note: "),
    ],
)
def test_an_acknowledgement_that_is_none_is_a_400(site: Site, body: bytes, name: str, said: str) -> None:
    site.house.outbox.add([alert()])
    answer = site.http.post("/v1/alerts/a/acknowledgement", content=body, headers=JSON)
    assert said in problem(answer, 400, name)
    assert site.get("/v1/alerts/a")["acknowledged"] is None


def test_the_news_that_an_alert_is_over_is_not_acknowledged(site: Site) -> None:
    back = resolution_of(alert(), now_us(), "the limit was raised")
    site.house.outbox.add([alert(), back])
    answer = site.http.post(f"/v1/alerts/{back.id}/acknowledgement", json={"by": "ann"})
    assert "acknowledge a, or nothing" in problem(answer, 400, "invalid-parameter")


def test_a_body_beyond_the_limit_is_a_413(site: Site) -> None:
    problem(site.http.post("/v1/silences", content=b" " * 20_000, headers=JSON), 413, "too-large")


def test_a_silence_keeps_alerts_quiet_until_it_is_ended(site: Site) -> None:
    until = rfc3339(now_us() + DAY)
    asked = {"subject": "acme-month", "until": until, "by": "ann", "reason": "the migration of acme"}
    answer = site.http.post("/v1/silences", json=asked)
    assert answer.status_code == 201
    made = answer.json()
    assert {name: made[name] for name in asked} == asked
    assert (made["kind"], site.get("/v1/silences")) == (None, {"silences": [made]})
    site.house.outbox.add([alert()])
    site.house.alert_sender().run_once()
    told = site.get("/v1/alerts/a")
    assert (told["state"], told["standing"], told["delivered"], told["channels"]) == ("silenced", "open", None, {})
    assert [each["what"] for each in told["history"]] == ["raised", "silenced"]
    assert site.http.delete(f"/v1/silences/{made['id']}").status_code == 204
    assert site.get("/v1/silences") == {"silences": []}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"subject": None}, "say what to silence"),
        ({"until": "2020-01-01T00:00:00Z"}, "ends after it begins"),
        ({"from": "2019-12-31T00:00:00Z", "until": "2020-01-01T00:00:00Z"}, "later than now"),
        ({"until": "2999-01-01T00:00:00Z"}, "at most 90 days"),
        ({"until": "2026-01-01T00:00:00"}, "until: "),
        ({"kind": "dislike"}, "kind: "),
        ({"reason": ""}, "reason: "),
    ],
)
def test_a_silence_that_cannot_be_is_a_400_that_says_what_to_do(site: Site, changes: dict[str, Any], said: str) -> None:
    asked = {"subject": "acme-month", "until": rfc3339(now_us() + DAY), "by": "ann", "reason": "known"}
    answer = site.http.post("/v1/silences", json=asked | changes)
    assert said in problem(answer, 400, "invalid-parameter")
    assert site.get("/v1/silences") == {"silences": []}


def test_a_database_that_does_not_answer_is_a_503(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise OutboxUnavailable("the alerts database does not answer (locked)")

    monkeypatch.setattr(site.house.outbox, "get", away)
    assert "does not answer" in problem(site.http.get("/v1/alerts/a"), 503, "unavailable")


# -- wiring ----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # Apprise imports it
def test_every_channel_that_is_set_has_an_alert_and_metrics_say_so(tmp_path: Path, receiver: Receiver) -> None:
    with own_receiver() as manager, own_receiver() as chat:
        settings = Settings(
            home=tmp_path,
            webhook_url=receiver.url,
            alertmanager_url=manager.url.removesuffix("/alerts"),
            apprise_urls=chat.url.replace("http://", "json://"),
        )
        with House(settings) as house:
            house.outbox.add([alert()])
            house.alert_sender().run_once()
            assert house.outbox.get("a").delivered_by == "webhook,alertmanager,apprise-1"
            counted = {
                (sample.labels["channel"], sample.labels["outcome"]): sample.value
                for metric in house.metrics.registry.collect()
                for sample in metric.samples
                if sample.name == "meterhouse_alert_deliveries_total" and sample.value
            }
    assert counted == {(name, "delivered"): 1.0 for name in ("webhook", "alertmanager", "apprise-1")}
    assert receiver.ids == ["a"]
    # Raised, and told again at once since the sender has just begun.
    assert [body[0]["labels"]["budget"] for body in manager.bodies] == ["acme-month"] * 2
    assert [body["title"] for body in chat.bodies] == ["budget acme-month has reached 80 % of its limit"]


# -- the command line ------------------------------------------------------------------------------------------------


def test_the_table_has_open_alerts_first_and_no_row_for_the_news_of_an_end(site: Site) -> None:
    old = alert("old", 5, summary="old news")
    back = resolution_of(old, now_us(), "the limit was raised")
    site.house.outbox.add([old, back, alert("seen", 30, summary="seen news"), alert("open", 60, summary="open news")])
    site.run("alerts", "ack", "seen", "--by", "ann")
    lines = site.run("alerts").splitlines()
    shown = [line.split()[:2] for line in lines if "news" in line]
    assert shown == [["acknowledged", "seen"], ["open", "open"], ["resolved", "old"]]
    assert any("ann" in line for line in lines)
    assert site.run("alerts", "--kind", "forecast").strip() == "No alerts."


def test_the_list_for_programs_is_as_over_http(site: Site) -> None:
    site.house.outbox.add([alert("a", 30), unpriced()])
    assert json.loads(site.run("alerts", "--format", "json")) == site.get("/v1/alerts")
    only = json.loads(site.run("alerts", "--status", "open", "--kind", "threshold", "--limit", "1", "--format", "json"))
    assert [line["id"] for line in only["alerts"]] == ["a"]
    assert site.run("alerts", "--format", "csv").startswith("id,kind,status,standing,subject,")


def test_an_alert_is_acknowledged_by_its_id(site: Site) -> None:
    site.house.outbox.add([alert()])
    said = site.run("alerts", "ack", "a", "--by", "ann", "--note", "asking acme")
    assert said == "acknowledged by ann: budget acme-month has reached 80 % of its limit\n"
    assert site.get("/v1/alerts/a")["note"] == "asking acme"
    assert "there is no alert nobody" in site.run("alerts", "ack", "nobody", code=1)


def test_a_silence_is_made_listed_and_ended(site: Site) -> None:
    before_us = now_us()
    words = ("--budget", "acme-month", "--kind", "threshold", "--for", "3d", "--by", "ann", "--reason", "known")
    said = site.run("alerts", "silence", *words)
    (made,) = json.loads(site.run("alerts", "silences", "--format", "json"))["silences"]
    assert said.startswith(f"silence {made['id']} until ")
    assert (made["subject"], made["kind"], made["by"], made["reason"]) == ("acme-month", "threshold", "ann", "known")
    (stored,) = site.house.silences.standing(now_us())
    assert 0 <= stored.until_us - before_us - 3 * DAY < 60 * SECOND
    assert "known" in site.run("alerts", "silences")
    assert site.run("alerts", "unsilence", made["id"]) == f"silence {made['id']} is over\n"
    assert site.run("alerts", "silences").strip() == "No silences."
    assert "no silence" in site.run("alerts", "unsilence", made["id"], code=1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--for", "2h"), "say what to silence"),
        (("--for", "91d", "--budget", "acme-month"), "at most 90 days"),
        (("--for", "soon", "--budget", "acme-month"), "30m, 2h, 3d"),
        (("--for", "2h", "--budget", "a", "--subject", "b"), "give one of the two"),
    ],
)
def test_a_silence_that_cannot_be_is_wrong_use(site: Site, words: tuple[str, ...], said: str) -> None:
    assert said in site.run("alerts", "silence", *words, "--reason", "known", code=2)


def test_a_text_that_postgresql_does_not_take_is_a_400(postgres: Postgres, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", control=SecretStr(postgres.new_database()))
    with House(settings, writer=True) as house, served(create_app(house)) as http:
        for path in ("/v1/alerts?subject=%00", "/v1/alerts/%00", "/v1/silences/%00"):
            answer = http.request("DELETE" if "silences" in path else "GET", path)
            assert answer.status_code in (400, 404), path
