"""A publisher never holds up a request, loses nothing that it took, and says what it could not deliver."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meterhouse.ingest import publisher as publisher_module
from meterhouse.ingest.encode import Encoded, to_json
from meterhouse.ingest.event import UsageEvent
from meterhouse.ingest.log import USAGE_EVENTS, LogError, LogFull, LogUnavailable, Message, TopicSpec
from meterhouse.ingest.publisher import (
    Appended,
    Delivery,
    NotDelivered,
    Publisher,
    PublisherCounts,
    PublisherLimits,
    Retries,
    append_events,
    new_id,
)
from meterhouse.ingest.sqlite_log import SqliteLog
from tests.builders import T0_US

DEADLINE_S = 30.0
FAST = Retries(first_s=0.001, longest_s=0.002)
NEVER_LINGERS_OUT_S = 3_600.0


class TroubledLog(SqliteLog):
    """Raises what `trouble` gives for an append (None: appends), after `gate` opens."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, clock=lambda: T0_US)
        self.create_topics([TopicSpec(USAGE_EVENTS, 2)])
        self.trouble: Callable[[Sequence[Message]], LogError | None] = lambda messages: None
        self.gate = threading.Event()
        self.gate.set()
        self.appends = 0

    def append(self, topic: str, messages: Sequence[Message]) -> list[tuple[int, int]]:
        assert self.gate.wait(DEADLINE_S)
        self.appends += 1
        error = self.trouble(messages)
        if error is not None:
            raise error
        return super().append(topic, messages)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[TroubledLog]:
    with closing(TroubledLog(tmp_path / "log.db")) as opened:
        yield opened


def event(number: int, tenant: str = "acme") -> UsageEvent:
    return UsageEvent(
        id=f"e-{number}",
        source="/gateway/1",
        tenant=tenant,
        time=datetime(2026, 11, 1, tzinfo=UTC),
        application="assistant",
        model="atlas-large",
        provider="atlas",
    )


def ids(log: SqliteLog) -> dict[str, list[str]]:
    """Ids in the log by key, in log order."""
    found: dict[str, list[str]] = {}
    for partition in range(log.partitions(USAGE_EVENTS)):
        run = log.read(USAGE_EVENTS, partition, 0, 1_000_000)
        for key, value in zip(run.keys, run.values, strict=True):
            assert key is not None
            assert value is not None
            parsed = json.loads(value)
            for item in parsed if isinstance(parsed, list) else [parsed]:
                assert item["subject"].encode() == key
                found.setdefault(key.decode(), []).append(item["id"])
    return found


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.001)


# --- publishing ------------------------------------------------------------------------------------------------------


def test_what_was_published_is_in_the_log_after_a_flush(log: TroubledLog) -> None:
    with Publisher(log) as publisher:
        assert all(publisher.publish(event(i, f"tenant-{i % 3}")) for i in range(30))
        publisher.flush(DEADLINE_S)
        assert ids(log) == {f"tenant-{t}": [f"e-{i}" for i in range(t, 30, 3)] for t in range(3)}
        counts = publisher.counts
        assert replace(counts, batches=0) == PublisherCounts(published=30, delivered=30)
        assert 3 <= counts.batches <= 30


def test_events_that_come_together_share_a_record(log: TroubledLog) -> None:
    limits = PublisherLimits(linger_s=NEVER_LINGERS_OUT_S, max_batch_events=10)
    with Publisher(log, limits=limits) as publisher:
        for i in range(25):
            publisher.publish(event(i))
        publisher.flush(DEADLINE_S)
        assert publisher.counts.batches == 3
    assert sum(log.end_offsets(USAGE_EVENTS).values()) == 3


def test_an_event_does_not_linger_for_long(log: TroubledLog) -> None:
    with Publisher(log, limits=PublisherLimits(linger_s=0.005)) as publisher:
        publisher.publish(event(1))
        wait_for(lambda: publisher.counts.delivered == 1)


def test_closing_delivers_what_is_pending(log: TroubledLog) -> None:
    publisher = Publisher(log, limits=PublisherLimits(linger_s=NEVER_LINGERS_OUT_S))
    for i in range(5):
        publisher.publish(event(i))
    publisher.close(DEADLINE_S)
    assert ids(log) == {"acme": [f"e-{i}" for i in range(5)]}
    assert publisher.publish(event(5)) is False
    assert publisher.counts.refused == 1
    publisher.close()


