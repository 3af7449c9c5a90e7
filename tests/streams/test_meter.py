"""The meter's loop, on a real log and the ledger's twin in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meterhouse.api.metrics import Metrics
from meterhouse.ingest.encode import Encoded, single_message, to_json
from meterhouse.ingest.event import UsageEvent
from meterhouse.ingest.log import BUDGET_TOTALS, USAGE_EVENTS, USAGE_REJECTED, Message, TopicSpec, partition_of
from meterhouse.ingest.log_limits import MAX_RECORD_BYTES
from meterhouse.ingest.publisher import append_events
from meterhouse.ingest.sqlite_log import SqliteLog
from meterhouse.streams.budget import BudgetTable
from meterhouse.streams.budget_totals import AsOfMark, read_total
from meterhouse.streams.budget_worker import budget_topics
from meterhouse.streams.control import Budget, RateCard, Scope, Snapshot, Tenant, WindowSpec
from meterhouse.streams.ledger import Counts, LedgerUnavailable, Processed
from meterhouse.streams.memory_ledger import MemoryLedger, MemoryStore
from meterhouse.streams.meter import Meter, MeterSettings, MeterStopped
from meterhouse.streams.meter_settings import REST_S
from meterhouse.streams.watch import MeterHooks

NOW = datetime(2026, 11, 10, 12, tzinfo=UTC)
NOW_US = 1_794_312_000_000_000
PARTITIONS = 2
TENANTS = ("acme", "borg", "cove")


def snapshot(version: int = 1, price: int = 2_000_000) -> Snapshot:
    card = RateCard(version, "atlas", "large", None, 0, None, {"input": price, "output": 10 * price})
    budgets = tuple(
        Budget(f"{tenant}-month", Scope(tenant=tenant), WindowSpec("month", "UTC"), 10**15, None, (), "notify")
        for tenant in TENANTS
    )
    return Snapshot(version, "USD", tuple(Tenant(name, name) for name in TENANTS), (card,), budgets)


def event(number: int, **changes: object) -> UsageEvent:
    made = UsageEvent(
        id=f"e-{number}",
        source="/gateway",
        tenant=TENANTS[number % 3],
        time=NOW - timedelta(seconds=number % 7_000),
        application="assistant",
        model="large",
        provider="atlas",
        input_tokens=100 + number,
        output_tokens=number % 50,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def encoded(events: Sequence[UsageEvent]) -> list[Encoded]:
    return [Encoded(one.tenant, to_json(one)) for one in events]


@dataclass
class Bench:
    """A log, what ledgers share, and meters on them."""

    log: SqliteLog
    store: MemoryStore = field(default_factory=MemoryStore)
    control: Snapshot = field(default_factory=snapshot)
    open: list[Meter] = field(default_factory=list)

    def meter(self, ledger: MemoryLedger | None = None, hooks: MeterHooks | None = None, **changes: object) -> Meter:
        meter = Meter(
            log=self.log,
            ledger=ledger or MemoryLedger(self.store),
            snapshots=lambda: self.control,
            clock=lambda: NOW_US,
            settings=MeterSettings(**{"control_every_s": 0.0, **changes}),  # type: ignore[arg-type]
            hooks=hooks,
        )
        self.open.append(meter)
        return meter

    def publish(self, events: Sequence[UsageEvent], batch: int = 5) -> None:
        append_events(self.log, encoded(events), max_batch_events=batch)

    def billed(self) -> dict[tuple[str, int], int]:
        """(tenant, input tokens) → cost: tokens tell these events apart."""
        rows = self.store.table("charges").to_pylist()
        found = {(row["tenant"], row["input_tokens"]): row["cost_pico"] for row in rows}
        assert len(found) == len(rows), "an event was billed twice"
        return found

    def counts(self) -> Counts:
        return sum((position.counts for position in self.store.positions.values()), Counts())

    def totals(self) -> dict[str, tuple[int, int]]:
        """Per budget, the newest total of each partition added up: (cost, tokens)."""
        table = BudgetTable()
        for partition, end in self.log.end_offsets(BUDGET_TOTALS).items():
            run = self.log.read(BUDGET_TOTALS, partition, 0, end + 1)
            for key, value in zip(run.keys, run.values, strict=True):
                table.hear(read_total(key or b"", value or b""))
        sums: dict[str, tuple[int, int]] = {}
        for budget, window in table.windows():
            for total in table.totals(budget, window):
                cost, tokens = sums.get(budget, (0, 0))
                sums[budget] = (cost + total.cost_pico, tokens + total.tokens)
        return sums

    def spent(self) -> dict[str, tuple[int, int]]:
        """The same from the charges."""
        sums: dict[str, tuple[int, int]] = {}
        for row in self.store.table("charges").to_pylist():
            cost, tokens = sums.get(f"{row['tenant']}-month", (0, 0))
            sums[f"{row['tenant']}-month"] = (
                cost + row["cost_pico"],
                tokens + row["input_tokens"] + row["output_tokens"],
            )
        return sums


def truth(events: Sequence[UsageEvent], price: int = 2_000_000) -> dict[tuple[str, int], int]:
    return {(e.tenant, e.input_tokens): e.input_tokens * price + e.output_tokens * 10 * price for e in events}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = made(tmp_path)
    yield bench
    closed(bench)


def made(folder: Path) -> Bench:
    log = SqliteLog(folder / "log.sqlite", clock=lambda: NOW_US)
    log.create_topics([TopicSpec(USAGE_EVENTS, PARTITIONS), TopicSpec(USAGE_REJECTED, 1), *budget_topics(1)])
    return Bench(log)


def closed(bench: Bench) -> None:
    for meter in bench.open:
        meter.close()
    bench.log.close()


def test_all_that_the_log_holds_is_committed_and_budget_totals_equal_the_charges(bench: Bench) -> None:
    events = [event(i) for i in range(100)]
    bench.publish(events)
    meter = bench.meter()
    meter.run(Event(), until_idle=True)
    assert bench.billed() == truth(events)
    assert bench.counts() == Counts(read=100, billed=100)
    assert meter.committed == 100
    assert bench.totals() == bench.spent()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    batch=st.integers(1, 40),
    poll_records=st.integers(1, 30),
    commit_events=st.integers(1, 200),
    repeats=st.lists(st.integers(0, 99), max_size=30),
)
def test_however_the_log_is_cut_the_books_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, batch: int, poll_records: int, commit_events: int, repeats: list[int]
) -> None:
    events = [event(i) for i in range(100)]
    bench = made(tmp_path_factory.mktemp("cut"))
    bench.publish([*events, *(event(i, time=NOW) for i in repeats)], batch)
    bench.meter(poll_records=poll_records, commit_events=commit_events).run(Event(), until_idle=True)
    assert bench.billed() == truth(events)
    assert bench.counts() == Counts(read=100 + len(repeats), billed=100, duplicates=len(repeats))
    assert bench.totals() == bench.spent()
    closed(bench)


class Rests(Event):
    """A stop that notes each wait for it, and is set by the first."""

    def __init__(self) -> None:
        super().__init__()
        self.waited_s: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waited_s.append(timeout or 0.0)
        self.set()
        return True


def test_a_meter_that_shares_its_process_rests_once_it_has_read_all_there_is(bench: Bench) -> None:
    events = [event(i) for i in range(60)]
    bench.publish(events, batch=1)
    stop = Rests()
    bench.meter(rest=1e6, poll_records=7).run(stop)
    assert stop.waited_s == [REST_S], "not while more is there, and never longer"
    assert bench.billed() == truth(events)


def test_what_a_lost_meter_had_not_committed_is_read_again_and_billed_once(bench: Bench) -> None:
    events = [event(i) for i in range(60)]
    bench.publish(events[:30])
    lost = bench.meter(commit_events=1_000_000, commit_every_s=1e9)
    while lost.step():
        pass
    assert bench.counts() == Counts()
    bench.publish(events[20:])
    bench.meter().run(Event(), until_idle=True)
    assert bench.billed() == truth(events)
    assert bench.counts() == Counts(read=70, billed=60, duplicates=10)
    assert bench.totals() == bench.spent()


def test_a_meter_whose_commit_is_fenced_starts_again_from_the_stored_position(bench: Bench) -> None:
    events = [event(i) for i in range(90)]
    bench.publish(events[:40])
    zombie = bench.meter(commit_events=1_000_000, commit_every_s=1e9)
    while zombie.step():
        pass
    bench.meter().run(Event(), until_idle=True)
    bench.publish(events[30:])
    zombie.run(Event(), until_idle=True)
    assert bench.billed() == truth(events)
    assert bench.counts() == Counts(read=100, billed=90, duplicates=10)
    assert bench.totals() == bench.spent()


class Flaky(MemoryLedger):
    """Loses the answer of some commits, after or before they were made."""

    def __init__(self, store: MemoryStore, answers: list[str]) -> None:
        super().__init__(store)
        self.answers = answers

    def commit(self, unit: Processed) -> int:
        answer = self.answers.pop(0) if self.answers else "ok"
        if answer == "before":
            raise LedgerUnavailable("the catalogue is locked")
        return super().commit(unit)


def test_a_commit_that_could_not_be_made_is_made_later(bench: Bench) -> None:
    events = [event(i) for i in range(50)]
    bench.publish(events)
    ledger = Flaky(bench.store, ["before", "before"])
    bench.meter(ledger, commit_events=10).run(Event(), until_idle=True)
    assert bench.billed() == truth(events)
    assert ledger.answers == []


def test_a_ledger_that_stays_away_stops_the_meter_loudly_and_loses_nothing(bench: Bench) -> None:
    events = [event(i) for i in range(20)]
    bench.publish(events)
    with pytest.raises(MeterStopped, match="nothing is lost"):
        bench.meter(Flaky(bench.store, ["before"] * 3), commit_attempts=3).run(Event(), until_idle=True)
    assert bench.counts() == Counts()
    bench.meter().run(Event(), until_idle=True)
    assert bench.billed() == truth(events)


def test_new_control_data_rates_what_is_read_after_it(bench: Bench) -> None:
    events = [event(i) for i in range(60)]
    bench.publish(events[:30])
    meter = bench.meter()
    while meter.step():
        pass
    bench.control = snapshot(version=2, price=3_000_000)
    bench.publish(events[30:])
    meter.run(Event(), until_idle=True)
    assert bench.billed() == truth(events[:30]) | truth(events[30:], price=3_000_000)
    assert {row["control_version"] for row in bench.store.table("charges").to_pylist()} == {1, 2}
    assert bench.totals() == bench.spent()


def test_a_tenant_that_was_just_made_known_is_not_rejected_because_the_meter_did_not_look_yet(bench: Bench) -> None:
    meter = bench.meter(control_every_s=1e9)
    looks = 0

    def looking() -> Snapshot:
        nonlocal looks
        looks += 1
        return bench.control

    meter._snapshots = looking
    known = [event(i) for i in range(30)]
    bench.publish(known[:15])
    while meter.step():
        pass
    assert looks == 0
    bench.control = replace(snapshot(version=2), tenants=(*snapshot().tenants, Tenant("dora", "Dora")))
    new = [event(100 + i, tenant="dora") for i in range(5)]
    bench.publish([*known[15:], *new, event(200, tenant="nobody")])
    meter.run(Event(), until_idle=True)
    assert bench.billed() == truth([*known, *new])
    assert bench.counts() == Counts(read=36, billed=35, rejected=1)
    assert bench.totals() == {name: of for name, of in bench.spent().items() if name != "dora-month"}, "has no budget"
    assert 1 <= looks <= PARTITIONS + 1, "once for each batch with such an event"


def test_an_event_under_another_tenants_key_is_forwarded_and_billed_once(bench: Bench) -> None:
    strayed = event(1)
    messages = [single_message(tenant, to_json(strayed)) for tenant in ("acme", None)]
    bench.log.append(USAGE_EVENTS, messages)
    bench.publish([strayed])
    bench.meter().run(Event(), until_idle=True)
    assert bench.billed() == truth([strayed])
    assert bench.counts() == Counts(read=5, billed=1, forwarded=2, duplicates=2)


def test_reading_stops_when_the_buffer_is_full_and_goes_on_when_it_is_not(bench: Bench) -> None:
    events = [event(i) for i in range(400)]
    bench.publish(events, batch=1)

    class Watching(MemoryLedger):
        largest = 0

        def commit(self, unit: Processed) -> int:
            Watching.largest = max(Watching.largest, len(unit.charges))
            return super().commit(unit)

    bench.meter(Watching(bench.store), poll_records=20, commit_events=50, buffer_events=60).run(
        Event(), until_idle=True
    )
    assert bench.billed() == truth(events)
    assert 50 <= Watching.largest <= 80


def test_a_stop_commits_what_was_processed(bench: Bench) -> None:
    events = [event(i) for i in range(30)]
    bench.publish(events)
    stop = Event()
    meter = bench.meter(commit_events=1_000_000, commit_every_s=1e9)
    meter.run(stop, progress=lambda progress: stop.set() if progress.processed == 30 else None)
    assert bench.billed() == truth(events)


def test_a_fence_takes_only_the_partition_that_moved(bench: Bench) -> None:
    events = [event(i) for i in range(90)]
    bench.publish(events, batch=1)
    slow = bench.meter(commit_events=1_000_000, commit_every_s=1e9)
    while slow.step():
        pass
    moved = partition_of(b"acme", PARTITIONS)
    other = MemoryLedger(bench.store)
    other.seed(PARTITIONS)
    before = other.positions()[moved]
    nothing = {name: getattr(one_unit(slow), name).slice(0, 0) for name in TABLES}
    after = replace(before, next_offset=before.next_offset + 1, counts=before.counts + Counts(read=1, duplicates=1))
    other.commit(Processed(**nothing, rejects=[], before={moved: before}, after={moved: after}))
    held = [row for row in one_unit(slow).charges.to_pylist() if row["partition"] != moved]
    slow._commit_all()
    assert bench.store.table("charges").num_rows == len(held) > 0
    slow.run(Event(), until_idle=True)
    assert len(bench.billed()) == len(events) - 1  # the other meter has ticked one off


TABLES = ("charges", "node_events", "minutes", "hours", "latency")


def one_unit(meter: Meter) -> Processed:
    """What the meter has not committed."""
    return meter._buffer.unit()


def test_a_topic_that_grows_bills_each_tenant_once_wherever_its_events_stand(bench: Bench) -> None:
    events = [event(i) for i in range(120)]
    bench.publish(events[:60])
    meter = bench.meter(commit_events=1_000_000, commit_every_s=1e9)
    while meter.step():
        pass  # read under the former layout, and not committed
    bench.log.create_topics([TopicSpec(USAGE_EVENTS, PARTITIONS + 3)])
    bench.publish(events)  # all of them again, at their tenants' new homes
    meter.run(Event(), until_idle=True)
    assert bench.billed() == truth(events)
    assert bench.totals() == bench.spent()
    bench.publish(events)
    bench.meter().run(Event(), until_idle=True)
    assert bench.billed() == truth(events)
    homes = {partition_of(tenant.encode(), PARTITIONS + 3) for tenant in TENANTS}
    assert {row["partition"] for row in bench.store.table("charges").to_pylist()} <= homes


def test_a_reject_is_a_record_of_its_own_topic_with_its_bytes_reason_and_place(bench: Bench) -> None:
    bench.log.append(USAGE_EVENTS, [Message(b"acme", b"{rubbish"), Message(None, None)])
    bench.meter().run(Event(), until_idle=True)
    run = bench.log.read(USAGE_REJECTED, 0, 0, 10)
    told = {value: dict(headers) for value, headers in zip(run.values, run.headers, strict=True)}
    kept = {reject.payload: reject for reject in bench.store.rejects}
    assert told.keys() == kept.keys() == {b"{rubbish", b""}
    for payload, headers in told.items():
        reject = kept[payload]
        assert headers["meterhouse-reason"].decode() == reject.reason
        place = [headers[f"meterhouse-{name}"].decode() for name in ("topic", "partition", "offset", "index")]
        assert place == [reject.topic, str(reject.partition), str(reject.offset), str(reject.index)]
    assert set(run.keys) == {b"acme", None}


def test_a_reject_as_large_as_a_record_may_be_keeps_nobody_from_what_comes_after(bench: Bench) -> None:
    largest = b"{" + b"x" * (MAX_RECORD_BYTES - 100)
    bench.log.append(USAGE_EVENTS, [Message(b"acme", largest)])
    bench.publish([event(0)])
    bench.meter().run(Event(), until_idle=True)
    assert bench.counts() == Counts(read=2, billed=1, rejected=1)
    assert [reject.payload for reject in bench.store.rejects] == [largest]
    run = bench.log.read(USAGE_REJECTED, 0, 0, 10)
    assert [value for value in run.values if value and largest.startswith(value)] == list(run.values)
    assert dict(run.headers[0])["meterhouse-cut_from_bytes"] == b"%d" % len(largest)


def test_a_flood_of_rejects_goes_out_in_appends_that_a_log_takes(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meterhouse.ingest.log_limits.MAX_APPEND_BYTES", 8_192)
    monkeypatch.setattr("meterhouse.streams.committer.APPEND_BYTES", 1_000)
    rubbish = [b"{rubbish %d" % number for number in range(300)]
    for number in range(0, len(rubbish), 20):
        bench.log.append(USAGE_EVENTS, [Message(b"acme", payload) for payload in rubbish[number : number + 20]])
    bench.meter().run(Event(), until_idle=True)
    assert bench.counts() == Counts(read=300, rejected=300)
    assert set(bench.log.read(USAGE_REJECTED, 0, 0, 1_000).values) == set(rubbish)


def test_a_stop_while_the_ledger_is_away_drops_the_work_whole_and_soon(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meterhouse.streams.committer.GRACE_S", 0.2)
    events = [event(i) for i in range(20)]
    bench.publish(events)
    stop = Event()
    meter = bench.meter(Flaky(bench.store, ["before"] * 10_000), commit_events=1)
    meter.run(stop, progress=lambda progress: stop.set() if progress.processed == 20 else None)
    assert bench.counts() == Counts()
    bench.meter().run(Event(), until_idle=True)
    assert bench.billed() == truth(events)


def test_a_meter_says_what_it_did_to_whoever_watches(bench: Bench) -> None:
    metrics = Metrics()
    bench.publish([event(i) for i in range(30)])
    bench.publish([event(i) for i in range(10)])
    bench.log.append(USAGE_EVENTS, [Message(b"acme", b"{rubbish")])
    away = Flaky(bench.store, ["before"])
    meter = bench.meter(away, hooks=MeterHooks(metrics.meter), lag_every_s=0.0)
    meter.run(Event(), until_idle=True)
    value = metrics.registry.get_sample_value
    outcomes = {
        outcome: value("meterhouse_events_total", {"outcome": outcome})
        for outcome in ("billed", "duplicates", "rejected")
    }
    assert outcomes == {"billed": 30, "duplicates": 10, "rejected": 1}
    assert value("meterhouse_rejects_total", {"reason": "not_json"}) == 1
    assert (
        value("meterhouse_records_read_total")
        == bench.store.positions[0].next_offset + bench.store.positions[1].next_offset
    )
    assert value("meterhouse_retries_total", {"worker": "meter", "away": "lake"}) == 1
    stages = [value("meterhouse_stage_seconds_count", {"stage": stage}) for stage in ("poll", "decode", "process")]
    assert len(set(stages)) == 1 <= (stages[0] or 0)
    assert value("meterhouse_commit_events_sum") == 41
    assert value("meterhouse_dedupe_ids") == 30
    assert [value("meterhouse_lag_records", {"partition": str(p)}) for p in range(PARTITIONS)] == [0, 0]
    assert value("meterhouse_fenced_commits_total") == 0


def marks(bench: Bench) -> dict[int, AsOfMark]:
    """The newest mark of each partition."""
    run = bench.log.read(BUDGET_TOTALS, 0, 0, 1_000)
    said = [read_total(key or b"", value or b"") for key, value in zip(run.keys, run.values, strict=True)]
    return {mark.partition: mark for mark in said if isinstance(mark, AsOfMark)}


def test_a_meter_marks_how_far_its_totals_have_come_also_where_nothing_came(bench: Bench) -> None:
    bench.publish([event(n) for n in range(20)])
    bench.meter(lag_every_s=0.0).run(Event(), until_idle=True)
    positions = bench.store.positions
    assert marks(bench) == {
        p: AsOfMark(p, NOW_US, positions[p].next_offset, control_version=1, layout=PARTITIONS)
        for p in range(PARTITIONS)
    }


def test_a_meter_that_is_behind_marks_the_arrival_of_what_it_read_last(bench: Bench) -> None:
    bench.publish([event(n, tenant=TENANTS[0]) for n in range(20)], batch=1)
    meter = bench.meter(lag_every_s=0.0, poll_records=3)
    while not meter.step():
        pass
    meter.finish()
    (behind,) = [mark for mark in marks(bench).values() if mark.offset]
    arrived_us = bench.log.read(USAGE_EVENTS, behind.partition, 0, 3).appended_us[-1]
    assert (behind.offset, behind.as_of_us) == (3, arrived_us)
