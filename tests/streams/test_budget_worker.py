"""What only the embedded runtime does: passing trouble, threads. What it says is the contract's business."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from meterhouse.ingest.log import (
    BUDGET_ALERTS,
    BUDGET_STATES,
    BUDGET_TOTALS,
    USAGE_EVENTS,
    LogUnavailable,
    Message,
    Records,
    TopicSpec,
    partition_of,
)
from meterhouse.ingest.sqlite_log import SqliteLog
from meterhouse.streams.alerts import MemoryOutbox, OutboxUnavailable
from meterhouse.streams.budget import Alert, BudgetTotal, definition_of
from meterhouse.streams.budget_desk import LISTEN_EVERY_US, MAX_FAILURES, BudgetDesk, BudgetWorkerStopped
from meterhouse.streams.budget_worker import EmbeddedBudgetWorker, budget_topics
from meterhouse.streams.gate_wire import state_key
from tests.streams.budget_builders import budget, snapshot, us

NOVEMBER = (us("2026-10-31T23:00"), us("2026-11-30T23:00"))
NOW = us("2026-11-20T12:00")
CONTROL = snapshot(budget())


class FailingLog(SqliteLog):
    """Fails the appends to the topics in `down`. Counts the states that are read."""

    down: frozenset[str] = frozenset()
    states_read = 0

    def read(self, topic: str, partition: int, offset: int, max_records: int) -> Records:
        records = super().read(topic, partition, offset, max_records)
        self.states_read += len(records) if topic == BUDGET_STATES else 0
        return records

    def append(self, topic: str, messages: Sequence[Message]) -> list[tuple[int, int]]:
        if topic in self.down:
            raise LogUnavailable("the disk is away")
        return super().append(topic, messages)


class FailingOutbox(MemoryOutbox):
    down = False

    def add(self, alerts: Sequence[Alert]) -> int:
        if self.down:
            raise OutboxUnavailable("the database is away")
        return super().add(alerts)


class NeverSet(threading.Event):
    """Waits no time at all."""

    def wait(self, timeout: float | None = None) -> bool:
        return False


@pytest.fixture
def log(tmp_path: Path) -> Iterator[FailingLog]:
    log = FailingLog(tmp_path / "log.sqlite", clock=lambda: NOW)
    log.create_topics([*budget_topics(2), TopicSpec(USAGE_EVENTS, 2)])
    yield log
    log.close()


def publish(log: SqliteLog, offset: int, share: int) -> None:
    total = BudgetTotal("acme-month", *NOVEMBER, 0, 1, offset, share * 10**12, share, definition_of(budget(), CONTROL))
    log.append(BUDGET_TOTALS, [total.message(2)])


def make_worker(log: SqliteLog, outbox: MemoryOutbox, clock: Callable[[], int] = lambda: NOW) -> EmbeddedBudgetWorker:
    return EmbeddedBudgetWorker(log, BudgetDesk(log, lambda: CONTROL, outbox, clock))


def appended(log: SqliteLog, topic: str) -> int:
    """Records, without what is told to gates beside states."""
    runs = [log.read(topic, partition, 0, 1_000) for partition in log.end_offsets(topic)]
    return sum(not (key or b"").startswith(b"|") for run in runs for key in run.keys)


def spent(log: SqliteLog) -> int | None:
    """Tokens, as the newest state says."""
    runs = [log.read(BUDGET_STATES, partition, 0, 1_000) for partition in log.end_offsets(BUDGET_STATES)]
    key = state_key("acme-month", NOVEMBER)
    said = [value for run in runs for k, value in zip(run.keys, run.values, strict=True) if k == key and value]
    return json.loads(said[-1])["spent_tokens"] if said else None


@pytest.mark.parametrize("down", [BUDGET_ALERTS, BUDGET_STATES])
def test_what_could_not_be_said_is_said_by_the_next_turn(log: FailingLog, down: str) -> None:
    outbox = FailingOutbox()
    worker = make_worker(log, outbox)
    publish(log, 10, 60)
    log.down = frozenset({down})
    with pytest.raises(LogUnavailable):
        worker.run_once(1.0)
    assert not worker.idle()
    log.down = frozenset()
    worker.run_once(0.0)
    assert worker.idle()
    assert (len(outbox.list()), appended(log, BUDGET_ALERTS), appended(log, BUDGET_STATES)) == (1, 1, 1)
    worker.close()


@pytest.mark.parametrize("down", [BUDGET_ALERTS, BUDGET_STATES])
def test_what_could_not_be_said_before_a_crash_is_said_after_it(log: FailingLog, down: str) -> None:
    outbox = FailingOutbox()
    worker = make_worker(log, outbox)
    publish(log, 10, 60)
    log.down = frozenset({down})
    with pytest.raises(LogUnavailable):
        worker.run_once(1.0)
    worker.close()
    log.down = frozenset()
    survivor = make_worker(log, outbox)
    survivor.run_once(1.0)
    assert survivor.idle()
    assert (len(outbox.list()), appended(log, BUDGET_ALERTS), appended(log, BUDGET_STATES)) == (1, 1, 1)
    survivor.close()


def test_an_alert_is_in_the_outbox_before_the_topic_says_so(log: FailingLog) -> None:
    outbox = FailingOutbox()
    worker = make_worker(log, outbox)
    publish(log, 10, 60)
    outbox.down = True
    with pytest.raises(OutboxUnavailable):
        worker.run_once(1.0)
    assert (appended(log, BUDGET_ALERTS), worker.idle()) == (0, False)
    outbox.down = False
    worker.run_once(0.0)
    assert (len(outbox.list()), appended(log, BUDGET_ALERTS), worker.idle()) == (1, 1, True)
    worker.close()


def test_a_worker_whose_trouble_does_not_pass_stops_loudly(log: FailingLog) -> None:
    outbox = FailingOutbox()
    outbox.down = True
    worker = make_worker(log, outbox)
    publish(log, 10, 60)
    with capture_logs() as lines, pytest.raises(BudgetWorkerStopped, match="the database is away"):
        worker.run(NeverSet())
    assert len(lines) == MAX_FAILURES - 1
    worker.close()


def test_a_record_that_is_no_total_is_told_of(log: FailingLog) -> None:
    worker = make_worker(log, MemoryOutbox())
    log.append(BUDGET_TOTALS, [Message(key=b"x", value=b"{", partition=1)])
    with capture_logs() as lines:
        worker.run_once(1.0)
    (line,) = lines
    assert (line["event"], line["topic"], line["partition"], line["offset"]) == ("record skipped", BUDGET_TOTALS, 1, 0)
    assert worker.idle()
    worker.close()


def test_a_running_worker_takes_in_what_comes_and_stops(log: FailingLog) -> None:
    outbox, stop = MemoryOutbox(), threading.Event()
    worker = make_worker(log, outbox)
    thread = threading.Thread(target=worker.run, args=(stop,))
    thread.start()
    tick = threading.Event()
    for offset, share in enumerate((10, 60, 100), 1):
        publish(log, offset, share)
        for _ in range(2000):
            if spent(log) == share:
                break
            tick.wait(0.005)
    stop.set()
    thread.join(10)
    worker.close()
    assert not thread.is_alive()
    assert (spent(log), sorted(str(e.alert.threshold) for e in outbox.list())) == (100, ["100", "50", "80"])


def test_a_worker_does_not_read_again_what_it_said_itself(log: FailingLog) -> None:
    worker = make_worker(log, MemoryOutbox(), itertools.count(NOW, LISTEN_EVERY_US).__next__)
    for offset in range(1, 4):
        publish(log, offset, offset)
        worker.run_once(1.0)
    assert (log.states_read, spent(log)) == (0, 3)
    worker.close()


def test_what_somebody_else_says_between_two_states_of_a_worker_does_not_stand(log: FailingLog) -> None:
    now_us = NOW
    worker = make_worker(log, MemoryOutbox(), lambda: now_us)
    publish(log, 1, 10)
    worker.run_once(1.0)
    place = partition_of(b"acme-month", 2)
    log.append(BUDGET_STATES, [Message(state_key("gone", NOVEMBER), b"{}", partition=place)])
    publish(log, 2, 20)
    worker.run_once(1.0)  # speaks before it listens
    now_us += LISTEN_EVERY_US
    worker.run_once(0.0)
    said = log.read(BUDGET_STATES, place, 0, 1_000)
    last = dict(zip(said.keys, said.values, strict=True))
    assert (last[state_key("gone", NOVEMBER)], spent(log)) == (None, 20)
    worker.close()


def test_an_empty_log_leaves_a_worker_idle_after_its_first_turn(log: FailingLog) -> None:
    worker = make_worker(log, MemoryOutbox())
    assert not worker.idle()
    assert worker.run_once(0.0) == 0
    assert worker.idle()
    worker.close()
