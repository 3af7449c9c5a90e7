"""The channel to Alertmanager: what it posts, and what a real one does with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from meterhouse.api.clock import now_us
from meterhouse.streams.alert import Alert, resolution_of, rfc3339
from meterhouse.streams.alert_sender import AlertSender
from meterhouse.streams.alertmanager import Alertmanager, labels, posted, severity
from meterhouse.streams.alerts import MemoryOutbox, OutboxEntry
from meterhouse.streams.silence_store import MemorySilences
from tests.services.alertmanager import Alertmanager as Server
from tests.services.alertmanager import own_alertmanager
from tests.services.receiver import Receiver
from tests.services.waiting import until

SECOND = 1_000_000
EXAMPLE = Path(__file__).parents[2] / "docs" / "alertmanager.yml"


def alert(threshold: str = "80", **changes: Any) -> Alert:
    fields: dict[str, Any] = {
        "id": f"alert-{threshold}",
        "kind": "threshold",
        "subject": "acme-month",
        "summary": f"budget acme-month has reached {threshold} % of its limit",
        "created_us": 1_000_000_000_000_000,
        "budget_id": "acme-month",
        "window_start_us": 999_999_000_000_000,
        "window_end_us": 1_000_600_000_000_000,
        "threshold": threshold,
        "spent": "81.000000000000",
        "limit": "100.000000000000",
        "payload": {"unit": "USD", "scope": {"tenant": "acme", "model": "large"}},
    }
    return Alert(**{**fields, **changes})


def behind(**changes: Any) -> Alert:
    fields: dict[str, Any] = {
        "id": "behind",
        "kind": "meter_behind",
        "subject": "usage.events/3",
        "summary": "partition 3 of usage.events is metered 40 s late",
        "created_us": 1_000_000_000_000_000,
    }
    return Alert(**{**fields, **changes})


def entry(of: Alert, **story: Any) -> OutboxEntry:
    return OutboxEntry(**{"alert": of, "next_attempt_us": of.created_us, **story})


def test_a_budgets_alert_says_what_it_is_about_until_when_and_who_looks_after_it() -> None:
    assert posted(entry(alert(), acknowledged_us=1, acknowledged_by="ann", note="asking acme")) == {
        "labels": {
            "alertname": "MeterhouseBudgetThreshold",
            "kind": "threshold",
            "severity": "warning",
            "subject": "acme-month",
            "budget": "acme-month",
            "threshold": "80",
            "tenant": "acme",
            "model": "large",
            "window": "2001-09-09T01:30:00Z",
        },
        "annotations": {
            "summary": "budget acme-month has reached 80 % of its limit",
            "description": "spent 81.000000000000 of 100.000000000000 USD; "
            "window 2001-09-09T01:30:00Z to 2001-09-16T00:26:40Z; alert alert-80",
            "acknowledged_by": "ann",
            "note": "asking acme",
        },
        "startsAt": "2001-09-09T01:46:40Z",
        "endsAt": "2001-09-16T00:26:40Z",
    }


def test_an_alert_without_a_window_has_no_end_until_it_is_resolved() -> None:
    said = posted(entry(behind()))
    assert said["labels"] == {
        "alertname": "MeterhouseMeterBehind",
        "kind": "meter_behind",
        "severity": "critical",
        "subject": "usage.events/3",
    }
    assert "endsAt" not in said
    resolved_us = behind().created_us + 60 * SECOND
    assert posted(entry(behind(), resolved_us=resolved_us)) == {**said, "endsAt": "2001-09-09T01:47:40Z"}


def test_a_resolved_alert_ends_when_it_was_resolved_and_no_later_than_its_window() -> None:
    early = alert().created_us + SECOND
    assert posted(entry(alert(), resolved_us=early))["endsAt"] == rfc3339(early)
    late = alert().window_end_us + SECOND  # type: ignore[operator]
    assert posted(entry(alert(), resolved_us=late))["endsAt"] == rfc3339(alert().window_end_us)


def test_an_alert_raised_after_its_window_begins_no_later_than_it_ends() -> None:
    said = posted(entry(alert(window_end_us=999_999_500_000_000)))
    assert (said["startsAt"], said["endsAt"]) == ("2001-09-09T01:38:20Z", "2001-09-09T01:38:20Z")


def test_a_resolution_has_the_labels_of_what_it_resolves_and_other_windows_have_others() -> None:
    assert labels(resolution_of(alert(), 1, "the limit was raised")) == labels(alert())
    assert labels(alert(window_start_us=0)) != labels(alert())


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (alert("99.5"), "warning"),
        (alert("100"), "critical"),
        (alert(kind="forecast", threshold=None), "warning"),
        (behind(), "critical"),
        (behind(kind="unpriced", subject="atlas/x"), "warning"),
    ],
)
def test_a_limit_that_is_reached_and_metering_that_stands_are_critical(of: Alert, expected: str) -> None:
    assert severity(of) == expected


# -- a real one --------------------------------------------------------------------------------------------------------


class Site:
    """A sender with a real Alertmanager that notifies `receiver`; its clock is the real one, and may be put forward."""

    def __init__(self, server: Server, receiver: Receiver) -> None:
        self.server = server
        self.receiver = receiver
        self.outbox = MemoryOutbox()
        self.ahead_us = 0
        self.sender = AlertSender(
            self.outbox, MemorySilences(), [Alertmanager(server.url)], clock=lambda: now_us() + self.ahead_us
        )

    def send(self, *alerts: Alert) -> None:
        self.outbox.add(alerts)
        self.sender.run_once()

    def firing(self) -> list[str]:
        return sorted(each["labels"].get("threshold", each["labels"]["subject"]) for each in self.server.firing())

    def notified(self, status: str) -> list[list[str]]:
        """Of each notification the thresholds or subjects of its alerts that are firing or resolved."""
        return [
            sorted(
                each["labels"].get("threshold", each["labels"]["subject"])
                for each in body["alerts"]
                if each["status"] == status
            )
            for body in self.receiver.bodies
        ]


def configuration(receiver: Receiver) -> str:
    """The example of the documentation, with shorter waits and a receiver that is a test's."""
    example = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    example["route"] |= {"receiver": "test", "group_wait": "1s", "group_interval": "1s", "repeat_interval": "1h"}
    example["route"]["routes"] = []
    example["receivers"] = [{"name": "test", "webhook_configs": [{"url": receiver.url, "send_resolved": True}]}]
    return yaml.safe_dump(example)


