"""What every feed of a gate does, whichever way the records come."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from meterhouse.ingest.log import EventLog, Message, TopicSpec
from meterhouse.streams.gate_feed import Feed, LogFeed
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


def _log(name: str) -> Callable[[Path, pytest.FixtureRequest], Source]:
    return lambda folder, request: LogSource(STORES[name](folder, request))


SOURCES: dict[str, Callable[[Path, pytest.FixtureRequest], Source]] = {
    "sqlite": _log("sqlite"),
    "kafka": _log("kafka, no group"),
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
    source.put({(0, b"a"): b"1", (1, b"b"): b"2", (0, b"c"): b"3"})
    source.put({(0, b"a"): b"4", (0, b"c"): None})
    heard = Heard()
    feed = feeds(source.feed(heard))
    assert feed.wait_caught_up(WITHIN_S)
    assert (heard.records, heard.catches) == ({(0, b"a"): b"4", (1, b"b"): b"2"}, 1)


def test_what_comes_later_is_told_at_once(source: Source, feeds: Callable[[Feed], Feed]) -> None:
    heard = Heard()
    feed = feeds(source.feed(heard))
    assert feed.wait_caught_up(WITHIN_S)
    assert heard.records == {}
    source.put({(1, b"a"): b"1"})
    heard.wait_for(lambda h: h.records == {(1, b"a"): b"1"})
    source.put({(1, b"a"): None, (0, b"b"): b"2"})
    heard.wait_for(lambda h: h.records == {(0, b"b"): b"2"})
    assert heard.catches == 1


def test_two_gates_hear_the_same(source: Source, feeds: Callable[[Feed], Feed]) -> None:
    heard = [Heard(), Heard()]
    for each in heard:
        feeds(source.feed(each))
    source.put({(partition, b"%d" % n): b"x" for partition in (0, 1) for n in range(100)})
    for each in heard:
        each.wait_for(lambda h: len(h.records) == 200)


def test_a_closed_feed_tells_no_more(source: Source) -> None:
    heard = Heard()
    feed = source.feed(heard)
    with feed:
        assert feed.wait_caught_up(WITHIN_S)
    feed.close()
    source.put({(0, b"a"): b"1"})
    again = Heard()
    with source.feed(again):
        again.wait_for(lambda h: h.told == 1)
    assert heard.told == 0
