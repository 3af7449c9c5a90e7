"""Budgets edited while meters and workers run: states and terms follow from the lake's roll-ups, without a restart."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from meterhouse.api.clock import now_us
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House, topics_of
from meterhouse.ingest.kafka_log import KafkaLog
from meterhouse.ingest.log import BUDGET_STATES, STRUCTURED, USAGE_EVENTS, Message, whole_topic
from meterhouse.warehouse.control_file import parse
from meterhouse.warehouse.control_plan import plan
from tests.kafka.logs import await_that
from tests.services.kafka import own_cluster

CONTROL = """
currency: USD
tenants:
  - {id: acme, name: Acme, org: [group, consumer]}
  - {id: borg, name: Borg, org: [group, industry]}
rate_card:
  - provider: atlas
    model: large
    valid_from: 2026-01-01T00:00:00Z
    per_million: {input: "1.00", cache_read: "1.00", cache_write: "1.00", output: "1.00", reasoning: "1.00"}
"""
ALL_OF_ACME = "{tenant: acme}"
MONTH = "{every: month, time_zone: UTC}"
SPENT = {"acme": (100, 20), "borg": (7, 0)}
"""Tokens, a millionth of a dollar each, by application: assistant, search."""


def budget(limit: str, scope: str = ALL_OF_ACME, window: str = MONTH) -> str:
    return f'budgets: [{{id: one, scope: {scope}, window: {window}, limit: "{limit}", on_exceeded: block}}]\n'


@dataclass
class Desk:
    """A house whose workers run."""

    house: House
    running: list[Future[None]]

    def apply(self, text: str) -> None:
        made = plan(parse(text.encode()), self.house.control.snapshot(), now_us())
        assert not made.problems, made.problems
        self.house.control.apply(made, now_us())

    def told(self) -> dict[str, Any]:
        """What gates are told now, by key."""
        newest: dict[bytes, bytes | None] = {}
        for records in whole_topic(self.house.log, BUDGET_STATES):
            newest.update((key or b"", value) for key, value in zip(records.keys, records.values, strict=True))
        return {key.decode(): json.loads(value) for key, value in newest.items() if value is not None}

    def open_state(self) -> dict[str, Any] | None:
        """The state of the budget's open window."""
        now = now_us()
        open_ = [
            value
            for key, value in self.told().items()
            if not key.startswith("|") and value["window_start_us"] <= now < value["window_end_us"]
        ]
        assert len(open_) <= 1
        return open_[0] if open_ else None

    def await_state(self, **expected: object) -> None:
        def follows() -> bool:
            assert not any(each.done() for each in self.running), [each.exception() for each in self.running]
            state = self.open_state()
            return state is not None and expected.items() <= state.items()

        await_that(follows)


def publish(house: House) -> None:
    """A minute ago, whatever the hour: all of it lies in this month, week and day, or in the last of each."""
    at = datetime.now(UTC) - timedelta(seconds=60)
    messages = []
    for tenant, (assistant, search) in SPENT.items():
        for application, tokens in (("assistant", assistant), ("search", search)):
            data = {
                "application": application,
                "model": "large",
                "provider": "atlas",
                "status": "ok",
                "input_tokens": tokens,
            }
            event = {
                "specversion": "1.0", "id": f"{tenant}-{application}", "source": "/test", "subject": tenant,
                "type": "meterhouse.request.v1", "time": at.isoformat(), "data": data | {"input_tokens": tokens},
            }  # fmt: skip
            headers = (("content-type", STRUCTURED.encode()),)
            messages.append(Message(tenant.encode(), json.dumps(event).encode(), headers))
    house.log.append(USAGE_EVENTS, messages)


@pytest.fixture(params=["embedded", "kafka"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    with ExitStack() as parts:
        settings = Settings(home=tmp_path / "home")
        if request.param == "kafka":
            bootstrap = parts.enter_context(own_cluster(steady=True)).bootstrap
            settings = Settings(home=tmp_path / "home", kafka_bootstrap=bootstrap)
            with closing(KafkaLog(bootstrap)) as log:
                log.create_topics(topics_of(settings))
        house = parts.enter_context(House(settings, writer=True))
        made = Desk(house, [])
        made.apply(CONTROL + budget("0.000100"))  # first, or the meter rejects events of tenants that it does not know
        pool = parts.enter_context(ThreadPoolExecutor(2))
        stop = threading.Event()
        meter, worker = parts.enter_context(closing(house.meter())), parts.enter_context(closing(house.budget_worker()))
        runs: tuple[Callable[[threading.Event], None], ...] = (meter.run, worker.run)
        made.running += [pool.submit(run, stop) for run in runs]
        parts.callback(lambda: [each.result() for each in made.running])
        parts.callback(stop.set)
        yield made


def micro(tokens: int) -> str:
    """What so many tokens cost, in pico-units."""
    return str(tokens * 10**6)


def test_edits_of_a_budget_are_followed_from_the_lakes_roll_ups(desk: Desk) -> None:
    publish(desk.house)
    desk.await_state(spent_pico=micro(120), state="exceeded", limit_pico=micro(100))

    desk.apply(CONTROL + budget("0.000200"))
    desk.await_state(spent_pico=micro(120), state="ok", limit_pico=micro(200))
    desk.apply(CONTROL + budget("0.000050"))
    desk.await_state(spent_pico=micro(120), state="exceeded", limit_pico=micro(50))

    desk.apply(CONTROL + budget("0.000050", scope="{tenant: acme, application: search}"))
    desk.await_state(spent_pico=micro(20), state="ok")
    desk.apply(CONTROL + budget("0.000050", scope="{org_unit: group}"))
    desk.await_state(spent_pico=micro(127), state="exceeded")
    assert desk.told()["|terms|one"]["tenants"] == ["acme", "borg"]

    desk.apply(CONTROL + budget("0.000050", window="{every: month, time_zone: Pacific/Apia}"))
    await_that(lambda: desk.told()["|terms|one"]["time_zone"] == "Pacific/Apia")

    desk.apply(CONTROL + "budgets: []\n")
    await_that(lambda: not [key for key in desk.told() if not key.startswith("|fresh|")])
    desk.apply(CONTROL + budget("0.000100"))
    desk.await_state(spent_pico=micro(120), state="exceeded")


def test_states_say_that_they_are_fresh_and_of_which_offsets(desk: Desk) -> None:
    publish(desk.house)
    desk.await_state(spent_pico=micro(120))
    ends = {str(partition): end for partition, end in desk.house.log.end_offsets(USAGE_EVENTS).items()}
    begin_us = now_us()

    def fresh() -> list[dict[str, Any]]:
        return [value for key, value in desk.told().items() if key.startswith("|fresh|")]

    partitions = desk.house.log.partitions(BUDGET_STATES)
    await_that(lambda: len(fresh()) == partitions and all(each["as_of_us"] > begin_us for each in fresh()))
    assert all(each["offsets"] == ends for each in fresh())
