"""What the SQLite log promises beyond the port: crashes, processes, limits, retention, fairness."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterhouse.ingest import sqlite_consumer, sqlite_file
from meterhouse.ingest.log import BATCH, CONTENT_TYPE, LogError, LogFull, LogUnavailable, Message, Records, TopicSpec
from meterhouse.ingest.log_limits import MAX_APPEND_BYTES, MAX_KEY_BYTES, MAX_RECORD_BYTES
from meterhouse.ingest.sqlite_consumer import SqliteConsumer, fair_shares
from meterhouse.ingest.sqlite_log import TOMBSTONE_US, SqliteLog
from tests.builders import DAY_US, HOUR_US, T0_US

DEADLINE_S = 30.0
TOPIC = "usage.events"


@dataclass
class Clock:
    now_us: int = T0_US

    def __call__(self) -> int:
        return self.now_us


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


@pytest.fixture
def log(path: Path, clock: Clock) -> Iterator[SqliteLog]:
    with closing(SqliteLog(path, clock=clock)) as opened:
        opened.create_topics([TopicSpec(TOPIC, 2, retention_us=DAY_US)])
        yield opened


def reader(log: SqliteLog, start: int = 0, topic: str = TOPIC) -> SqliteConsumer:
    return log.consumer(topic, on_assign=lambda added: dict.fromkeys(added, start))


def values(runs: list[Records]) -> list[bytes | None]:
    return [value for run in runs for value in run.values]


def fill(log: SqliteLog, count: int, partition: int = 0, value: bytes = b"x") -> None:
    log.append(TOPIC, [Message(None, value, partition=partition) for _ in range(count)])


def append_for_ever(log: SqliteLog, block: list[Message]) -> None:
    for _ in range(1_000):
        log.append(TOPIC, block)


# --- crashes and processes -------------------------------------------------------------------------------------------

APPENDS_FOR_EVER = """
import sys
from meterhouse.ingest.log import Message
from meterhouse.ingest.sqlite_log import SqliteLog

path, name = sys.argv[1:]
log = SqliteLog(path, clock=lambda: 0)
number = 0
while True:
    size = number % 7 + 1
    messages = [Message(None, b"%s:%d:%d:%d" % (name.encode(), number, i, size), partition=i % 2) for i in range(size)]
    places = log.append("usage.events", messages)
    print(number, *(f"{partition}:{offset}" for partition, offset in places), flush=True)
    number += 1
"""


def acknowledged_until_killed(
    child: subprocess.Popen[bytes], name: str, after_s: float
) -> dict[tuple[int, int], bytes]:
    """(partition, offset) → value of what the child said that it had appended."""
    assert child.stdout is not None
    first = child.stdout.readline()  # it is appending now
    threading.Event().wait(after_s)
    child.send_signal(signal.SIGKILL)
    lines = (first + child.communicate()[0]).split(b"\n")[:-1]  # a line without its end was cut by the kill
    said = {}
    for number, *places in map(bytes.split, lines):
        for i, place in enumerate(places):
            partition, offset = map(int, place.split(b":"))
            said[partition, offset] = b"%s:%s:%d:%d" % (name.encode(), number, i, len(places))
    return said


@pytest.mark.crash
def test_a_killed_process_leaves_all_or_nothing_of_each_append_and_all_it_acknowledged(
    log: SqliteLog, path: Path
) -> None:
    """Twelve processes, three at a time, killed at random moments in the middle of appending."""
    chance = random.Random(7)
    acknowledged: dict[tuple[int, int], bytes | None] = {}
    for round_ in range(4):
        names = [f"{round_}-{i}" for i in range(3)]
        children = [
            subprocess.Popen([sys.executable, "-c", APPENDS_FOR_EVER, str(path), name], stdout=subprocess.PIPE)
            for name in names
        ]
        for name, child in zip(names, children, strict=True):
            acknowledged.update(acknowledged_until_killed(child, name, chance.uniform(0.0, 0.1)))

    there: dict[tuple[int, int], bytes | None] = {}
    for partition, end in log.end_offsets(TOPIC).items():
        run = log.read(TOPIC, partition, 0, 1_000_000)
        assert list(run.offsets) == list(range(end))
        there.update({(partition, offset): value for offset, value in zip(run.offsets, run.values, strict=True)})
    assert acknowledged.items() <= there.items()
    assert len(acknowledged) > 100

    parts: dict[tuple[bytes, bytes], list[tuple[int, int]]] = {}
    for value in there.values():
        assert value is not None
        writer, number, i, size = value.split(b":")
        parts.setdefault((writer, number), []).append((int(i), int(size)))
    for found in parts.values():
        assert sorted(found) == [(i, found[0][1]) for i in range(found[0][1])]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


APPENDS_FORTY = """
import sys
from meterhouse.ingest.log import Message, TopicSpec
from meterhouse.ingest.sqlite_log import SqliteLog

