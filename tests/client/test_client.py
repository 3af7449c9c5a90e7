"""The client against the real server."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from meterhouse.api.app import create_app
from meterhouse.api.clock import now_us
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.api.workers import Workers
from meterhouse.client import (
    AdmissionRequest,
    InvalidRequest,
    Meterhouse,
    NewSilence,
    NotFound,
    Refused,
    TooLarge,
    Unreachable,
)
from meterhouse.client import client as module
from meterhouse.ingest.log import USAGE_EVENTS
from meterhouse.warehouse.control_file import parse
from meterhouse.warehouse.control_plan import plan
from tests.api.serving import served
from tests.api.test_http import CONTROL, event
from tests.kafka.logs import await_that

ASK = AdmissionRequest(tenant="acme", application="assistant", model="large", input_tokens=10, max_tokens=1)


class Site:
    """A house behind a server that takes 20 kB of events at a time."""

    def __init__(self, house: House, url: str) -> None:
        self.house = house
        self.url = url
        self.client = Meterhouse(url)

    def work(self) -> None:
        with Workers(self.house) as workers:
            workers.run_until_idle(threading.Event())

    def records(self) -> int:
        return sum(self.house.log.end_offsets(USAGE_EVENTS).values())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    settings = Settings(home=tmp_path / "home", max_body_bytes=20_000)
    with House(settings, writer=True) as house:
        house.control.apply(plan(parse(CONTROL), house.control.snapshot(), now_us()), now_us())
        with served(create_app(house)) as http:
            site = Site(house, str(http.base_url))
            with site.client:
                yield site


def test_what_is_published_is_in_every_report(site: Site) -> None:
    assert site.client.publish([event(1), event(2, data={"model": "unknown"})]) == 2
    site.work()
    today = datetime.now(UTC).date()
    bill = site.client.chargeback(today - timedelta(days=1), group_by=["tenant", "model"], where={"tenant": "acme"})
    assert [(line.tenant, line.model, line.cost, line.unpriced_requests) for line in bill.lines] == [
        ("acme", "large", Decimal("0.0035"), 0),
        ("acme", "unknown", Decimal(0), 1),
    ]
    assert (bill.currency, bill.total.cost, bill.total.requests) == ("USD", Decimal("0.0035"), 2)
    assert bill.from_ == datetime.combine(today - timedelta(days=1), datetime.min.time(), UTC)
    usage = site.client.usage(every="hour", where={"model": ["large"]})
    assert (usage.total.requests, usage.total.by_status["ok"], usage.total.tokens.input) == (1, 1, 1_000)
    [budget] = site.client.budgets().budgets
    assert (budget.spent, budget.state, budget.thresholds_crossed) == (Decimal("0.0035"), "exceeded", [50, 100])
    [objective] = site.client.slo().objectives
    assert (objective.good, objective.total, objective.target) == (2, 2, Decimal("0.99"))
    burnt = site.client.burn_down(objective.id)
    assert (burnt.good, burnt.total, burnt.steps[-1].error_budget_left, burnt.worst_minutes) == (2, 2, 1.0, [])
    latencies = site.client.latencies(every="whole", group_by=["model"], where={"model": ["large"]})
    assert [(line.time, line.model, line.duration_ms) for line in latencies.lines] == [
        (None, "large", latencies.total.duration_ms)
    ]


def test_bodies_are_as_large_as_the_server_takes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BODY_BYTES", 5_000)
    assert site.client.publish(event(number) for number in range(30)) == 30
    site.work()
    assert site.client.usage().total.requests == 30


def test_a_server_that_takes_less_gets_smaller_bodies(site: Site) -> None:
    assert site.client.publish(event(number) for number in range(150)) == 150  # 60 kB in one body
    site.work()
    assert site.client.usage().total.requests == 150


def test_an_event_that_is_too_large_is_an_error_that_says_so(site: Site) -> None:
    with pytest.raises(TooLarge, match="A body may have 20,000 bytes"):
        site.client.publish([event(1, data={"request_id": "x" * 30_000})])


def test_an_admission_is_settled_or_cancelled(site: Site) -> None:
    site.work()  # it tells gates of the budgets
    await_that(lambda: site.house.admissions.gate.ready)
    await_that(lambda: site.client.admit(ASK).reservation is not None)
    first, second = site.client.admit(ASK), site.client.admit(ASK)
    assert (first.outcome, first.bound, first.budget) == ("allow", Decimal("0.00004125"), "acme-month")
    assert first.reservation
    assert second.reservation
    site.client.settle(first.reservation, cost=Decimal("0.00001"), tokens=11)
    site.client.cancel(second.reservation)
    with pytest.raises(NotFound, match="There is no such reservation"):
        site.client.settle("gone", cost=Decimal("0.1"), tokens=110)
    with pytest.raises(NotFound, match="There is no such reservation"):
        site.client.cancel("gone")


def test_a_budget_that_is_spent_refuses(site: Site) -> None:
    site.client.publish([event(1)])
    site.work()
    await_that(lambda: site.house.admissions.gate.ready)
    await_that(lambda: not _admits(site.client))
    with pytest.raises(Refused) as refused:
        site.client.admit(ASK)
    assert (refused.value.reason, refused.value.budget, refused.value.retryable) == ("exceeded", "acme-month", False)
    assert "is spent" in refused.value.detail


def _admits(client: Meterhouse) -> bool:
    try:
        client.admit(ASK)
    except Refused:
        return False
    return True


def test_prices_are_decimals(site: Site) -> None:
    prices = site.client.prices(model="large")
    assert prices.prices[0].per_million["cache_read"] == Decimal("0.25")
    assert prices.prices[0].valid_from == datetime(2026, 1, 1, tzinfo=UTC)


def test_rejects_come_page_by_page(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 2)
    broken: list[Any] = [{"id": str(number)} for number in range(5)]
    site.client.publish(broken)
    site.work()
    rejects = site.client.rejects(date(2026, 1, 1))
    assert sorted(reject.payload for reject in rejects) == [f'{{"id":"{number}"}}' for number in range(5)]
    assert list(site.client.rejects(reason=["unknown_tenant"])) == []


def test_an_alert_is_read_acknowledged_and_silenced(site: Site) -> None:
    site.client.publish([event(1)])
    site.work()
    alerts = list(site.client.alerts(kind="threshold", subject="acme-month"))
    assert sorted(alert.threshold or 0 for alert in alerts) == [50, 100]
    told = site.client.acknowledge(alerts[0].id, by="ann", note="asking acme")
    assert (told.acknowledged_by, told.standing) == ("ann", "acknowledged")
    assert site.client.alert(alerts[0].id).history[-1].what == "acknowledged"
    until = datetime.now(UTC) + timedelta(hours=2)
    silence = site.client.silence(NewSilence(subject="acme-month", until=until, by="ann", reason="their migration"))
    assert (silence.subject, silence.kind, silence.until) == ("acme-month", None, until)
    assert site.client.silences() == [silence]
    site.client.end_silence(silence.id)
    assert site.client.silences() == []


def test_an_export_is_written_as_it_comes(site: Site) -> None:
    site.client.publish([event(1)])
    site.work()
    for parquet, start in ((False, b"BilledCost,"), (True, b"PAR1")):
        file = io.BytesIO()
        length = site.client.focus(file, where={"tenant": "acme"}, parquet=parquet)
        assert length == len(file.getvalue())
        assert file.getvalue().startswith(start)


def test_what_the_server_refuses_is_raised_with_what_to_do(site: Site) -> None:
    with pytest.raises(InvalidRequest, match="colour") as wrong:
        site.client.chargeback(group_by=["colour"])
    assert (wrong.value.name, wrong.value.status, wrong.value.instance) == ("invalid-parameter", 400, "/v1/chargeback")
    with pytest.raises(NotFound):
        site.client.alert("a/b?c")


def test_a_time_without_a_zone_is_refused(site: Site) -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        site.client.slo(datetime(2026, 11, 1))  # noqa: DTZ001


def test_nobody_there_is_unreachable_and_nothing_was_done() -> None:
    with Meterhouse("http://127.0.0.1:9") as client, pytest.raises(Unreachable) as gone:
        client.settle("a", tokens=1)
    assert not gone.value.may_be_done


def test_an_address_without_a_scheme_is_refused() -> None:
    with pytest.raises(ValueError, match="is no address"):
        Meterhouse("meterhouse.example")
