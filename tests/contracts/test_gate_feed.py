"""What every feed of a gate does, whichever way the records come."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

import pytest

from meterhouse.api.app import create_app
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.ingest.log import BUDGET_STATES, EventLog, Message, TopicSpec
from meterhouse.streams.gate_feed import Feed, LogFeed
from meterhouse.streams.gate_feed_http import MAX_LINE_BYTES, HttpFeed
from meterhouse.streams.gate_wire import ALIVE, CAUGHT_UP, record_line, write_line
from tests.api.serving import served
from tests.contracts.event_logs import STORES, Store

WITHIN_S = 60.0


class Heard:
    """Stands in for a gate: what it was told, and waiting for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.records: dict[tuple[int, bytes], bytes] = {}
        self.told = 0
        self.starts = 0
        self.catches = 0
        self._seen: set[tuple[int, bytes]] = set()

    def starts_over(self) -> None:
        with self._changed:
            self.starts += 1
            self._seen = set()
            self._changed.notify_all()

    def take(self, partition: int, key: bytes, value: bytes | None) -> None:
        with self._changed:
            self.told += 1
            self._seen.add((partition, key))
            if value is None:
                self.records.pop((partition, key), None)
            else:
                self.records[partition, key] = value
            self._changed.notify_all()

    def caught_up(self) -> None:
        with self._changed:
            self.records = {place: value for place, value in self.records.items() if place in self._seen}
            self.catches += 1
            self._changed.notify_all()

    def wait_for(self, condition: Callable[[Heard], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), WITHIN_S), self.records


class Source(Protocol):
    """Where a feed reads from: two partitions of records."""

    def put(self, records: Mapping[tuple[int, bytes], bytes | None]) -> None: ...

    def feed(self, heard: Heard) -> Feed: ...

    def close(self) -> None: ...


class LogSource:
    def __init__(self, store: Store) -> None:
        self._log: EventLog = store.open()
        self._topic = store.new_topic()
        self._log.create_topics([TopicSpec(self._topic, 2, compacted=True)])

    def put(self, records: Mapping[tuple[int, bytes], bytes | None]) -> None:
        self._log.append(
            self._topic, [Message(key, value, partition=partition) for (partition, key), value in records.items()]
        )

    def feed(self, heard: Heard) -> Feed:
        return LogFeed(self._log, heard, topic=self._topic)

    def close(self) -> None:
        self._log.close()


class HttpSource:
    """The server's side in small: each connection gets all there is, then what comes; silent but for signs of life."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._said: list[tuple[tuple[int, bytes], bytes | None]] = []
        self.held: dict[tuple[int, bytes], bytes] = {}
        self._closed = False
        self.answers: list[bytes] = []  # what connections get instead, one after another
        self.broken = 0  # how many connections were told to end
        source = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                assert self.path == "/v1/budget-states"
                with suppress(ConnectionError):
                    source.serve(self.wfile.write)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def serve(self, write: Callable[[bytes], Any]) -> None:
        with self._changed:
            if self.answers:
                write(self.answers.pop(0))
                return
            snapshot, position, broken = dict(self.held), len(self._said), self.broken
        write(b"HTTP/1.0 200 OK\r\ncontent-type: application/x-ndjson\r\n\r\n")
        for (partition, key), value in snapshot.items():
            write(write_line(record_line(partition, key, value)))
        write(write_line(CAUGHT_UP))
        while True:
            with self._changed:
                self._changed.wait(0.05)
                if self._is_over(broken):
                    return
                said, position = self._said[position:], len(self._said)
            for (partition, key), changed in said:
                write(write_line(record_line(partition, key, changed)))
            write(write_line(ALIVE))

    def _is_over(self, broken: int) -> bool:
        return self._closed or self.broken > broken

    def put(self, records: Mapping[tuple[int, bytes], bytes | None]) -> None:
        with self._changed:
            for place, value in records.items():
                self.held.pop(place, None)
                if value is not None:
                    self.held[place] = value
            self._said += records.items()
            self._changed.notify_all()

    def drop_connections(self, forget: tuple[int, bytes]) -> None:
        """Ends all streams; one record is gone meanwhile, and nobody says so."""
        with self._changed:
            del self.held[forget]
            self.broken += 1
            self._changed.notify_all()

    def feed(self, heard: Heard) -> Feed:
        return HttpFeed(self.url, heard)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class ServerSource:
    """Meterhouse's own server, over a home whose states it reads."""

    def __init__(self, home: Path) -> None:
        self._parts = ExitStack()
        self._house = self._parts.enter_context(House(Settings(home=home)))
        self._house.log.create_topics([TopicSpec(BUDGET_STATES, 2, compacted=True)])
        self._url = str(self._parts.enter_context(served(create_app(self._house))).base_url)

    def put(self, records: Mapping[tuple[int, bytes], bytes | None]) -> None:
        messages = [Message(key, value, partition=partition) for (partition, key), value in records.items()]
        self._house.log.append(BUDGET_STATES, messages)

    def feed(self, heard: Heard) -> Feed:
        return HttpFeed(self._url, heard)

    def close(self) -> None:
        self._parts.close()