@pytest.fixture
def site(receiver: Receiver) -> Iterator[Site]:
    with own_alertmanager(configuration(receiver)) as server:
        made = Site(server, receiver)
        yield made
        made.sender.close()


def now(threshold: str = "80", **changes: Any) -> Alert:
    """An alert of an open window, raised now: Alertmanager gives one that is older no time to be grouped."""
    times = {"created_us": now_us(), "window_end_us": now_us() + 3_600 * SECOND}
    return alert(threshold, **{**times, **changes})


def test_alerts_fire_in_one_notification_and_are_resolved(site: Site) -> None:
    first, second = now("50"), now("80")
    site.send(first, second)
    assert site.firing() == ["50", "80"]
    until(lambda: site.notified("firing") == [["50", "80"]])
    (body,) = site.receiver.bodies
    assert body["groupLabels"] == {"alertname": "MeterhouseBudgetThreshold", "subject": "acme-month"}
    assert body["alerts"][0]["annotations"]["summary"] == "budget acme-month has reached 50 % of its limit"
    site.send(*(resolution_of(each, now_us(), "the limit was raised") for each in (first, second)))
    assert site.firing() == []
    until(lambda: site.notified("resolved")[1:] == [["50", "80"]])


def test_an_alertmanager_that_starts_again_is_told_of_what_is_open(site: Site) -> None:
    site.send(now("50"), behind(created_us=now_us()))
    site.server.restart()
    assert site.firing() == []
    site.ahead_us = 60 * SECOND
    site.sender.run_once()
    assert site.firing() == ["50", "usage.events/3"]


def test_an_alert_ends_with_its_window(site: Site) -> None:
    site.send(now("50", window_end_us=now_us() + 2 * SECOND), now("80"))
    assert site.firing() == ["50", "80"]
    until(lambda: site.firing() == ["80"])
    until(lambda: ["50"] in site.notified("resolved"))


def test_a_resolution_that_comes_first_leaves_nothing_firing(site: Site) -> None:
    news = now("50")
    site.server.stop()
    site.send(news)  # fails: it is tried again later
    site.server.start()
    back = resolution_of(news, now_us(), "the limit was raised")
    site.send(back)
    site.ahead_us = 10 * SECOND
    site.sender.run_once()
    assert {each.state for each in site.outbox.list()} == {"delivered"}
    assert site.firing() == []


def test_the_example_of_the_documentation_is_one_that_alertmanager_takes() -> None:
    with own_alertmanager(EXAMPLE.read_text(encoding="utf-8")) as server:
        assert server.firing() == []
        told = Alertmanager(server.url)
        assert told.post(entry(now()), entry(now())) is None
        told.close()
        assert len(server.firing()) == 1
