"""Totals go out beside reading: the newest of each key, in order, however the log fares."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from meterhouse.ingest.log import BUDGET_TOTALS, LogError, LogUnavailable, Message
from meterhouse.ingest.sqlite_log import SqliteLog
from meterhouse.streams.budget_totals import AsOfMark, BudgetTotal, LayoutMark, Mark, read_total
from meterhouse.streams.budget_worker import budget_topics
from meterhouse.streams.totals_publisher import TotalsPublisher

DEADLINE_S = 20.0
WINDOW = (0, 86_400_000_000)


def total(offset: int, budget: str = "a") -> BudgetTotal:
    return BudgetTotal(budget, *WINDOW, 0, 1, offset, offset * 10, offset, "d")


class Moody:
    """A log whose appends fail while `trouble` is set; `asked` is set by the first that fails."""

    def __init__(self, log: SqliteLog) -> None:
        self._log = log
        self.trouble: LogError | None = None
        self.asked = threading.Event()

    def partitions(self, topic: str) -> int:
        return self._log.partitions(topic)

    def append(self, topic: str, messages: Sequence[Message]) -> list[tuple[int, int]]:
        if self.trouble is not None:
            self.asked.set()
            raise self.trouble
        return self._log.append(topic, messages)

    def said(self) -> list[BudgetTotal | Mark]:
        run = self._log.read(BUDGET_TOTALS, 0, 0, 1_000)
        return [read_total(key or b"", value or b"") for key, value in zip(run.keys, run.values, strict=True)]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Moody]:
    with closing(SqliteLog(tmp_path / "log.sqlite", clock=lambda: 1)) as opened:
        opened.create_topics(budget_topics(1))
        yield Moody(opened)


@pytest.fixture
def publisher(log: Moody) -> Iterator[TotalsPublisher]:
    with closing(TotalsPublisher(log)) as made:  # type: ignore[arg-type]
        yield made


def test_what_is_offered_is_in_the_log_after_a_flush_and_a_mark_comes_last(
    log: Moody, publisher: TotalsPublisher
) -> None:
    publisher.offer([total(1), total(2, "b"), LayoutMark(0, 4)])
    assert publisher.flush(DEADLINE_S)
    assert log.said() == [total(1), total(2, "b"), LayoutMark(0, 4)]


def test_a_mark_waits_until_no_total_does_so_what_it_speaks_of_stands_before_it(
    log: Moody, publisher: TotalsPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meterhouse.streams.totals_publisher.APPEND_TOTALS", 2)
    log.trouble = LogUnavailable("away")
    publisher.offer([total(1)])
    assert log.asked.wait(DEADLINE_S)
    older, newer = AsOfMark(0, 5, 7, control_version=1), AsOfMark(0, 6, 8, control_version=1)
    publisher.offer([total(2), total(2, "b"), older])
    publisher.offer([total(3), total(3, "c"), newer])
    log.trouble = None
    assert publisher.flush(DEADLINE_S)
    *totals, last = log.said()
    assert (sorted(map(repr, totals)), last) == (sorted(map(repr, [total(3), total(2, "b"), total(3, "c")])), newer)


def test_while_the_log_is_away_only_the_newest_total_of_each_key_waits(log: Moody, publisher: TotalsPublisher) -> None:
    log.trouble = LogUnavailable("away")
    publisher.offer([total(1)])
    assert log.asked.wait(DEADLINE_S)  # the first is on its way; what follows waits
    for offset in range(2, 500):
        publisher.offer([total(offset), total(offset, "b")])
    assert not publisher.flush(0.05)
    log.trouble = None
    assert publisher.flush(DEADLINE_S)
    assert log.said() == [total(499), total(499, "b")]


def test_a_log_that_refuses_for_good_is_told_at_the_next_offer(log: Moody, publisher: TotalsPublisher) -> None:
    log.trouble = LogError("there is no such topic: run topics apply")
    publisher.offer([total(1)])
    assert not publisher.flush(DEADLINE_S)
    with pytest.raises(LogError, match="topics apply"):
        publisher.offer([total(2)])


def test_closing_gives_up_what_waits_and_ends(log: Moody) -> None:
    log.trouble = LogUnavailable("away")
    publisher = TotalsPublisher(log)  # type: ignore[arg-type]
    publisher.offer([total(1)])
    assert log.asked.wait(DEADLINE_S)
    publisher.close()
    assert log.said() == []