def _log(name: str) -> Callable[[Path, pytest.FixtureRequest], Source]:
    return lambda folder, request: LogSource(STORES[name](folder, request))


SOURCES: dict[str, Callable[[Path, pytest.FixtureRequest], Source]] = {
    "sqlite": _log("sqlite"),
    "kafka": _log("kafka, no group"),
    "http": lambda folder, request: HttpSource(),
    "server": lambda folder, request: ServerSource(folder / "home"),
}


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Source]:
    made = SOURCES[request.param](tmp_path, request)
    yield made
    made.close()


@pytest.fixture
def feeds() -> Iterator[Callable[[Feed], Feed]]:
    """Starts feeds, and closes them before their sources."""
    with ExitStack() as stack:
        yield stack.enter_context


def test_what_was_there_comes_before_the_feed_has_caught_up(source: Source, feeds: Callable[[Feed], Feed]) -> None:
    source.put({(0, b"a"): b"[1]", (1, b"b"): b"[2]", (0, b"c"): b"[3]"})
    source.put({(0, b"a"): b"[4]", (0, b"c"): None})
    heard = Heard()
    feed = feeds(source.feed(heard))
    assert feed.wait_caught_up(WITHIN_S)
    assert (heard.records, heard.catches) == ({(0, b"a"): b"[4]", (1, b"b"): b"[2]"}, 1)


def test_what_comes_later_is_told_at_once(source: Source, feeds: Callable[[Feed], Feed]) -> None:
    heard = Heard()
    feed = feeds(source.feed(heard))
    assert feed.wait_caught_up(WITHIN_S)
    assert heard.records == {}
    source.put({(1, b"a"): b"[1]"})
    heard.wait_for(lambda h: h.records == {(1, b"a"): b"[1]"})
    source.put({(1, b"a"): None, (0, b"b"): b"[2]"})
    heard.wait_for(lambda h: h.records == {(0, b"b"): b"[2]"})
    assert heard.catches == 1


def test_two_gates_hear_the_same(source: Source, feeds: Callable[[Feed], Feed]) -> None:
    heard = [Heard(), Heard()]
    for each in heard:
        feeds(source.feed(each))
    source.put({(partition, b"%d" % n): b"[0]" for partition in (0, 1) for n in range(100)})
    for each in heard:
        each.wait_for(lambda h: len(h.records) == 200)


def test_a_closed_feed_tells_no_more(source: Source) -> None:
    heard = Heard()
    feed = source.feed(heard)
    with feed:
        assert feed.wait_caught_up(WITHIN_S)
    feed.close()
    source.put({(0, b"a"): b"[1]"})
    again = Heard()
    with source.feed(again):
        again.wait_for(lambda h: h.told == 1)
    assert heard.told == 0


# --- HTTP alone ------------------------------------------------------------------------------------------------------

OK = b"HTTP/1.0 200 OK\r\n\r\n"


@pytest.fixture
def http() -> Iterator[HttpSource]:
    source = HttpSource()
    yield source
    source.close()


def test_after_a_lost_connection_what_is_no_longer_there_is_gone(
    http: HttpSource, feeds: Callable[[Feed], Feed]
) -> None:
    http.put({(0, b"a"): b"[1]", (0, b"b"): b"[2]"})
    heard = Heard()
    feeds(http.feed(heard))
    heard.wait_for(lambda h: h.catches == 1)
    http.drop_connections(forget=(0, b"a"))
    heard.wait_for(lambda h: h.catches == 2)
    assert heard.records == {(0, b"b"): b"[2]"}
    http.put({(0, b"b"): b"[3]"})
    heard.wait_for(lambda h: h.records == {(0, b"b"): b"[3]"})


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 503 Service Unavailable\r\n\r\n",
        b"no HTTP\r\n\r\n",
        OK,
        OK + b"x" * (MAX_LINE_BYTES + 1),
        OK + write_line(record_line(0, b"z", b"[0]"))[:-5],
    ],
    ids=["unavailable", "no http", "ends", "too long a line", "ends within a line"],
)
def test_trouble_is_waited_out(http: HttpSource, feeds: Callable[[Feed], Feed], answer: bytes) -> None:
    http.answers = [answer]
    http.put({(0, b"a"): b"[1]"})
    heard = Heard()
    assert feeds(http.feed(heard)).wait_caught_up(WITHIN_S)
    assert (heard.records, heard.catches) == ({(0, b"a"): b"[1]"}, 1)


def test_a_line_that_makes_no_sense_costs_only_itself(http: HttpSource, feeds: Callable[[Feed], Feed]) -> None:
    good = write_line(record_line(3, "ü\u2028".encode(), b'{"a":"\xc3\xbc"}'))
    http.answers = [OK + b'{"partition":"x"}\n{\n[]\n{"other":1}\n' + good + write_line(CAUGHT_UP)]
    heard = Heard()
    feeds(http.feed(heard))
    heard.wait_for(lambda h: h.catches == 1)
    assert heard.records == {(3, "ü\u2028".encode()): b'{"a":"\xc3\xbc"}'}
