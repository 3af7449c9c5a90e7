"""The laws of the pipeline, for any log and any way of cutting it into runs, against sums in plain Python."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from meterhouse.ingest.batch import Reason, Reject
from meterhouse.ingest.event import BILLED_STATUSES, REFUSED_STATUSES, STATUSES, TOKEN_KINDS
from meterhouse.ingest.log import Records
from meterhouse.streams.control import RateCard, Snapshot
from meterhouse.streams.dedupe import DedupeIndex
from meterhouse.streams.latency import bucket_of
from meterhouse.streams.ledger import LATENCY_KEYS, ROLLUP_KEYS, Counts, Position, Processed
from meterhouse.streams.money import to_pico
from meterhouse.streams.pipeline import merge, merge_all, process
from meterhouse.streams.rate_card import compile_rates, in_force
from tests.builders import HOUR_US, MINUTE_US, T0_US, decoded, events, records

WINDOW_HOURS = 3
PARTITIONS = (0, 1)
CARDS = (
    RateCard(1, "atlas", "large", None, 0, None, {kind.name: 10**6 + n for n, kind in enumerate(TOKEN_KINDS)}),
    RateCard(2, "atlas", "large", None, T0_US + MINUTE_US, None, {"input": 3_000_001, "output": 7}),
    RateCard(3, "atlas", "large", "globex", T0_US, T0_US + HOUR_US, {"input": 2, "output": 5_000_000}),
)
RATES = compile_rates(Snapshot(version=5, currency="USD", rate_cards=CARDS))
Row = dict[str, Any]

TOKENS = st.sampled_from([0, 0, 1, 17]) | st.integers(0, 2**40)
REQUESTS = st.fixed_dictionaries(
    {
        "id": st.integers(0, 12),
        "time": st.integers(T0_US - 1, T0_US + 2 * HOUR_US) | st.integers(T0_US - 1, T0_US + MINUTE_US + 1),
        "tenant": st.sampled_from(["acme", "globex"]),
        "application": st.sampled_from(["assistant", "search"]),
        "environment": st.sampled_from([None, "prod"]),
        "operation": st.sampled_from([None, "chat"]),
        "model": st.sampled_from(["large", "large", "unheard-of"]),
        "status": st.sampled_from(["ok", "ok", *STATUSES]),
        "duration_us": st.none() | st.integers(0, 2**40),
        "time_to_first_token_us": st.none() | st.integers(0, 100),
        **{kind.tokens: TOKENS for kind in TOKEN_KINDS},
    }
)
NODES = st.fixed_dictionaries({"id": st.integers(0, 12), "node": st.just("n1"), "request_id": st.just("r1")})
# A record: what came of its events, and how its append time differs from the one before.
RECORDS = st.tuples(
    st.lists(REQUESTS | NODES | st.just("reject"), max_size=3),
    st.sampled_from([0, 0, 1, MINUTE_US, HOUR_US, 2 * HOUR_US, -HOUR_US]),
)
LOGS = st.lists(st.tuples(st.sampled_from(PARTITIONS), RECORDS), max_size=14)


class Log:
    """The records of each partition with their append times."""

    def __init__(self, entries: list[tuple[int, tuple[list[Any], int]]]) -> None:
        self.events: dict[int, list[list[Any]]] = {p: [] for p in PARTITIONS}
        self.appended_us: dict[int, list[int]] = {p: [] for p in PARTITIONS}
        for partition, (row_list, step_us) in entries:
            times = self.appended_us[partition]
            times.append((times[-1] if times else T0_US) + step_us)
            self.events[partition].append(row_list)

    def run(self, partition: int, first: int, last: int) -> tuple[Records, list[Row], list[Reject]]:
        """Offsets first .. last - 1 as decode would hand them on."""
        rows, rejects = [], []
        for offset in range(first, last):
            for index, what in enumerate(self.events[partition][offset]):
                place = {"partition": partition, "offset": offset, "index": index}
                if what == "reject":
                    rejects.append(Reject("t", partition, offset, index, 0, Reason.NOT_JSON, "", None, b""))
                else:
                    rows.append({"provider": "atlas", **place, **what})
        times = self.appended_us[partition][first:last]
        return (
            records([b""] * (last - first), partition=partition, first_offset=first, appended_us=times),
            rows,
            rejects,
        )


def read(log: Log, cuts: Iterable[int]) -> list[Processed]:
    """Reads all partitions side by side, cut at these offsets."""
    positions = {partition: Position() for partition in PARTITIONS}
    indexes = {partition: DedupeIndex(WINDOW_HOURS) for partition in PARTITIONS}
    units = []
    for first, last in pairwise([0, *sorted(set(cuts) - {0}), 1_000]):
        runs = [log.run(p, first, min(last, len(log.events[p]))) for p in PARTITIONS if first < len(log.events[p])]
        table = events(row for _, rows, _ in runs for row in rows)
        rejects = [reject for _, _, refused in runs for reject in refused]
        unit = process([run for run, _, _ in runs], decoded(table, rejects), positions, indexes, RATES)
        positions.update(unit.after)
        units.append(unit)
    return units


def rows_of(table: pa.Table) -> Counter[tuple[Any, ...]]:
    return Counter(tuple(row.values()) for row in table.to_pylist())


def summary(unit: Processed) -> list[Any]:
    """All that a commit would write, without regard to the order of rows."""
    tables = (unit.charges, unit.node_events, unit.minutes, unit.hours, unit.latency)
    return [*map(rows_of, tables), Counter((r.partition, r.offset, r.index) for r in unit.rejects), unit.after]


@settings(max_examples=60, deadline=None)
@given(entries=LOGS, cuts=st.sets(st.integers(0, 13)), split=st.integers(0, 13))
def test_however_a_log_is_cut_the_merged_results_are_equal(entries: list[Any], cuts: set[int], split: int) -> None:
    log = Log(entries)
    whole = summary(merge_all(read(log, [])))
    units = read(log, cuts)
    assert summary(merge_all(units)) == whole
    split = min(split, len(units) - 1)
    if split:
        assert summary(merge(merge_all(units[:split]), merge_all(units[split:]))) == whole


@settings(max_examples=60, deadline=None)
@given(entries=LOGS, cuts=st.sets(st.integers(0, 13)))
def test_books_equal_those_kept_by_hand(entries: list[Any], cuts: set[int]) -> None:
    log = Log(entries)
    unit = merge_all(read(log, cuts))
    charges, counts = _by_hand(log)
    assert [
        (row["partition"], row["offset"], row["index"], row["disposition"], row["cost_pico"], row["card"])
        for row in sorted(unit.charges.to_pylist(), key=lambda row: (row["partition"], row["offset"], row["index"]))
    ] == charges
    assert {p: position.counts for p, position in unit.after.items()} == {
        p: c for p, c in counts.items() if log.events[p]
    }
    for counted in counts.values():  # law 1
        parts = [getattr(counted, name) for name in Counts.__slots__ if name != "read"]
        assert counted.read == sum(parts)


def _by_hand(log: Log) -> tuple[list[tuple[Any, ...]], dict[int, Counts]]:
    charges, counts = [], {}
    for partition in PARTITIONS:
        tally: Counter[str] = Counter()
        accepted_at: dict[Any, int] = {}
        arrived_us = 0
        for offset, row_list in enumerate(log.events[partition]):
            arrived_us = max(arrived_us, log.appended_us[partition][offset])
            hour = arrived_us // HOUR_US
            for index, row in enumerate(row_list):
                if row == "reject":
                    tally["rejected"] += 1
                    continue
                identity = (row.get("tenant", "acme"), row["id"])
                if accepted_at.get(identity, hour - WINDOW_HOURS) > hour - WINDOW_HOURS:
                    tally["duplicates"] += 1
                    continue
                accepted_at[identity] = hour
                disposition = "informational" if "node" in row else _charge(row)[0]
                tally[disposition] += 1
                if "node" not in row:
                    charges.append((partition, offset, index, *_charge(row)))
        counts[partition] = Counts(read=tally.total(), **tally)
    return charges, counts


def _charge(row: Row) -> tuple[str, int | None, int | None]:
    if row["status"] not in BILLED_STATUSES:
        return "unbilled", 0, None
    card = in_force(CARDS, "atlas", row["model"], row["tenant"], row["time"])
    used = {kind.name: row[kind.tokens] for kind in TOKEN_KINDS if row[kind.tokens]}
    if card is None or used.keys() - card.pico_per_token.keys():
        return "unpriced", None, None
    cost = sum(tokens * card.pico_per_token[kind] for kind, tokens in used.items())
    return ("billed", cost, card.id) if cost < 2**63 else ("unpriced", None, None)


GROUPINGS = st.sets(st.sampled_from([name for name in ROLLUP_KEYS if name != "time"]))


@settings(max_examples=60, deadline=None)
@given(entries=LOGS, cuts=st.sets(st.integers(0, 13)), group_by=GROUPINGS)
def test_roll_ups_equal_their_charges_by_any_grouping(entries: list[Any], cuts: set[int], group_by: set[str]) -> None:
    unit = merge_all(read(Log(entries), cuts))
    for table, span_us in ((unit.minutes, MINUTE_US), (unit.hours, HOUR_US)):
        rolled_up: defaultdict[Any, list[int]] = defaultdict(lambda: [0] * 7)
        for row in table.to_pylist():
            cost = sum(to_pico(row[kind.cost]) for kind in TOKEN_KINDS)
            _add(rolled_up[_group(row, group_by, span_us)], row["requests"], row, cost)
        charged: defaultdict[Any, list[int]] = defaultdict(lambda: [0] * 7)
        for row in unit.charges.to_pylist():
            _add(charged[_group(row, group_by, span_us)], 1, row, row["cost_pico"] or 0)
        assert rolled_up == charged
        assert len({tuple(row[name] for name in ROLLUP_KEYS) for row in table.to_pylist()}) == len(table)


def _group(row: Row, group_by: set[str], span_us: int) -> tuple[Any, ...]:
    time_us = round(row["time"].timestamp() * 1_000_000)
    return (time_us // span_us, *(row[name] for name in sorted(group_by)))


def _add(sums: list[int], requests: int, row: Row, cost_pico: int) -> None:
    for place, value in enumerate((requests, cost_pico, *(row[kind.tokens] for kind in TOKEN_KINDS))):
        sums[place] += value


@settings(max_examples=40, deadline=None)
@given(entries=LOGS, cuts=st.sets(st.integers(0, 13)))
def test_histograms_count_every_served_request_once(entries: list[Any], cuts: set[int]) -> None:
    unit = merge_all(read(Log(entries), cuts))
    expected: Counter[tuple[Any, ...]] = Counter()
    for row in unit.charges.to_pylist():
        hour = row["time"].replace(minute=0, second=0, microsecond=0)
        for metric in ("duration", "time_to_first_token"):
            if row["status"] not in REFUSED_STATUSES and row[f"{metric}_us"] is not None:
                key = {**row, "time": hour, "metric": metric, "bucket": bucket_of(row[f"{metric}_us"])}
                expected[tuple(key[name] for name in LATENCY_KEYS)] += 1
    got = {tuple(row[name] for name in LATENCY_KEYS): row["requests"] for row in unit.latency.to_pylist()}
    assert got == expected
    assert len(got) == len(unit.latency)
