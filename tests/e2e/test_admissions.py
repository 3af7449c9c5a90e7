"""A gateway that asks a server before each request, from the command line to the answer."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx

from meterhouse.api.clock import now_us
from meterhouse.ingest.kafka_log import KafkaLog
from meterhouse.ingest.log import BUDGET_STATES, Message
from meterhouse.streams.control import WindowSpec
from meterhouse.streams.money import PICO
from meterhouse.streams.windows import window_of
from tests.e2e.house import COMMAND, DEADLINE_S, House, environment
from tests.kafka.logs import await_that
from tests.services.kafka import own_cluster
from tests.streams.gate_builders import record, state, terms

CONTROL = """
currency: USD
tenants: [{id: acme, name: Acme}]
rate_card:
  - {provider: atlas, model: large, valid_from: 2026-01-01T00:00:00Z, per_million: {input: "1.00", output: "1.00"}}
"""
ASK = {"tenant": "acme", "application": "assistant", "model": "large"}


def control(folder: Path, limit: str) -> str:
    budget = "{id: month, scope: {tenant: acme}, window: {every: month, time_zone: UTC}, on_exceeded: block"
    file = folder / f"limit-{limit}.yaml"
    file.write_text(f'{CONTROL}budgets: [{budget}, limit: "{limit}"}}]\n', encoding="utf-8")
    return str(file)


@contextmanager
def serving(
    house: House, settings: Mapping[str, str] | None = None
) -> Iterator[tuple[httpx.Client, subprocess.Popen[str]]]:
    """A server of this home, stopped by SIGINT if it still runs, and a client of it."""
    with subprocess.Popen(
        [*COMMAND, "--home", str(house.home), "serve", "--port", "0"],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(settings),
    ) as server:
        assert server.stderr is not None
        said = ""
        while (found := re.search(r"serving (http://\S+)", said)) is None:
            line = server.stderr.readline()
            assert line, said
            said += line
        with httpx.Client(base_url=found[1], timeout=30) as http:
            yield http, server
        if server.poll() is None:
            server.send_signal(signal.SIGINT)
        server.communicate(timeout=DEADLINE_S)


def publish(http: httpx.Client, event_id: str, tokens: int) -> None:
    event = {
        "specversion": "1.0",
        "id": event_id,
        "source": "/gateway",
        "type": "meterhouse.request.v1",
        "subject": "acme",
        "time": (datetime.now(UTC) - timedelta(seconds=1)).isoformat(),
        "data": {"application": "assistant", "model": "large", "provider": "atlas", "status": "ok"}
        | {"input_tokens": tokens, "output_tokens": 0},
    }
    headers = {"content-type": "application/cloudevents+json"}
    assert http.post("/v1/events", content=json.dumps(event), headers=headers).status_code == 204


def admit(http: httpx.Client, **changes: object) -> httpx.Response:
    return http.post("/v1/admissions", json=ASK | changes)


def test_events_spend_a_budget_until_requests_are_refused_and_a_raised_limit_admits_them(tmp_path: Path) -> None:
    house = House(tmp_path / "home")
    house.run("apply", control(tmp_path, "0.003"))
    with serving(house) as (http, server):
        await_that(lambda: admit(http).json().get("budget") == "month")
        publish(http, "e-1", 2_000)
        await_that(lambda: admit(http).json()["remaining"] == "0.001000000000")
        assert admit(http, input_tokens=1_000, max_tokens=1).json()["reason"] == "does_not_fit"

        publish(http, "e-2", 1_000)
        await_that(lambda: admit(http).status_code == 429)
        refused = admit(http, input_tokens=10, max_tokens=10)
        document = refused.json()
        assert (document["type"], document["reason"]) == ("/problems/budget-refusal", "exceeded")
        assert (document["budget"], document["retryable"]) == ("month", False)
        assert "retry-after" not in refused.headers
        assert refused.headers["ratelimit"].startswith('"month";r=0;t=')
        assert refused.headers["ratelimit-policy"].startswith('"month";q=3000;qu="micro-USD";w=')

        house.run("apply", control(tmp_path, "0.005"))
        await_that(lambda: admit(http).status_code == 200)
        assert admit(http, input_tokens=1_000, max_tokens=0).json()["remaining"] == "0.001000000000"

        with http.stream("GET", "/v1/budget-states") as response:
            lines = response.iter_lines()
            while json.loads(next(lines)) != {"caught_up": True}:
                pass
            server.send_signal(signal.SIGINT)
            for line in lines:
                json.loads(line)
        assert server.wait(DEADLINE_S) == 0


def test_a_server_on_kafka_admits_by_the_states_in_its_topic(tmp_path: Path) -> None:
    house = House(tmp_path / "home")
    with own_cluster(steady=True) as cluster:
        settings = {"METERHOUSE_KAFKA_BOOTSTRAP": cluster.bootstrap}
        house.run("topics", "apply", settings=settings)
        with closing(KafkaLog(cluster.bootstrap)) as log, serving(house, settings) as (http, _):

            def say(spent: int) -> None:
                window = window_of(WindowSpec("day", "UTC"), now_us())
                said = (terms(limit=str(100 * PICO)), state(spent * PICO, window=window))
                records = map(record, said)
                log.append(BUDGET_STATES, [Message(key, value, partition=1) for key, value in records])

            say(40)
            await_that(lambda: admit(http).json().get("remaining") == "60.000000000000")
            say(100)
            await_that(lambda: admit(http).status_code == 429)