def test_publishing_does_not_wait_for_the_log_and_refuses_when_the_buffer_is_full(log: TroubledLog) -> None:
    log.gate.clear()
    size = len(to_json(event(0)))
    with Publisher(log, limits=PublisherLimits(max_pending_bytes=size * 4, linger_s=0.0)) as publisher:
        taken = [publisher.publish(event(i)) for i in range(6)]
        assert taken == [True] * 4 + [False] * 2
        assert publisher.counts == PublisherCounts(published=4, refused=2, pending=4, pending_bytes=4 * size)
        log.gate.set()
        publisher.flush(DEADLINE_S)
        assert publisher.counts.pending_bytes == 0
        assert publisher.publish(event(6))
    assert ids(log) == {"acme": ["e-0", "e-1", "e-2", "e-3", "e-6"]}


def test_an_event_that_may_not_be_sent_is_refused_to_its_caller(log: TroubledLog) -> None:
    with Publisher(log) as publisher:
        with pytest.raises(ValueError, match="no time zone"):
            publisher.publish(replace(event(1), time=datetime(2026, 11, 1)))  # noqa: DTZ001 - the mistake under test
        assert publisher.counts == PublisherCounts()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(0, 60), min_size=2, max_size=5), max_batch_events=st.integers(1, 20))
