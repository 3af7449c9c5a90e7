"""What must hold at the end, whatever was killed: the books against the oracle's, the counts against the log itself.

`differences` says all that does not hold, as sentences; an empty list is a passed run. Nothing here looks at how the
product works out any of it: charges are added up one by one, in integers.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import duckdb

from meterhouse.ingest.log import BUDGET_TOTALS, USAGE_EVENTS, EventLog, Records
from meterhouse.streams.alerts import AlertOutbox
from meterhouse.streams.budget import BudgetTotal
from meterhouse.streams.control import Snapshot
from meterhouse.warehouse.lake import Lake
from meterhouse.warehouse.verify import verify
from tests.crash.stream import PLAN_HEADER, Book, Stream, plain
from tests.oracle import books, budgets

SHOWN: Final = 5
"""Differences that are told of one kind: the first ones say what is wrong."""
LAYOUT: Final = b"|layout|"
"""What the key of a layout's mark begins with, among the totals; those of all marks begin with a bar."""
READ_RECORDS: Final = 20_000


@dataclass(frozen=True)
class Scene:
    """What a run left behind."""

    log: EventLog
    lake: Lake
    snapshot: Snapshot
    stream: Stream
    outbox: AlertOutbox


def differences(scene: Scene) -> list[str]:
    """All that does not hold. The log must be read to its end and nothing may work any more."""
    with scene.lake.read() as cursor:
        told = [*_against_oracle(cursor, scene.stream), *_against_log(cursor, scene)]
        charges = billed(cursor)
    layouts = _layouts(scene.log)
    totals = [total for total in _totals(scene.log) if total.layout >= layouts[total.partition]]
    told += _against_totals(charges, totals, scene.stream.control)
    newest = {total.key(): total for total in sorted(totals, key=_age)}
    verified = verify(scene.lake, scene.snapshot, list(newest.values()))
    told += [
        f"verify: law {law.law}, {law.name}: {law.left} against {law.right}"
        for law in verified.laws
        if not law.balanced
    ]
    return told


# -- the books ---------------------------------------------------------------------------------------------------------


def lake_book(cursor: duckdb.DuckDBPyConnection, table: str) -> Book:
    """The books of table `charges` or `rollup_minute`."""
    from_charges = table == "charges"
    tokens = ", ".join(f"sum({kind}_tokens)" for kind in books.KINDS)
    cost = (
        "sum(coalesce(cost_pico, 0)::HUGEINT)"
        if from_charges
        else " + ".join(f"sum({kind}_cost)" for kind in books.KINDS)
    )
    requests = "count(*)" if from_charges else "sum(requests)"
    found: Book = defaultdict(lambda: defaultdict(int))
    rows = cursor.execute(
        f"""SELECT tenant, application, provider, model, epoch_us(date_trunc('minute', "time")), status, disposition,
        {requests}, {cost}, {tokens} FROM {table} GROUP BY ALL"""
    ).fetchall()
    for *key, status, disposition, count, cost_sum, kinds in ((*row[:9], row[9:]) for row in rows):
        sums = found[tuple(key)]  # type: ignore[index]
        sums[status] += int(count)
        sums["unpriced"] += int(count) if disposition == "unpriced" else 0
        sums["cost_pico"] += int(cost_sum) if from_charges else int(Decimal(cost_sum) * 10**12)
        for kind, value in zip(books.KINDS, kinds, strict=True):
            sums[kind] += int(value)
    return plain(found)


def _against_oracle(cursor: duckdb.DuckDBPyConnection, stream: Stream) -> Iterator[str]:
    truth = plain(stream.truth)
    for table in ("charges", "rollup_minute"):
        found = lake_book(cursor, table)
        wrong = [key for key in sorted(truth.keys() | found.keys()) if truth.get(key) != found.get(key)]
        for key in wrong[:SHOWN]:
            yield f"{table} {key}: {found.get(key)}, the oracle says {truth.get(key)}"
        if wrong:
            lost, twice = _requests(truth, found, wrong)
            yield f"{table}: {len(wrong)} minutes differ; {lost} requests are missing, {twice} are too many"
    [(nodes,)] = cursor.execute("SELECT count(*) FROM node_events").fetchall()
    if nodes != stream.node_events:
        yield f"node_events: {nodes} rows, {stream.node_events} were made"


