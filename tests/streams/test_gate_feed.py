"""A feed from a log that has trouble."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from meterhouse.ingest.log import BUDGET_STATES, Consumer, LogError, LogUnavailable, Message
from meterhouse.ingest.sqlite_log import SqliteLog
from meterhouse.ingest.topics import budget_topics
from meterhouse.streams.gate_feed import LogFeed
from tests.contracts.test_gate_feed import WITHIN_S, Heard


class Troubled:
    """A log whose consumers raise what stands in `trouble`, one by one, and otherwise read `log`."""

    def __init__(self, log: SqliteLog) -> None:
        self.log = log
        self.trouble: list[LogError] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log, name)

    def consumer(self, topic: str, **callbacks: Any) -> Consumer:
        consumer = self.log.consumer(topic, **callbacks)
        poll = consumer.poll

        def troubled(max_records: int, timeout_s: float) -> Any:
            if self.trouble:
                raise self.trouble.pop(0)
            return poll(max_records, min(timeout_s, 0.01))

        consumer.poll = troubled  # type: ignore[method-assign]
        return consumer


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Troubled]:
    inner = SqliteLog(tmp_path / "log.db", clock=lambda: 0)
    inner.create_topics(budget_topics(1))
    yield Troubled(inner)
    inner.close()


def put(log: Troubled, **records: bytes | None) -> None:
    log.log.append(BUDGET_STATES, [Message(key.encode(), value) for key, value in records.items()])


def test_a_feed_goes_on_from_where_it_stands_after_passing_trouble(log: Troubled) -> None:
    put(log, a=b"1")
    log.trouble = [LogUnavailable("locked"), LogUnavailable("locked")]
    heard = Heard()
    with LogFeed(log, heard) as feed:
        assert feed.wait_caught_up(WITHIN_S)
        log.trouble = [LogUnavailable("locked")]
        put(log, b=b"2")
        heard.wait_for(lambda h: len(h.records) == 2)
    assert (heard.starts, heard.catches, heard.told) == (1, 1, 2)


def test_a_feed_reads_all_again_when_its_next_record_cannot_be_read(log: Troubled) -> None:
    put(log, a=b"1", b=b"2")
    heard = Heard()
    with LogFeed(log, heard) as feed:
        assert feed.wait_caught_up(WITHIN_S)
        heard.take(0, b"gone", b"3")
        log.trouble = [LogError("removed by retention")]
        heard.wait_for(lambda h: h.catches == 2)
    assert (heard.starts, heard.records) == (2, {(0, b"a"): b"1", (0, b"b"): b"2"})


def test_a_feed_waits_for_a_topic_that_is_not_there_yet(tmp_path: Path) -> None:
    inner = SqliteLog(tmp_path / "empty.db", clock=lambda: 0)
    heard = Heard()
    with LogFeed(inner, heard) as feed:
        heard.wait_for(lambda h: h.starts > 1)
        inner.create_topics(budget_topics(1))
        assert feed.wait_caught_up(WITHIN_S)
    inner.close()
