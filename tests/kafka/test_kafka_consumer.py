"""Consumers of a group on a real broker: partitions come and go, and nothing is skipped or read twice by it."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from meterhouse.ingest import kafka_consumer
from meterhouse.ingest.kafka_client import KafkaSettings
from meterhouse.ingest.kafka_log import KafkaLog
from meterhouse.ingest.log import Headers, LogError, LogUnavailable, Message, TopicSpec
from tests.kafka.logs import DEADLINE_S, SESSION_S, Group, append_each, await_that, new_topic

ALL = {0, 1, 2, 3}


@pytest.fixture
def log(kafka_bootstrap: str) -> Iterator[KafkaLog]:
    with closing(KafkaLog(kafka_bootstrap)) as opened:
        yield opened


@pytest.fixture
def group(kafka_bootstrap: str, log: KafkaLog) -> Group:
    return Group(kafka_bootstrap, new_topic(log, partitions=4))


def test_partitions_move_to_who_joins_and_back_and_each_record_is_read_once(log: KafkaLog, group: Group) -> None:
    append_each(log, group.topic, 4, each=300)
    with closing(group.join()) as first:
        await_that(lambda: bool(first.poll(max_records=50)))
        with closing(group.join()) as second:
            await_that(
                lambda: not second.poll(max_records=7) and not first.poll(max_records=7) and len(second.owned) == 2
            )
            assert first.owned | second.owned == ALL
            assert [len(gone) for gone in first.revoked] == [2]
            append_each(log, group.topic, 4, each=10)
            await_that(lambda: bool(first.poll() + second.poll()) and group.offsets_read() == 4 * 310)
        append_each(log, group.topic, 4, each=10)
        await_that(lambda: bool(first.poll()) and group.offsets_read() == 4 * 320)
        assert first.owned == ALL
    assert group.read == {p: list(range(320)) for p in range(4)}


def test_a_member_that_does_not_poll_is_told_that_its_partitions_are_lost(log: KafkaLog, group: Group) -> None:
    group.settings = KafkaSettings(session_timeout_s=SESSION_S, max_poll_s=SESSION_S)
    group.has_fence = True
    append_each(log, group.topic, 4, each=10)
    with closing(group.join()) as stuck, closing(group.join()) as other:
        await_that(lambda: bool(stuck.poll()) or len(stuck.owned) == 2)
        await_that(lambda: other.poll() == [] and other.owned == ALL)  # `stuck` does nothing meanwhile
        held = frozenset(stuck.owned)
        append_each(log, group.topic, 4, each=10)
        await_that(lambda: not stuck.poll() and held <= frozenset().union(*stuck.revoked))
        await_that(lambda: stuck.poll() + other.poll() == [] and group.offsets_read() == 4 * 20)
    assert group.read == {p: list(range(20)) for p in range(4)}


def test_what_on_assign_raises_reaches_the_caller_and_it_is_asked_again(log: KafkaLog, group: Group) -> None:
    append_each(log, group.topic, 4, each=1)
    answers: list[Exception] = [LogUnavailable("the lake is away"), LogUnavailable("and still is")]

    def on_assign(added: frozenset[int]) -> dict[int, int]:
        if answers:
            raise answers.pop(0)
        return dict.fromkeys(added, 0)

    members = KafkaLog(group.bootstrap, group=group.name)
    with closing(members), closing(members.consumer(group.topic, on_assign=on_assign)) as consumer:
        for said in ("the lake is away", "and still is"):
            with pytest.raises(LogUnavailable, match=said):
                await_that(lambda: bool(consumer.poll(10, 0.1)))
            assert consumer.assignment() == frozenset()
        seen: list[int] = []
        await_that(lambda: seen.extend(run.partition for run in consumer.poll(10, 0.1)) or len(seen) == 4)  # type: ignore[func-returns-value]
        assert sorted(seen) == [0, 1, 2, 3]


def test_what_on_revoke_raises_reaches_the_caller_and_no_record_is_lost_by_it(log: KafkaLog, group: Group) -> None:
    append_each(log, group.topic, 4, each=2_000)
    with closing(group.join()) as first:
        await_that(lambda: bool(first.poll(max_records=1)))
        first.on_revoke = lambda gone: (_ for _ in ()).throw(LogUnavailable("the lake is away"))
        with closing(group.join()) as second:
            with pytest.raises(LogUnavailable, match="the lake is away"):
                await_that(lambda: not second.poll(0.0, 20) and not first.poll(0.01, 20) and False)
            assert len(first.owned) == 2
            await_that(lambda: first.poll() + second.poll() == [] and group.offsets_read() == 8_000)
    assert group.read == {p: list(range(2_000)) for p in range(4)}


def test_after_a_seek_nothing_from_before_it_is_returned(log: KafkaLog, group: Group) -> None:
    append_each(log, group.topic, 4, each=3_000)
    rng = random.Random(7)
    with closing(group.join()) as member:
        await_that(lambda: bool(member.poll(max_records=1)) and member.owned == ALL)
        for _ in range(30):
            partition, offset = rng.randrange(4), rng.randrange(3_000)
            member.consumer.seek(partition, offset)
            group.positions[partition] = offset
            # `poll` insists that each run begins where the group stands.
            await_that(
                lambda p=partition: p in {run.partition for run in member.poll(max_records=rng.randrange(1, 400))}
            )  # type: ignore[misc]


def test_a_removed_record_stops_the_reader_with_what_to_do(log: KafkaLog, group: Group) -> None:
    append_each(log, group.topic, 4, each=10)
    admin = AdminClient({"bootstrap.servers": group.bootstrap, "log_level": 0})
    place = TopicPartition(group.topic, 1, 5)
    admin.delete_records([place])[place].result(DEADLINE_S)
    assert log.begin_offsets(group.topic) == {0: 0, 1: 5, 2: 0, 3: 0}
    assert list(log.read(group.topic, 1, 0, 3).offsets) == [5, 6, 7]

    group.positions[1] = 2
    with closing(group.join()) as member:
        for _ in range(2):  # it is not skipped by trying again
            with pytest.raises(LogError, match=r"partition 1: records 2 to 4 were removed .* read from 5"):
                await_that(lambda: member.poll() is None)
        member.consumer.seek(1, 5)
        group.positions[1] = 5
        await_that(lambda: member.poll() == [] and group.offsets_read() == 35)
    assert group.read[1] == [5, 6, 7, 8, 9]


def test_a_position_beyond_the_end_is_not_the_log_that_was_read_before(log: KafkaLog, group: Group) -> None:
    append_each(log, group.topic, 4, each=3)
    group.positions[2] = 9
    with closing(group.join()) as member, pytest.raises(LogError, match=r"partition 2: offset 9 .* ends at 3"):
        await_that(lambda: member.poll() is None)


def test_a_poll_is_bounded_by_bytes(log: KafkaLog, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_consumer, "POLL_BYTES", 1_000_000)
    monkeypatch.setattr(kafka_consumer, "CHUNK_RECORDS", 4)
    log.append(group.topic, [Message(None, bytes(300_000), partition=0) for _ in range(20)])
    with closing(group.join()) as member:
        polls: list[int] = []
        await_that(lambda: polls.append(sum(map(len, member.poll()))) or sum(polls) == 20)  # type: ignore[func-returns-value]
    assert max(polls) <= 1 + 4  # the one that was waited for, and a chunk that passes the limit: it is the last


def test_members_take_up_partitions_that_are_added(log: KafkaLog, group: Group) -> None:
    with closing(group.join()) as first, closing(group.join()) as second:
        await_that(lambda: first.poll() + second.poll() == [] and len(first.owned) == len(second.owned) == 2)
        log.create_topics([TopicSpec(group.topic, 6)])
        append_each(log, group.topic, 6, each=5)
        await_that(lambda: first.poll() + second.poll() == [] and group.offsets_read() == 30)
        assert len(first.owned) == len(second.owned) == 3
    assert group.read == {p: list(range(5)) for p in range(6)}


def test_a_header_name_that_is_no_text_keeps_nobody_from_its_record_or_the_next(
    kafka_bootstrap: str, log: KafkaLog, group: Group
) -> None:
    sent = ["a" * 500, "b" * 500, "c" * 500]  # a client compresses only what gets smaller by it
    command = [sys.executable, "-m", "tests.kafka.send_with_a_broken_header", kafka_bootstrap, group.topic, *sent]
    subprocess.run(command, check=True, timeout=DEADLINE_S)
    read: list[tuple[bytes | None, Headers]] = []
    with closing(log.consumer(group.topic, on_assign=lambda partitions: dict.fromkeys(partitions, 0))) as consumer:

        def all_is_read() -> bool:
            for run in consumer.poll(10, 0.5):
                read.extend(zip(run.values, run.headers, strict=True))
            return len(read) >= len(sent)

        await_that(all_is_read)
    assert [value for value, _ in read] == [value.encode() for value in sent]
    assert [headers for _, headers in read] == [(), (("sound", b"1"),), ()]