def _requests(truth: Book, found: Book, keys: Iterable[tuple[str, str, str, str, int]]) -> tuple[int, int]:
    lost = twice = 0
    for key in keys:
        of = [sum(book.get(key, {}).get(status, 0) for status in books.STATUSES) for book in (truth, found)]
        lost, twice = lost + max(0, of[0] - of[1]), twice + max(0, of[1] - of[0])
    return lost, twice


# -- the log -----------------------------------------------------------------------------------------------------------


def whole(log: EventLog, topic: str) -> Iterator[Records]:
    for partition, first in log.begin_offsets(topic).items():
        at = first
        while run := log.read(topic, partition, at, READ_RECORDS):
            yield run
            at = run.next_offset


def _against_log(cursor: duckdb.DuckDBPyConnection, scene: Scene) -> Iterator[str]:
    """Positions at the end, every event read counted once, every reject there once."""
    read: Counter[int] = Counter()
    rejects: Counter[tuple[int, int, int]] = Counter()
    numbers: set[int] = set()
    for run in whole(scene.log, USAGE_EVENTS):
        for offset, headers in zip(run.offsets, run.headers, strict=True):
            number = next((int(text) for name, text in headers if name == PLAN_HEADER), None)
            events, refused = (1, ()) if number is None else scene.stream.records[number]
            numbers |= set() if number is None else {number}
            read[run.partition] += events
            rejects.update((run.partition, offset, index) for index in refused)
    if len(numbers) != len(scene.stream.records):
        yield f"the log holds {len(numbers)} of {len(scene.stream.records)} records: the publisher lost some"
    ends = scene.log.end_offsets(USAGE_EVENTS)
    columns = (
        'partition, next_offset, "read", billed, unpriced, unbilled, informational, duplicates, rejected, forwarded'
    )
    stored = {row[0]: row[1:] for row in cursor.execute(f"SELECT {columns} FROM positions").fetchall()}
    for partition, end in sorted(ends.items()):
        next_offset, counted, *became = stored.get(partition, (0,) * 9)
        if next_offset != end:
            yield f"partition {partition}: the lake stands at {next_offset}, the log ends at {end}"
        if counted != read[partition]:
            yield f"partition {partition}: {counted} events counted as read, the log holds {read[partition]}"
        if counted != sum(became):
            yield f"partition {partition}: law 1: {counted} read, {sum(became)} accounted for"
    kept = Counter(cursor.execute('SELECT partition, "offset", "index" FROM rejects').fetchall())
    for place in sorted((rejects - kept).keys())[:SHOWN]:
        yield f"rejects: {place} is missing"
    for place in sorted((kept - rejects).keys())[:SHOWN]:
        yield f"rejects: {place} is there {kept[place]} times, and should be {rejects[place]} times"


# -- budget totals -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Billed:
    """A billed charge, and where its event stood."""

    partition: int
    offset: int
    event: books.Event
    cost_pico: int


def billed(cursor: duckdb.DuckDBPyConnection) -> list[Billed]:
    kinds = ", ".join(f"{kind}_tokens" for kind in books.KINDS)
    rows = cursor.execute(
        f"""SELECT partition, "offset", tenant, application, provider, model, epoch_us("time"), cost_pico, {kinds}
        FROM charges WHERE disposition = 'billed' ORDER BY partition, "offset" """
    ).fetchall()
    return [
        Billed(
            row[0],
            row[1],
            books.Event(
                id="", source="", tenant=row[2], application=row[3], provider=row[4], model=row[5], time=row[6],
                status="ok", tokens=dict(zip(books.KINDS, row[8:], strict=True)), duration=0, time_to_first_token=0,
            ),
            row[7],
        )
        for row in rows
    ]  # fmt: skip


