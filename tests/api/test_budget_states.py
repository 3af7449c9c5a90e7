"""Budget states over HTTP: what gates of other processes are told."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest

from meterhouse.api.app import create_app
from meterhouse.api.clock import now_us
from meterhouse.api.routes import budget_states
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.ingest.log import BUDGET_STATES, Message
from meterhouse.streams.control import WindowSpec
from meterhouse.streams.gate import Gate
from meterhouse.streams.gate_feed_http import HttpFeed
from meterhouse.streams.gate_hub import MAX_SUBSCRIPTIONS
from meterhouse.streams.gate_wire import Fresh, State, Terms
from meterhouse.streams.money import PICO
from meterhouse.streams.windows import window_of
from tests.api.serving import served
from tests.api.test_http import problem
from tests.kafka.logs import await_that
from tests.streams.gate_builders import record, state, terms

TODAY = WindowSpec("day", "UTC")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with House(Settings(home=tmp_path / "home"), writer=True) as opened:
        yield opened


@pytest.fixture
def http(house: House) -> Iterator[httpx.Client]:
    with served(create_app(house)) as client:
        yield client


def say(house: House, *said: Terms | State | Fresh) -> None:
    records = map(record, said)
    house.log.append(BUDGET_STATES, [Message(key, value, partition=0) for key, value in records])


def spent(amount: int) -> State:
    """Of today, in dollars."""
    return state(amount * PICO, window=window_of(TODAY, now_us()))


def left(gate: Gate) -> int | None:
    """Whole dollars that a request may cost as this gate sees it; None: it knows no budget."""
    decision = gate.admit("acme", "assistant", "large", max_cost_pico=0)
    gate.cancel(decision.reservation)
    return None if decision.tightest is None else decision.tightest.remaining // PICO


def test_a_remote_gate_knows_what_the_servers_gate_knows(house: House, http: httpx.Client) -> None:
    say(house, terms(limit=str(100 * PICO)), spent(40))
    remote = Gate(now_us)
    with HttpFeed(str(http.base_url), remote) as feed:
        assert feed.wait_caught_up(60)
        assert left(remote) == left(house.admissions.gate) == 60
        say(house, spent(70))
        await_that(lambda: left(remote) == 30)
        house.log.append(BUDGET_STATES, [Message(record(terms())[0], None, partition=0)])
        await_that(lambda: left(remote) is None)
        assert left(house.admissions.gate) is None


def test_a_remote_gate_goes_on_when_its_server_is_back(house: House) -> None:
    say(house, terms(limit=str(100 * PICO)), spent(40))
    remote = Gate(now_us)
    with ExitStack() as stack:
        first = stack.enter_context(ExitStack())
        http = first.enter_context(served(create_app(house)))
        url, port = str(http.base_url), http.base_url.port
        assert port is not None
        feed = stack.enter_context(HttpFeed(url, remote))
        assert feed.wait_caught_up(60)
        first.close()
        say(house, spent(70))
        assert left(remote) == 60
        stack.enter_context(served(create_app(house), port))
        await_that(lambda: left(remote) == 30)


def lines_of(response: httpx.Response) -> Iterator[dict[str, object]]:
    return map(json.loads, response.iter_lines())


def test_the_stream_says_all_there_is_then_that_it_has_caught_up_and_then_signs_of_life(
    house: House, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget_states, "ALIVE_S", 0.05)
    budget = terms(limit="7")
    say(house, budget)
    with http.stream("GET", "/v1/budget-states") as response:
        assert response.headers["content-type"] == "application/x-ndjson"
        lines = lines_of(response)
        first = [next(lines) for _ in range(3)]
    key, value = record(budget)
    assert first == [{"partition": 0, "key": key.decode(), "value": json.loads(value)}, {"caught_up": True}, {}]


def raw_stream(http: httpx.Client, receive_bytes: int) -> socket.socket:
    """A stream that is asked for, and not read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.connect((http.base_url.host, http.base_url.port))
    connection.settimeout(60)
    connection.sendall(b"GET /v1/budget-states HTTP/1.1\r\nhost: localhost\r\n\r\n")
    return connection


def test_who_reads_slowly_sees_the_newest_and_does_not_get_all_that_was_said(house: House, http: httpx.Client) -> None:
    hub, size, said = house.admissions.hub, 200_000, 200
    with closing(raw_stream(http, 16_384)) as connection:
        await_that(lambda: hub.subscriptions == 1)
        for number in range(said):
            hub.take(0, *record(state(number, definition="x" * size)))
        newest = b'"spent_pico":"%d"' % (said - 1)
        read, end = 0, b""
        while newest not in end:
            chunk = connection.recv(1_000_000)
            assert chunk
            read, end = read + len(chunk), end[-100:] + chunk
    assert read < said * size / 2


def test_who_takes_nothing_is_cut_off(house: House, http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_states, "STUCK_S", 0.05)
    hub = house.admissions.hub
    with closing(raw_stream(http, 16_384)):
        await_that(lambda: hub.subscriptions == 1)
        for partition in range(100):
            hub.take(partition, *record(state(1, definition="x" * 200_000)))
        await_that(lambda: hub.subscriptions == 0)


def test_a_hundred_streams_are_served_and_one_that_goes_makes_room(house: House, http: httpx.Client) -> None:
    hub = house.admissions.hub
    with ExitStack() as stack:
        held = [stack.enter_context(closing(raw_stream(http, 16_384))) for _ in range(MAX_SUBSCRIPTIONS)]
        await_that(lambda: hub.subscriptions == MAX_SUBSCRIPTIONS)
        answer = http.get("/v1/budget-states")
        assert "100 streams" in problem(answer, 503, "unavailable")["detail"]
        assert answer.headers["retry-after"] == "5"
        held[0].close()
        await_that(lambda: hub.subscriptions < MAX_SUBSCRIPTIONS)
        with http.stream("GET", "/v1/budget-states") as response:
            assert response.status_code == 200
    await_that(lambda: hub.subscriptions == 0)


def test_a_server_that_ends_ends_its_streams(house: House) -> None:
    with ExitStack() as serving:
        http = serving.enter_context(served(create_app(house)))
        with http.stream("GET", "/v1/budget-states") as response:
            lines = lines_of(response)
            assert next(lines) == {"caught_up": True}
            stopping = threading.Thread(target=serving.pop_all().close)
            stopping.start()
            assert list(lines) == []  # an end, and no broken connection
        stopping.join()
