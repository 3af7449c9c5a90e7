"""What no threshold tells, through the command line and on a real broker: missing prices, a meter that stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from meterhouse.api.clock import now_us
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House as Wired
from meterhouse.ingest.log import CONTENT_TYPE, STRUCTURED, USAGE_EVENTS, Message
from meterhouse.streams.alerts import MemoryOutbox
from meterhouse.streams.control import EMPTY
from meterhouse.warehouse.lookout import Lookout, LookoutSettings, Views
from tests.builders import SECOND_US
from tests.e2e.house import CONTROL, House
from tests.services.kafka import own_cluster

PRICED = """
rate_card:
  - provider: borea
    model: borea-new
    valid_from: 2026-01-01T00:00:00Z
    per_million: {input: "3.00", cache_read: "0.30", cache_write: "3.75", output: "15.00", reasoning: "15.00"}
    approved_by: finance@example.com
"""


def message(number: int) -> Message:
    """A request of a model that the control file does not price."""
    event = {
        "specversion": "1.0", "id": f"new-{number}", "source": "/gateway", "type": "meterhouse.request.v1",
        "subject": "acme-retail", "time": datetime.now(UTC).isoformat(),
        "data": {
            "application": "assistant", "model": "borea-new", "provider": "borea", "status": "ok",
            "input_tokens": 10, "output_tokens": 5,
        },
    }  # fmt: skip
    headers = ((CONTENT_TYPE, STRUCTURED.encode()),)
    return Message(b"acme-retail", json.dumps(event).encode(), headers)


@contextmanager
def opened(house: House, **settings: Any) -> Iterator[Wired]:
    with Wired(Settings(home=house.home, **settings)) as wired:
        yield wired


def unpriced(house: House) -> list[tuple[str, str]]:
    listed = house.listing("alerts", span=())
    return sorted((line["status"], line["subject"]) for line in listed if line["kind"] == "unpriced")


def test_a_model_without_a_price_is_an_alert_until_it_is_priced(tmp_path: Path) -> None:
    house = House(tmp_path / "home")
    house.run("apply", str(CONTROL))
    for number in range(2):
        with opened(house) as wired:
            wired.log.append(USAGE_EVENTS, [message(number)])
        house.run("work", "--until-idle")
    assert unpriced(house) == [("firing", "borea/borea-new")]
    priced = tmp_path / "priced.yaml"
    priced.write_text(CONTROL.read_text().replace("rate_card:\n", PRICED.lstrip("\n"), 1))
    house.run("apply", str(priced))
    for _ in range(2):
        house.run("work", "--until-idle")
    assert unpriced(house) == [("firing", "borea/borea-new"), ("resolved", "borea/borea-new")]


def test_the_alert_sender_waits_for_a_lake_and_says_so(tmp_path: Path) -> None:
    house = House(tmp_path / "home")
    assert "the lookout waits for the lake" in house.run("alert-sender", "--until-idle").stderr
    house.run("apply", str(CONTROL))
    with opened(house) as wired:
        wired.log.append(USAGE_EVENTS, [message(0)])
    house.run("meter", "--until-idle")
    house.run("alert-sender", "--until-idle")
    assert unpriced(house) == [("firing", "borea/borea-new")]


def test_a_meter_that_stopped_is_raised_on_kafka_and_resolved_when_one_runs_again(tmp_path: Path) -> None:
    house, outbox = House(tmp_path / "home"), MemoryOutbox()
    with own_cluster(steady=True) as kafka:
        settings = {"METERHOUSE_KAFKA_BOOTSTRAP": kafka.bootstrap, "METERHOUSE_PARTITIONS": "2"}
        house.run("topics", "apply", "--yes", settings=settings)
        house.run("apply", str(CONTROL))
        with opened(house, kafka_bootstrap=kafka.bootstrap, partitions=2) as wired:
            later_us = [0]
            lookout = Lookout(
                Views(lambda: wired.lake, lambda: wired.log, lambda: EMPTY), outbox, lambda: now_us() + later_us[0],
                LookoutSettings(stuck_s=60, behind_s=300),
            )  # fmt: skip
            assert not lookout.try_look()  # there is no lake yet
            [(partition, _)] = wired.log.append(USAGE_EVENTS, [message(0)])
            house.run("meter", "--until-idle", settings=settings)
            lookout.look()
            wired.log.append(USAGE_EVENTS, [message(1), message(2)])
            for later_s in (0, 61, 90):
                later_us[0] = later_s * SECOND_US
                lookout.look()
            (alert,) = (entry.alert for entry in outbox.open(now_us(), 10, "meter_behind"))
            assert alert.subject == f"usage.events/{partition}"
            assert {name: alert.payload[name] for name in ("rule", "offset", "records")} == {
                "rule": "stuck",
                "offset": 1,
                "records": 2,
            }
            house.run("meter", "--until-idle", settings=settings)
            lookout.look()
            assert list(outbox.open(now_us(), 10, "meter_behind")) == []
            assert [entry.alert.resolves for entry in outbox.list() if entry.alert.kind == "meter_behind"] == [
                alert.id,
                None,
            ]