def _totals(log: EventLog) -> Iterator[BudgetTotal]:
    for run in whole(log, BUDGET_TOTALS):
        for key, value in zip(run.keys, run.values, strict=True):
            if value is not None and not (key or b"").startswith(b"|"):
                yield BudgetTotal.from_json(value)


def _layouts(log: EventLog) -> dict[int, int]:
    """Under which layout each partition's totals are said."""
    marks = [
        json.loads(value or b"")
        for run in whole(log, BUDGET_TOTALS)
        for key, value in zip(run.keys, run.values, strict=True)
        if (key or b"").startswith(LAYOUT)
    ]
    layouts: dict[int, int] = defaultdict(int)
    for mark in marks:
        layouts[mark["partition"]] = max(layouts[mark["partition"]], mark["layout"])
    return layouts


def _against_totals(charges: list[Billed], totals: list[BudgetTotal], control: books.Control) -> Iterator[str]:
    """Every total that was ever said holds at its offset, and the newest of each is all that there is."""
    by_window = charges_by_window(charges, control)
    newest: dict[tuple[str, int, int], BudgetTotal] = {}
    wrong: list[str] = []
    said: dict[tuple[str, int, int], list[BudgetTotal]] = defaultdict(list)
    for total in totals:
        key = (total.budget_id, total.window_start_us, total.partition)
        said[key].append(total)
        if key not in newest or _age(total) >= _age(newest[key]):
            newest[key] = total
    for key, of_key in sorted(said.items()):
        wrong += _false_totals(of_key, by_window.get(key, []))
    for key, spent in sorted(by_window.items()):
        whole_sum = (sum(each.cost_pico for each in spent), sum(sum(each.event.tokens.values()) for each in spent))
        last = newest.get(key)
        if last is None or (last.cost_pico, last.tokens) != whole_sum:
            wrong.append(
                f"budget.totals {key}: the newest says {last and (last.cost_pico, last.tokens)} of {whole_sum}"
            )
    yield from wrong[:SHOWN]
    if len(wrong) > SHOWN:
        yield f"budget.totals: {len(wrong)} are wrong"


def charges_by_window(charges: Iterable[Billed], control: books.Control) -> dict[tuple[str, int, int], list[Billed]]:
    """(budget, window's start, partition) → charges, in the order given."""
    by_window: dict[tuple[str, int, int], list[Billed]] = defaultdict(list)
    known: dict[tuple[str, str, str, int], list[tuple[str, int]]] = {}
    for charge in charges:
        event = charge.event
        alike = event.tenant, event.application, event.model, event.time // budgets.QUARTER_US
        if alike not in known:
            known[alike] = [
                (budget["id"], budgets.window_at(event.time, budget["window"])[0])
                for budget in control.budgets
                if books.in_scope(control, event, budget.get("scope"))
            ]
        for window in known[alike]:
            by_window[*window, charge.partition].append(charge)
    return by_window


def _age(total: BudgetTotal) -> tuple[int, int, int]:
    return (total.control_version, total.layout, total.offset)


def _false_totals(totals: list[BudgetTotal], charges: list[Billed]) -> Iterator[str]:
    """Those of one key that are not the sum of the charges before their offset; `charges` ascend by offset."""
    at = cost_pico = tokens = 0
    for total in sorted(totals, key=lambda t: t.offset):
        while at < len(charges) and charges[at].offset < total.offset:
            cost_pico += charges[at].cost_pico
            tokens += sum(charges[at].event.tokens.values())
            at += 1
        if (total.cost_pico, total.tokens) != (cost_pico, tokens):
            yield (
                f"budget.totals {total.key().decode()} at offset {total.offset}: {(total.cost_pico, total.tokens)},"
                f" the charges before it are {(cost_pico, tokens)}"
            )