path, name = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
log = SqliteLog(path, clock=lambda: 0)
log.create_topics([TopicSpec("new", 2)])
for i in range(40):
    log.append("new", [Message(name.encode(), b"%s:%d" % (name.encode(), i))])
log.close()
"""


def test_processes_that_start_at_once_share_a_new_file_while_one_reads(path: Path) -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", APPENDS_FORTY, str(path), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for name in "abcd"
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write(b"go\n")
        child.stdin.flush()
    seen: dict[bytes, list[int]] = {}
    with closing(SqliteLog(path, clock=lambda: T0_US)) as log:
        log.create_topics([TopicSpec("new", 2)])
        consumer = reader(log, topic="new")
        deadline = time.monotonic() + DEADLINE_S
        while sum(map(len, seen.values())) < 160:
            assert time.monotonic() < deadline, {name: len(numbers) for name, numbers in seen.items()}
            for value in values(consumer.poll(100, 0.1)):
                assert value is not None
                name, number = value.split(b":")
                seen.setdefault(name, []).append(int(number))
    for child in children:
        child.communicate(timeout=DEADLINE_S)
        assert child.returncode == 0
    assert seen == {name: list(range(40)) for name in (b"a", b"b", b"c", b"d")}


def test_a_writer_that_cannot_get_the_lock_says_that_it_will_pass(
    monkeypatch: pytest.MonkeyPatch, path: Path, clock: Clock
) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_S", 0.05)
    with closing(SqliteLog(path, clock=clock)) as log, closing(sqlite3.connect(path, isolation_level=None)) as other:
        log.create_topics([TopicSpec(TOPIC, 1)])
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LogUnavailable, match="try again"):
            fill(log, 1)
        assert log.end_offsets(TOPIC) == {0: 0}  # reading goes on
        other.execute("ROLLBACK")
        fill(log, 1)
        assert log.end_offsets(TOPIC) == {0: 1}


def test_an_append_that_fails_in_a_shared_commit_fails_alone(log: SqliteLog) -> None:
    """Many threads append; those whose topic does not exist must not take the others with them."""
    together = threading.Barrier(8)
    failed: list[str] = []

    def work(thread: int) -> None:
        together.wait()
        for _ in range(20):
            try:
                log.append(TOPIC if thread % 2 else "nowhere", [Message(None, b"x", partition=0)])
            except LogError as error:
                failed.append(str(error))

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == ["there is no topic nowhere: create it first (create_topics)"] * 80
    assert log.end_offsets(TOPIC) == {0: 80, 1: 0}


def test_many_threads_share_commits(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[int] = []
    write = SqliteLog._write
    entered = threading.Event()
    go_on = threading.Event()

    def slow_first(self: SqliteLog, group: list[object]) -> None:
        groups.append(len(group))
        if not entered.is_set():
            entered.set()
            assert go_on.wait(DEADLINE_S)
        write(self, group)  # type: ignore[arg-type]

    monkeypatch.setattr(SqliteLog, "_write", slow_first)
    threads = [threading.Thread(target=fill, args=(log, 1)) for _ in range(9)]
    threads[0].start()
    assert entered.wait(DEADLINE_S)
    for thread in threads[1:]:
        thread.start()
    deadline = time.monotonic() + DEADLINE_S
    while len(log._queue) < 8:
        assert time.monotonic() < deadline
    go_on.set()
    for thread in threads:
        thread.join()
    assert groups == [1, 8]
    assert log.end_offsets(TOPIC) == {0: 9, 1: 0}


def test_every_commit_is_synchronous(log: SqliteLog) -> None:
    assert log._writer.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert log._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)


# --- files -----------------------------------------------------------------------------------------------------------


def test_another_programs_database_is_refused_and_left_as_it_is(path: Path, clock: Clock) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    with pytest.raises(LogError, match="is not a log of this version"):
        SqliteLog(path, clock=clock)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused(path: Path, clock: Clock) -> None:
    path.write_bytes(b"hello" * 1_000)
    with pytest.raises(LogError, match="name another path"):
        SqliteLog(path, clock=clock)


def test_a_missing_folder_is_named(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(LogError, match="check that its folder exists"):
        SqliteLog(tmp_path / "nowhere" / "log.db", clock=clock)


# --- limits ----------------------------------------------------------------------------------------------------------


def test_a_full_log_refuses_the_whole_append_and_takes_it_after_retention(path: Path, clock: Clock) -> None:
    with closing(SqliteLog(path, clock=clock, max_bytes=4 * 1024**2)) as log:
        log.create_topics([TopicSpec(TOPIC, 1, retention_us=HOUR_US)])
        block = [Message(None, bytes(40_000), partition=0) for _ in range(10)]
        with pytest.raises(LogFull, match=r"enforce retention, .* or raise the limit \(max_bytes\)"):
            append_for_ever(log, block)
        end = log.end_offsets(TOPIC)[0]
        assert end % 10 == 0
        assert 80 <= end <= 100
        assert path.stat().st_size <= 4 * 1024**2
        assert log.enforce_retention(clock.now_us + DAY_US, {(TOPIC, 0): end}) == end
        assert log.append(TOPIC, block)[0] == (0, end)


def test_a_record_of_the_largest_size_comes_back_and_one_byte_more_is_refused(log: SqliteLog) -> None:
    key = b"k" * MAX_KEY_BYTES
    largest = bytes(MAX_RECORD_BYTES - MAX_KEY_BYTES)
    [(partition, offset)] = log.append(TOPIC, [Message(key, largest)])
    assert log.read(TOPIC, partition, offset, 1).values[0] == largest
    with pytest.raises(LogError, match="send fewer events"):
        log.append(TOPIC, [Message(b"a", b"fits"), Message(key, largest + b"x")])
    with pytest.raises(LogError, match="use a shorter id"):
        log.append(TOPIC, [Message(key + b"k", b"")])
    assert sum(log.end_offsets(TOPIC).values()) == 1


def test_an_append_beyond_the_limit_of_a_transaction_is_refused(log: SqliteLog) -> None:
    largest = bytes(MAX_RECORD_BYTES)
    with pytest.raises(LogError, match="append in several steps"):
        log.append(TOPIC, [Message(None, largest)] * (MAX_APPEND_BYTES // MAX_RECORD_BYTES))


@pytest.mark.parametrize("spec", [TopicSpec("a topic", 1), TopicSpec("", 1), TopicSpec("a", 0), TopicSpec("a", 1_025)])
def test_a_topic_out_of_bounds_is_refused(log: SqliteLog, spec: TopicSpec) -> None:
    with pytest.raises(LogError):
        log.create_topics([TopicSpec("fine", 1), spec])
    with pytest.raises(LogError, match="no topic fine"):
        log.partitions("fine")


def test_a_poll_ends_with_the_record_that_reaches_its_bytes(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_consumer, "POLL_BYTES", 1_000)
    for partition in (0, 1):
        fill(log, 20, partition, bytes(100))
    consumer = reader(log)
    assert [(run.partition, list(run.offsets)) for run in consumer.poll(1_000, 0)] == [
        (0, [0, 1, 2, 3, 4]),
        (1, [0, 1, 2, 3, 4]),
    ]
    assert sum(len(run) for _ in range(3) for run in consumer.poll(1_000, 0)) == 30


def test_a_record_larger_than_a_polls_bytes_still_comes(log: SqliteLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_consumer, "POLL_BYTES", 1_000)
    for partition in (0, 1):
        fill(log, 2, partition, bytes(5_000))
    consumer = reader(log)
    polls = [[(run.partition, list(run.offsets)) for run in consumer.poll(10, 0)] for _ in range(5)]
    assert polls == [[(0, [0])], [(1, [0])], [(0, [1])], [(1, [1])], []]


# --- fairness --------------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.integers(0, 50), st.integers(1, 1_000), min_size=1, max_size=20), st.integers(20, 5_000))
def test_shares_use_what_there_is_and_no_partition_waits_for_a_larger_one(backlog: dict[int, int], total: int) -> None:
    shares = fair_shares(backlog, total)
    assert shares.keys() == backlog.keys()
    assert sum(shares.values()) == min(total, sum(backlog.values()))
    for partition, share in shares.items():
        assert 1 <= share <= backlog[partition]
        if share < backlog[partition]:
            assert max(shares.values()) - share <= 1


def test_a_long_backlog_does_not_hold_up_a_short_one(log: SqliteLog) -> None:
    fill(log, 1_000, partition=0)
    fill(log, 3, partition=1, value=b"short")
    consumer = reader(log)
    assert [(run.partition, len(run)) for run in consumer.poll(10, 0)] == [(0, 7), (1, 3)]


# --- retention and compaction ----------------------------------------------------------------------------------------


def test_retention_removes_what_is_old_and_committed_and_nothing_else(log: SqliteLog, clock: Clock) -> None:
    for hours in range(4):
        clock.now_us = T0_US + hours * HOUR_US
        fill(log, 10, partition=0)
        fill(log, 10, partition=1)
    now_us = T0_US + DAY_US + 2 * HOUR_US  # records of the first two hours are over a day old; the third's are a day
    assert log.enforce_retention(now_us, {(TOPIC, 0): 40, (TOPIC, 1): 7}) == 27
    assert log.begin_offsets(TOPIC) == {0: 20, 1: 7}
    assert log.end_offsets(TOPIC) == {0: 40, 1: 40}
    assert log.enforce_retention(now_us, {(TOPIC, 0): 40, (TOPIC, 1): 7}) == 0


def test_retention_keeps_all_of_a_partition_that_nobody_names(log: SqliteLog) -> None:
    fill(log, 10)
    assert log.enforce_retention(T0_US + 40 * DAY_US, {("other", 0): 10}) == 0
    assert log.begin_offsets(TOPIC) == {0: 0, 1: 0}


def test_a_topic_without_retention_keeps_everything(log: SqliteLog) -> None:
    log.create_topics([TopicSpec("audit", 1)])
    log.append("audit", [Message(None, b"x")])
    assert log.enforce_retention(T0_US + 4_000 * DAY_US, {("audit", 0): 1}) == 0


def test_offsets_go_on_where_they_were_when_all_records_have_gone(log: SqliteLog, path: Path, clock: Clock) -> None:
    fill(log, 12_000)  # more than one step of removal
    assert log.enforce_retention(T0_US + 2 * DAY_US, {(TOPIC, 0): 12_000}) == 12_000
    log.close()
    with closing(SqliteLog(path, clock=clock)) as again:
        assert again.begin_offsets(TOPIC)[0] == again.end_offsets(TOPIC)[0] == 12_000
        assert again.append(TOPIC, [Message(None, b"x", partition=0)]) == [(0, 12_000)]


def test_space_that_retention_frees_is_used_again(log: SqliteLog, path: Path) -> None:
    sizes = []
    for round_ in range(4):
        fill(log, 200, value=bytes(40_000))
        log.enforce_retention(T0_US + 2 * DAY_US, {(TOPIC, 0): 200 * (round_ + 1)})
        sizes.append(log._writer.execute("PRAGMA page_count").fetchone()[0])
    assert sizes[3] <= sizes[0] * 1.05


def test_a_reader_whose_records_were_removed_stops_and_says_how_to_go_on(log: SqliteLog) -> None:
    fill(log, 10)
    log.enforce_retention(T0_US + 2 * DAY_US, {(TOPIC, 0): 6})
    with pytest.raises(LogError, match=r"records 2 to 5 were removed by retention .* read from 6"):
        reader(log, start=2).poll(10, 0)
    consumer = log.consumer(TOPIC, on_assign=lambda added: {0: 6, 1: 0})
    assert [list(run.offsets) for run in consumer.poll(10, 0)] == [[6, 7, 8, 9]]


def test_a_reader_that_is_ahead_of_the_log_stops_because_it_is_another_log(log: SqliteLog) -> None:
    fill(log, 10)
    with pytest.raises(LogError, match="offset 11 is wanted, but the log ends at 10"):
        log.consumer(TOPIC, on_assign=lambda added: {0: 11, 1: 0}).poll(10, 0)


def test_a_reader_that_gives_no_offset_for_a_partition_is_told(log: SqliteLog) -> None:
    with pytest.raises(LogError, match="no offset for partition 1"):
        log.consumer(TOPIC, on_assign=lambda added: {0: 0}).poll(1, 0)


def test_a_compacted_topic_holds_one_record_per_key_and_partition(log: SqliteLog) -> None:
    log.create_topics([TopicSpec("totals", 2, compacted=True)])
    for i in range(50):
        log.append("totals", [Message(b"a", b"%d" % i, partition=0), Message(b"a", b"%d" % -i, partition=1)])
    log.append("totals", [Message(b"b", b"x", partition=0), Message(b"b", b"y", partition=0)])
    runs = reader(log, topic="totals").poll(100, 0)
    assert [(r.partition, list(r.offsets), list(r.keys), list(r.values)) for r in runs] == [
        (0, [49, 51], [b"a", b"b"], [b"49", b"y"]),
        (1, [49], [b"a"], [b"-49"]),
    ]
    assert log.begin_offsets("totals") == {0: 49, 1: 49}
    assert log.end_offsets("totals") == {0: 52, 1: 50}


def test_a_tombstone_stays_for_a_day_and_a_reader_passes_where_it_was(log: SqliteLog) -> None:
    log.create_topics([TopicSpec("totals", 1, compacted=True)])
    log.append("totals", [Message(b"a", b"1"), Message(b"b", b"1"), Message(b"b", None)])
    consumer = log.consumer("totals", on_assign=lambda added: {0: 1})
    assert log.enforce_retention(T0_US + TOMBSTONE_US, {}) == 0
    assert values(reader(log, topic="totals").poll(10, 0)) == [b"1", None]
    assert log.enforce_retention(T0_US + TOMBSTONE_US + 1, {}) == 1
    assert values(reader(log, topic="totals").poll(10, 0)) == [b"1"]
    assert consumer.poll(10, 0) == []
    log.append("totals", [Message(b"c", b"2")])
    assert values(consumer.poll(10, 0)) == [b"2"]


def test_a_partition_whose_rest_was_compacted_away_does_not_hold_up_others(log: SqliteLog) -> None:
    log.create_topics([TopicSpec("totals", 2, compacted=True)])
    log.append("totals", [Message(b"a", None, partition=0), Message(b"a", b"1", partition=1)])
    log.enforce_retention(T0_US + 2 * TOMBSTONE_US, {})
    assert [(run.partition, list(run.values)) for run in reader(log, topic="totals").poll(1, 0)] == [(1, [b"1"])]


def test_compaction_cannot_be_changed_and_retention_can(log: SqliteLog) -> None:
    with pytest.raises(LogError, match="is not compacted, and that cannot change"):
        log.create_topics([TopicSpec(TOPIC, 2, compacted=True)])
    fill(log, 1)
    log.create_topics([TopicSpec(TOPIC, 2, retention_us=40 * DAY_US)])
    assert log.enforce_retention(T0_US + 35 * DAY_US, {(TOPIC, 0): 1}) == 0


# --- rows ------------------------------------------------------------------------------------------------------------


def test_the_usual_headers_take_no_room(log: SqliteLog) -> None:
    log.append(TOPIC, [Message(None, b"", ((CONTENT_TYPE, BATCH.encode()),)), Message(None, b"")])
    assert log._writer.execute("SELECT headers FROM records_1 ORDER BY position").fetchall() == [(2,), (None,)]


def test_records_without_a_time_get_the_clocks(log: SqliteLog, clock: Clock) -> None:
    clock.now_us = T0_US + 5
    log.append(TOPIC, [Message(None, b"", partition=0), Message(None, b"", partition=0, appended_us=3)])
    assert list(log.read(TOPIC, 0, 0, 2).appended_us) == [T0_US + 5, 3]


def test_an_idle_reader_looks_rarely(log: SqliteLog) -> None:
    consumer = reader(log)
    consumer.poll(1, 0)
    looks = 0
    take = consumer._take

    def counted(max_records: int) -> list[Records]:
        nonlocal looks
        looks += 1
        return take(max_records)

    consumer._take = counted  # type: ignore[method-assign]
    before_s = time.process_time()
    assert consumer.poll(1, 0.5) == []
    assert looks < 50
    assert time.process_time() - before_s < 0.25


@pytest.mark.parametrize("closes", [False, True])
def test_a_waiting_reader_is_woken_by_an_append_and_by_closing(
    log: SqliteLog, monkeypatch: pytest.MonkeyPatch, closes: bool
) -> None:
    monkeypatch.setattr(sqlite_consumer, "LOOK_S", (3_600.0, 3_600.0))
    consumer = reader(log)
    looked = threading.Event()
    take = consumer._take

    def noticed(max_records: int) -> list[Records]:
        runs = take(max_records)
        looked.set()
        return runs

    consumer._take = noticed  # type: ignore[method-assign]

    def act() -> None:
        assert looked.wait(DEADLINE_S)
        if closes:
            log.close()
        else:
            fill(log, 1)

    thread = threading.Thread(target=act)
    thread.start()
    began = time.monotonic()
    if closes:
        with pytest.raises(LogError, match="closed"):
            consumer.poll(1, DEADLINE_S)
    else:
        assert values(consumer.poll(1, DEADLINE_S)) == [b"x"]
    assert time.monotonic() - began < DEADLINE_S / 2
    thread.join()
