"""The contract of the EventLog port, run on every twin of `event_logs.STORES`.

Written so that a distributed log can keep it: partitions may be assigned late and piecemeal, offsets of a compacted
topic may have gaps, records of different partitions come in any order, and whatever is awaited has a deadline.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meterhouse.ingest.log import (
    CONTENT_TYPE,
    STRUCTURED,
    Consumer,
    EventLog,
    Headers,
    LogError,
    Message,
    Records,
    TopicSpec,
    partition_of,
)
from tests.contracts.event_logs import STORES, Store

DEADLINE_S = 30.0

Row = tuple[int, bytes | None, bytes | None, Headers]
"""offset, key, value, headers"""


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return STORES[request.param](tmp_path, request)


@pytest.fixture
def log(store: Store) -> Iterator[EventLog]:
    with closing(store.open()) as opened:
        yield opened


@pytest.fixture
def topic(store: Store, log: EventLog) -> str:
    """A topic of four partitions."""
    return make_topic(store, log, partitions=4)


def make_topic(store: Store, log: EventLog, *, partitions: int, compacted: bool = False) -> str:
    name = store.new_topic()
    log.create_topics([TopicSpec(name, partitions, compacted=compacted)])
    return name


def start_at(start: int | Mapping[int, int] = 0) -> Callable[[frozenset[int]], Mapping[int, int]]:
    return lambda added: {p: start if isinstance(start, int) else start[p] for p in added}


@dataclass
class Seen:
    """What consumers have given so far."""

    rows: dict[int, list[Row]] = field(default_factory=dict)

    def add(self, runs: list[Records]) -> int:
        for run in runs:
            rows = zip(run.offsets, run.keys, run.values, run.headers, strict=True)
            self.rows.setdefault(run.partition, []).extend(rows)
        return sum(map(len, runs))

    def __len__(self) -> int:
        return sum(map(len, self.rows.values()))

    def values(self, partition: int) -> list[bytes | None]:
        return [value for _, _, value, _ in self.rows.get(partition, [])]

    def all_values(self) -> list[bytes | None]:
        return [value for partition in sorted(self.rows) for value in self.values(partition)]


def poll_until(consumer: Consumer, done: Callable[[Seen], bool], *, max_records: int = 1_000) -> Seen:
    seen = Seen()
    deadline = time.monotonic() + DEADLINE_S
    while not done(seen):
        assert time.monotonic() < deadline, f"after {DEADLINE_S} s only {seen}"
        assert seen.add(consumer.poll(max_records, 0.1)) <= max_records
    return seen


def read_back(log: EventLog, topic: str, count: int) -> Seen:
    with closing(log.consumer(topic, on_assign=start_at())) as consumer:
        return poll_until(consumer, lambda seen: len(seen) >= count)


# --- topics ----------------------------------------------------------------------------------------------------------


def test_a_new_topic_has_its_partitions_and_no_records(log: EventLog, topic: str) -> None:
    assert log.partitions(topic) == 4
    assert log.begin_offsets(topic) == log.end_offsets(topic) == {0: 0, 1: 0, 2: 0, 3: 0}


def test_creating_a_topic_again_changes_nothing(log: EventLog, topic: str) -> None:
    log.append(topic, [Message(b"a", b"1")])
    log.create_topics([TopicSpec(topic, 4)])
    assert log.partitions(topic) == 4
    assert sum(log.end_offsets(topic).values()) == 1


def test_a_topic_cannot_lose_partitions(log: EventLog, topic: str) -> None:
    with pytest.raises(LogError, match="4 partitions"):
        log.create_topics([TopicSpec(topic, 3)])
    assert log.partitions(topic) == 4


def test_using_an_unknown_topic_is_an_error_that_names_it(log: EventLog, store: Store) -> None:
    name = store.new_topic()
    with pytest.raises(LogError, match=name):
        log.append(name, [Message(b"a", b"1")])
    with pytest.raises(LogError, match=name):
        log.partitions(name)


def test_new_partitions_are_assigned_and_read_from_where_the_reader_says(log: EventLog, topic: str) -> None:
    assigned: list[int] = []

    def on_assign(added: frozenset[int]) -> Mapping[int, int]:
        assigned.extend(sorted(added))
        return dict.fromkeys(added, 0)

    with closing(log.consumer(topic, on_assign=on_assign)) as consumer:
        log.append(topic, [Message(None, b"old", partition=p) for p in range(4)])
        poll_until(consumer, lambda seen: len(seen) == 4)
        log.create_topics([TopicSpec(topic, 6)])
        assert log.partitions(topic) == 6
        log.append(topic, [Message(None, b"new", partition=p) for p in range(6)])
        seen = poll_until(consumer, lambda seen: len(seen) == 6)
        assert seen.rows == {p: [(1 if p < 4 else 0, None, b"new", ())] for p in range(6)}
        assert consumer.assignment() == frozenset(range(6))
    assert sorted(set(assigned)) == [0, 1, 2, 3, 4, 5]


def test_a_key_lives_where_partition_of_says_after_growth_too(log: EventLog, topic: str) -> None:
    log.create_topics([TopicSpec(topic, 7)])
    keys = [f"tenant-{i}".encode() for i in range(40)]
    places = log.append(topic, [Message(key, b"x") for key in keys])
    assert [partition for partition, _ in places] == [partition_of(key, 7) for key in keys]


# --- appending and reading -------------------------------------------------------------------------------------------


def test_append_returns_where_each_record_is(log: EventLog, topic: str) -> None:
    keys = [f"tenant-{i % 9}".encode() for i in range(30)]
    places = log.append(topic, [Message(key, b"%d" % i) for i, key in enumerate(keys)])
    assert [partition for partition, _ in places] == [partition_of(key, 4) for key in keys]
    for i, (partition, offset) in enumerate(places):
        run = log.read(topic, partition, offset, 1)
        assert (list(run.offsets), list(run.keys), list(run.values)) == ([offset], [keys[i]], [b"%d" % i])


def test_each_partition_is_read_in_the_order_of_its_appends(log: EventLog, topic: str) -> None:
    for start in range(0, 60, 20):
        log.append(topic, [Message(None, b"%d" % i, partition=i % 4) for i in range(start, start + 20)])
    seen = read_back(log, topic, 60)
    assert {p: seen.values(p) for p in range(4)} == {p: [b"%d" % i for i in range(p, 60, 4)] for p in range(4)}
    for rows in seen.rows.values():
        offsets = [offset for offset, *_ in rows]
        assert offsets == sorted(set(offsets))


def test_a_stated_partition_wins_over_the_key(log: EventLog, topic: str) -> None:
    elsewhere = (partition_of(b"acme", 4) + 1) % 4
    assert [p for p, _ in log.append(topic, [Message(b"acme", b"x", partition=elsewhere)])] == [elsewhere]


def test_a_partition_that_does_not_exist_refuses_the_whole_append(log: EventLog, topic: str) -> None:
    with pytest.raises(LogError):
        log.append(topic, [Message(b"a", b"x"), Message(b"a", b"x", partition=4)])
    assert sum(log.end_offsets(topic).values()) == 0


def test_appending_nothing_is_nothing(log: EventLog, topic: str) -> None:
    assert log.append(topic, []) == []


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    records=st.lists(
        st.tuples(
            st.one_of(st.none(), st.binary(min_size=1, max_size=20)),
            st.one_of(st.none(), st.binary(max_size=200)),
            st.lists(st.tuples(st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1), st.binary())),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_keys_values_and_headers_come_back_as_they_went_in(
    log: EventLog, store: Store, records: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]]
) -> None:
    topic = make_topic(store, log, partitions=1)
    messages = [Message(key, value, tuple(headers)) for key, value, headers in records]
    log.append(topic, messages)
    assert [(key, value, headers) for _, key, value, headers in read_back(log, topic, len(messages)).rows[0]] == [
        (message.key, message.value, message.headers) for message in messages
    ]


def test_a_content_type_comes_back(log: EventLog, topic: str) -> None:
    headers = ((CONTENT_TYPE, STRUCTURED.encode()),)
    log.append(topic, [Message(b"a", b"{}", headers)])
    [[(_, key, value, read)]] = read_back(log, topic, 1).rows.values()
    assert (key, value, read) == (b"a", b"{}", headers)


def test_a_stated_time_comes_back_and_others_get_the_logs(log: EventLog, topic: str) -> None:
    past_us = 1_700_000_000_123_000  # whole milliseconds: Kafka keeps no finer
    log.append(topic, [Message(None, b"past", appended_us=past_us), Message(None, b"now")])
    run = log.read(topic, 0, 0, 10)
    assert run.appended_us[0] == past_us
    assert run.appended_us[1] > past_us


def test_a_record_far_above_the_event_limit_comes_back_whole(log: EventLog, topic: str) -> None:
    value = bytes(range(256)) * 3_000  # 750 KiB
    log.append(topic, [Message(b"a", value)])
    assert read_back(log, topic, 1).all_values() == [value]


def test_what_one_instance_appends_another_reads(store: Store, log: EventLog, topic: str) -> None:
    log.append(topic, [Message(b"a", b"1")])
    with closing(store.open("b")) as other:
        assert read_back(other, topic, 1).all_values() == [b"1"]


def test_records_survive_closing_and_opening(store: Store, log: EventLog, topic: str) -> None:
    log.append(topic, [Message(b"a", b"1"), Message(b"a", b"2")])
    log.close()
    with closing(store.open()) as again:
        assert read_back(again, topic, 2).all_values() == [b"1", b"2"]
        [(_, offset)] = again.append(topic, [Message(b"a", b"3")])
        assert offset >= 2


def test_begin_and_end_frame_what_is_there(log: EventLog, topic: str) -> None:
    places = log.append(topic, [Message(None, b"x", partition=p) for p in (1, 1, 1, 3)])
    assert log.begin_offsets(topic) == {0: 0, 1: 0, 2: 0, 3: 0}
    assert log.end_offsets(topic) == {0: 0, 1: 3, 2: 0, 3: 1}
    assert places == [(1, 0), (1, 1), (1, 2), (3, 0)]


def test_read_takes_a_bounded_run_from_the_middle(log: EventLog, topic: str) -> None:
    log.append(topic, [Message(None, b"%d" % i, partition=2) for i in range(10)])
    run = log.read(topic, 2, 4, 3)
    assert (run.topic, run.partition, list(run.offsets), list(run.values)) == (topic, 2, [4, 5, 6], [b"4", b"5", b"6"])
    assert run.next_offset == 7


def test_reading_at_the_end_gives_an_empty_run(log: EventLog, topic: str) -> None:
    log.append(topic, [Message(None, b"x", partition=2)])
    run = log.read(topic, 2, 1, 10)
    assert (len(run), list(run.values), list(run.headers)) == (0, [], [])


# --- consumers -------------------------------------------------------------------------------------------------------


def test_a_consumer_starts_where_it_is_told(log: EventLog, topic: str) -> None:
    log.append(topic, [Message(None, b"%d" % i, partition=i % 4) for i in range(20)])
    starts = {0: 0, 1: 2, 2: 5, 3: 4}
    with closing(log.consumer(topic, on_assign=start_at(starts))) as consumer:
        seen = poll_until(consumer, lambda seen: len(seen) == 5 + 3 + 0 + 1)
        assert [[offset for offset, *_ in seen.rows.get(p, [])] for p in range(4)] == [
            list(range(starts[p], 5)) for p in range(4)
        ]
        assert consumer.poll(10, 0.05) == []


def test_every_partition_is_assigned_once(log: EventLog, topic: str) -> None:
    calls: list[frozenset[int]] = []

    def on_assign(added: frozenset[int]) -> Mapping[int, int]:
        calls.append(added)
        return dict.fromkeys(added, 0)

    log.append(topic, [Message(None, b"x", partition=p) for p in range(4)])
    with closing(log.consumer(topic, on_assign=on_assign)) as consumer:
        poll_until(consumer, lambda seen: len(seen) == 4)
        assert consumer.assignment() == frozenset(range(4))
    assert sorted(partition for call in calls for partition in call) == [0, 1, 2, 3]


def test_on_assign_may_ask_the_log(log: EventLog, topic: str) -> None:
    log.append(topic, [Message(None, b"old", partition=p) for p in range(4)])
    with closing(log.consumer(topic, on_assign=lambda added: log.end_offsets(topic))) as consumer:
        assert poll_until(consumer, lambda seen: len(consumer.assignment()) == 4).rows == {}
        log.append(topic, [Message(None, b"new", partition=1)])
        assert poll_until(consumer, lambda seen: len(seen) > 0).rows == {1: [(1, None, b"new", ())]}


def test_a_consumer_seeks_back_and_forth(log: EventLog, topic: str) -> None:
    log.append(topic, [Message(None, b"%d" % i, partition=1) for i in range(8)])
    with closing(log.consumer(topic, on_assign=start_at())) as consumer:
        poll_until(consumer, lambda seen: len(seen) == 8)
        consumer.seek(1, 2)
        assert poll_until(consumer, lambda seen: len(seen) == 6).values(1) == [b"2", b"3", b"4", b"5", b"6", b"7"]
        consumer.seek(1, 0)
        consumer.seek(1, 7)
        assert poll_until(consumer, lambda seen: len(seen) == 1).values(1) == [b"7"]
        assert consumer.poll(10, 0.05) == []


def test_seeking_a_partition_that_is_not_assigned_is_an_error(log: EventLog, topic: str) -> None:
    with closing(log.consumer(topic, on_assign=start_at())) as consumer, pytest.raises(LogError):
        consumer.seek(9, 0)


@pytest.mark.parametrize("max_records", [1, 3, 7])
def test_small_polls_reach_every_partition_and_lose_nothing(log: EventLog, topic: str, max_records: int) -> None:
    log.append(topic, [Message(None, b"%d" % i, partition=p) for p, n in ((0, 30), (1, 2), (3, 9)) for i in range(n)])
    with closing(log.consumer(topic, on_assign=start_at())) as consumer:
        seen = poll_until(consumer, lambda seen: len(seen) == 41, max_records=max_records)
    assert {p: seen.values(p) for p in (0, 1, 3)} == {
        p: [b"%d" % i for i in range(n)] for p, n in ((0, 30), (1, 2), (3, 9))
    }


def test_an_empty_poll_returns_when_its_time_is_up(log: EventLog, topic: str) -> None:
    with closing(log.consumer(topic, on_assign=start_at())) as consumer:
        poll_until(consumer, lambda seen: len(consumer.assignment()) == 4)
        began = time.monotonic()
        assert consumer.poll(10, 0.1) == []
        assert 0.09 <= time.monotonic() - began < 5.0
        assert consumer.poll(10, 0.0) == []


def test_a_waiting_poll_sees_a_new_record(log: EventLog, topic: str) -> None:
    with closing(log.consumer(topic, on_assign=start_at())) as consumer:
        poll_until(consumer, lambda seen: len(consumer.assignment()) == 4)
        thread = threading.Thread(target=log.append, args=(topic, [Message(b"a", b"1")]))
        thread.start()
        assert poll_until(consumer, lambda seen: len(seen) == 1).all_values() == [b"1"]
        thread.join()


def test_consumers_of_two_instances_each_read_everything(store: Store, log: EventLog, topic: str) -> None:
    log.append(topic, [Message(None, b"%d" % i, partition=i % 4) for i in range(40)])
    with ExitStack() as stack:
        other = stack.enter_context(closing(store.open("b")))
        consumers = [stack.enter_context(closing(it.consumer(topic, on_assign=start_at()))) for it in (log, other)]
        seen = [poll_until(consumer, lambda seen: len(seen) == 40, max_records=7) for consumer in consumers]
    assert seen[0].rows == seen[1].rows


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=6), min_size=2, max_size=6))
def test_appends_of_many_threads_are_all_there_once_in_the_order_of_each_thread(
    log: EventLog, store: Store, sizes: list[list[int]]
) -> None:
    """`sizes`: per thread, how many records each of its appends has."""
    topic = make_topic(store, log, partitions=2)
    places: list[list[tuple[int, int]]] = [[] for _ in sizes]
    together = threading.Barrier(len(sizes))

    def work(thread: int) -> None:
        together.wait()
        number = 0
        for size in sizes[thread]:
            messages = [Message(None, b"%d:%d" % (thread, number + i), partition=(number + i) % 2) for i in range(size)]
            places[thread] += log.append(topic, messages)
            number += size

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(len(sizes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    seen = read_back(log, topic, sum(map(sum, sizes)))
    at = {(partition, offset): value for partition, rows in seen.rows.items() for offset, _, value, _ in rows}
    assert {place: b"%d:%d" % (t, i) for t, own in enumerate(places) for i, place in enumerate(own)} == at
    for own in places:
        for partition in (0, 1):
            offsets = [offset for p, offset in own if p == partition]
            assert offsets == sorted(offsets)


# --- compaction ------------------------------------------------------------------------------------------------------


def test_the_newest_record_of_each_key_stays(store: Store, log: EventLog) -> None:
    topic = make_topic(store, log, partitions=3, compacted=True)
    newest: dict[bytes, bytes | None] = {}
    for round_ in range(20):
        changed = {b"key-%d" % (i % 7): b"%d" % round_ for i in range(round_, round_ + 3)}
        log.append(topic, [Message(key, value) for key, value in changed.items()])
        newest.update(changed)
    log.append(topic, [Message(b"key-3", None)])
    newest[b"key-3"] = None
    last = {p: end - 1 for p, end in log.end_offsets(topic).items()}

    with closing(log.consumer(topic, on_assign=start_at())) as consumer:
        seen = poll_until(consumer, lambda seen: all(rows_end(seen, p) == last[p] for p in range(3)))
    state = {key: value for p in range(3) for _, key, value, _ in seen.rows.get(p, [])}
    # A log may drop the tombstone, and then the key with it.
    assert {k: v for k, v in state.items() if v is not None} == {k: v for k, v in newest.items() if v is not None}
    for p in range(3):
        offsets = [offset for offset, *_ in seen.rows.get(p, [])]
        assert offsets == sorted(set(offsets))


def rows_end(seen: Seen, partition: int) -> int:
    return seen.rows[partition][-1][0] if seen.rows.get(partition) else -1


def test_a_compacted_topic_refuses_a_record_without_key(store: Store, log: EventLog) -> None:
    topic = make_topic(store, log, partitions=1, compacted=True)
    with pytest.raises(LogError):
        log.append(topic, [Message(b"a", b"1"), Message(None, b"x")])
    assert log.end_offsets(topic) == {0: 0}


# --- closing ---------------------------------------------------------------------------------------------------------


def test_a_closed_log_says_so_and_closing_twice_is_fine(log: EventLog, topic: str) -> None:
    consumer = log.consumer(topic, on_assign=start_at())
    consumer.close()
    consumer.close()
    with pytest.raises(LogError, match="closed"):
        consumer.poll(1, 0.0)
    log.close()
    log.close()
    with pytest.raises(LogError, match="closed"):
        log.append(topic, [Message(b"a", b"1")])
    with pytest.raises(LogError, match="closed"):
        log.end_offsets(topic)