def test_threads_lose_nothing_and_each_keeps_its_order(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], max_batch_events: int
) -> None:
    log = TroubledLog(tmp_path_factory.mktemp("log") / "log.db")
    together = threading.Barrier(len(sizes))

    def work(thread: int) -> None:
        together.wait()
        for i in range(sizes[thread]):
            assert publisher.publish(event(thread * 1_000 + i))

    with closing(log), Publisher(log, limits=PublisherLimits(max_batch_events=max_batch_events)) as publisher:
        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(len(sizes))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        publisher.flush(DEADLINE_S)
        there = [int(id_.removeprefix("e-")) for id_ in ids(log).get("acme", [])]
    assert {t: [n % 1_000 for n in there if n // 1_000 == t] for t in range(len(sizes))} == {
        t: list(range(size)) for t, size in enumerate(sizes)
    }


# --- trouble ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [LogUnavailable("away"), LogFull("full")])
def test_passing_trouble_is_tried_again_with_the_same_events(log: TroubledLog, error: LogError) -> None:
    log.trouble = lambda messages: error if log.appends <= 3 else None
    with Publisher(log, limits=PublisherLimits(retries=FAST)) as publisher:
        publisher.publish(event(1))
        publisher.flush(DEADLINE_S)
        assert publisher.counts == PublisherCounts(published=1, delivered=1, batches=1, retries=3)
    assert ids(log) == {"acme": ["e-1"]}


def test_a_flush_whose_time_is_up_says_what_is_pending_and_why(log: TroubledLog) -> None:
    log.trouble = lambda messages: LogUnavailable("the disk is away")
    publisher = Publisher(log, limits=PublisherLimits(retries=FAST))
    publisher.publish(event(1))
    wait_for(lambda: publisher.counts.retries > 0)
    with pytest.raises(NotDelivered, match=r"1 events are not in the log yet \(the disk is away\)"):
        publisher.flush(0.01)
    log.trouble = lambda messages: None
    publisher.close(DEADLINE_S)
    assert ids(log) == {"acme": ["e-1"]}


def test_trouble_that_lasts_gives_the_events_back(log: TroubledLog) -> None:
    deliveries: list[Delivery] = []
    log.trouble = lambda messages: LogUnavailable("away")
    limits = PublisherLimits(retries=replace(FAST, for_s=0.02))
    with Publisher(log, limits=limits, on_delivery=deliveries.append) as publisher:
        publisher.publish(event(1))
        with pytest.raises(NotDelivered, match=r"1 events were given up \(away\)"):
            publisher.flush(DEADLINE_S)
        publisher.flush(DEADLINE_S)  # told once
        wait_for(lambda: len(deliveries) == 1)
        assert (publisher.counts.failed, publisher.counts.pending_bytes) == (1, 0)
    [delivery] = deliveries
    assert (delivery.message.value, delivery.events) == (to_json(event(1)), 1)
    assert isinstance(delivery.error, LogUnavailable)
    assert ids(log) == {}


def test_closing_while_the_log_is_away_ends_in_time_and_says_so(log: TroubledLog) -> None:
    log.trouble = lambda messages: LogUnavailable("away")
    publisher = Publisher(log)
    publisher.publish(event(1))
    wait_for(lambda: publisher.counts.retries > 0)
    began = time.monotonic()
    with pytest.raises(NotDelivered, match="1 events were given up"):
        publisher.close(0.01)
    assert time.monotonic() - began < 5.0
    assert not publisher._thread.is_alive()


def test_a_record_that_the_log_refuses_for_good_fails_alone(log: TroubledLog) -> None:
    deliveries: list[Delivery] = []
    log.trouble = lambda messages: LogError("bad") if any(m.key == b"bad" for m in messages) else None
    limits = PublisherLimits(linger_s=NEVER_LINGERS_OUT_S)
    with Publisher(log, limits=limits, on_delivery=deliveries.append) as publisher:
        for tenant in ("a", "bad", "c"):
            publisher.publish(event(1, tenant))
            publisher.publish(event(2, tenant))
        with pytest.raises(NotDelivered, match="2 events were given up"):
            publisher.flush(DEADLINE_S)
        assert (publisher.counts.delivered, publisher.counts.failed) == (4, 2)
    assert ids(log) == {"a": ["e-1", "e-2"], "c": ["e-1", "e-2"]}
    assert [(d.message.key, d.events, d.error is None) for d in deliveries] == [
        (b"a", 2, True),
        (b"bad", 2, False),
        (b"c", 2, True),
    ]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_defect_in_the_callback_stops_the_publisher_loudly(log: TroubledLog) -> None:
    def broken(delivery: Delivery) -> None:
        raise RuntimeError("a defect")

    publisher = Publisher(log, on_delivery=broken)
    publisher.publish(event(1))
    publisher._thread.join(DEADLINE_S)
    assert publisher.publish(event(2)) is False
    publisher.close()  # the event itself was delivered


# --- appending at once -----------------------------------------------------------------------------------------------


def encoded(number: int, tenant: str = "acme", appended_us: int | None = None) -> Encoded:
    return Encoded(tenant, to_json(event(number, tenant)), appended_us)


def test_append_events_groups_by_tenant_and_keeps_order(log: TroubledLog) -> None:
    done = append_events(log, (encoded(i, f"t{i % 2}") for i in range(50)), max_batch_events=10)
    assert done == Appended(events=50, records=6)
    assert ids(log) == {f"t{t}": [f"e-{i}" for i in range(t, 50, 2)] for t in range(2)}


def test_append_events_of_nothing_appends_nothing(log: TroubledLog) -> None:
    assert append_events(log, []) == Appended(0, 0)
    assert log.appends == 0


def test_append_events_keeps_the_time_that_it_is_told(log: TroubledLog) -> None:
    append_events(log, [encoded(1, appended_us=5), encoded(2, appended_us=7)])
    [run] = [run for p in range(2) if (run := log.read(USAGE_EVENTS, p, 0, 10))]
    assert list(run.appended_us) == [7]


def test_append_events_goes_in_several_steps_when_there_is_much(
    log: TroubledLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher_module, "APPEND_BYTES", 1_000)
    append_events(log, (encoded(i) for i in range(100)), max_batch_events=1)
    assert 10 < log.appends < 50
    assert ids(log) == {"acme": [f"e-{i}" for i in range(100)]}


def test_append_events_passes_the_logs_errors_on(log: TroubledLog) -> None:
    log.trouble = lambda messages: LogFull("full")
    with pytest.raises(LogFull):
        append_events(log, [encoded(1)])


def test_ids_are_uuids_of_version_seven_in_order_of_time() -> None:
    made = [new_id() for _ in range(1_000)]
    assert {UUID(id_).version for id_ in made} == {7}
    assert made == sorted(made)
    assert len(set(made)) == 1_000
