"""Sums that are kept are those of the lake as it is, whatever was committed, merged or erased meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from meterhouse.warehouse import books, kept_sums
from meterhouse.warehouse.books import OneRead, SeenBooks, look_ahead
from meterhouse.warehouse.kept_sums import KeptSums
from meterhouse.warehouse.lake import Cursor, Lake, LakeConfig
from meterhouse.warehouse.lake_reading import Reading
from meterhouse.warehouse.maintenance import MaintenanceSettings, maintain
from meterhouse.warehouse.reports.as_of import Freshness, Positions
from meterhouse.warehouse.reports.chargeback import Chargeback, chargeback
from meterhouse.warehouse.reports.groups import Selection
from meterhouse.warehouse.reports.query import DAY_US, Query
from meterhouse.warehouse.reports.usage import usage
from meterhouse.warehouse.view import EVERYTHING, Grant, View
from tests.builders import T0_US
from tests.warehouse.filled import SNAPSHOT, fill

MIDNIGHT_US = T0_US // DAY_US * DAY_US
MERGING = MaintenanceSettings(merge_files=2, merge_files_closed=2)
VIEWS = (EVERYTHING, View((Grant("acme"),)), View((Grant("bolt", "search"), Grant("cork"))))
GROUPS = ((), ("tenant", "model"), ("org_unit",), ("kind",), ("day",))


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with Lake.open(LakeConfig(tmp_path / "lake.sqlite", tmp_path / "data", threads=1)) as lake:
        yield lake


def request(offset: int, day: int, **more: Any) -> dict[str, Any]:
    """The `offset`th event, on a day counted from the last one that is over."""
    tenant, application = ("acme", "bolt", "cork")[offset % 3], ("assistant", "search")[offset % 2]
    shown = {"tenant": tenant, "application": application, "model": "atlas-large", "status": "ok"}
    time_us = MIDNIGHT_US + (day - 1) * DAY_US + offset * 7_919 * 1_000_003 % DAY_US
    return {**shown, "time": time_us, "input_tokens": 1 + offset, "offset": offset, **more}


def month(**more: Any) -> Selection:
    """A range with edges inside of days, hours and minutes."""
    return Selection(MIDNIGHT_US - 4 * DAY_US - 1_234_567, MIDNIGHT_US + DAY_US + 7_654_321_987, **more)


DAYS: Final = Selection(MIDNIGHT_US - 4 * DAY_US, MIDNIGHT_US + 2 * DAY_US)
"""A range that is read from sums alone."""
AS_OF: Final = Freshness(T0_US, {}, {}, Positions(1, ()))


def bill(
    lake: Lake, sums: KeptSums | None, view: View = EVERYTHING, *group_by: str, of: Selection | None = None
) -> Chargeback:
    return chargeback(SeenBooks(lake, view, sums=sums), view.cut(SNAPSHOT), of or month(), group_by)


STEPS = st.one_of(
    st.tuples(st.just("commit"), st.lists(st.integers(-4, 1), min_size=1, max_size=6)),
    st.tuples(st.just("merge"), st.just([])),
    st.tuples(st.just("erase"), st.lists(st.integers(0, 40), min_size=1, max_size=1)),
)


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.reuse, Phase.generate],  # an example takes a second, and is short as it is
)
@given(st.lists(STEPS, min_size=2, max_size=6), st.sampled_from(GROUPS), st.sampled_from(VIEWS))
def test_with_sums_kept_each_report_is_that_of_the_lake_as_it_is(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, list[int]]],
    group_by: tuple[str, ...],
    view: View,
) -> None:
    folder, offsets = tmp_path_factory.mktemp("lake"), count()
    with Lake.open(LakeConfig(folder / "lake.sqlite", folder / "data", threads=1)) as lake:
        fill(lake, [request(next(offsets), day) for day in (-3, 0, 1)])
        sums = KeptSums(lake)
        for step, numbers in [("look", []), *steps]:
            if step == "commit":
                fill(lake, [request(next(offsets), day) for day in numbers])
            elif step == "merge":
                maintain(lake, MIDNIGHT_US, MERGING)
            elif step == "erase":
                erase(lake, numbers[0])
            for who in {EVERYTHING, view}:
                assert bill(lake, sums, who, *group_by) == bill(lake, None, who, *group_by)
                for _ in range(2):
                    assert bill(lake, sums, who, *group_by, of=DAYS) == bill(lake, None, who, *group_by, of=DAYS)
            seen = SeenBooks(lake, view, sums=sums)
            by_hour = usage(seen, view.cut(SNAPSHOT), month(), (), "hour")
            assert by_hour == usage(SeenBooks(lake, view), view.cut(SNAPSHOT), month(), (), "hour")


def erase(lake: Lake, tokens: int) -> None:
    """Deletes rows in the midst of files, from all tables that a bill is made from."""
    with lake.borrowed() as cursor:
        for table in ("charges", "rollup_minute", "rollup_hour", "rollup_day"):
            cursor.execute(f"DELETE FROM {table} WHERE input_tokens % 3 = ?", [tokens % 3])


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The queries and files that are read, as they are."""
    names: list[bytes] = []
    as_it_was = KeptSums._of_file

    def of_file(self: KeptSums, name: bytes, read_it: Callable[[], pa.Table]) -> pa.Table | None:
        def noting() -> pa.Table:
            names.append(name)
            return read_it()

        return as_it_was(self, name, noting)

    monkeypatch.setattr(KeptSums, "_of_file", of_file)
    return names


def test_a_file_is_read_once_for_a_query_and_a_new_one_alone_after_a_commit(lake: Lake, read: list[bytes]) -> None:
    sums = KeptSums(lake)
    for offset, day in enumerate((-3, -2, 0, 1)):
        fill(lake, [request(offset, day)])
        bill(lake, sums, EVERYTHING, "tenant")
        bill(lake, sums, EVERYTHING, "tenant")
    assert len(read) == len(set(read))
    before = len(read)
    fill(lake, [request(5, 1)])
    bill(lake, sums, EVERYTHING, "tenant")
    assert len(read) - before == 1, "of days; of the hours at the edges there are none"


def test_a_querys_files_are_read_by_one_at_a_time(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(lake, [request(0, -1)])
    sums, taken = KeptSums(lake), list[bool]()
    as_it_was = KeptSums._of_file

    def of_file(self: KeptSums, name: bytes, read_it: Callable[[], pa.Table]) -> pa.Table | None:
        taken.append(self._turn(name[: kept_sums._DIGEST_BYTES]).locked())
        return as_it_was(self, name, read_it)

    monkeypatch.setattr(KeptSums, "_of_file", of_file)
    bill(lake, sums, EVERYTHING, "tenant")
    assert taken == [True]
    assert not any(turn.locked() for turn in sums._turns.values())


def test_who_looks_ahead_leaves_nothing_to_read_to_whoever_asked_lately_and_asks_again(
    lake: Lake, read: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(lake, [request(0, -1)])
    sums = KeptSums(lake)
    for view in VIEWS:
        bill(lake, sums, view, "tenant")
    fill(lake, [request(1, -1), request(2, 0)])
    before = len(read)
    ahead(lake, sums)
    assert len(read) - before == len(VIEWS), "a file per commit"
    known = len(read)
    for view in VIEWS:
        assert bill(lake, sums, view, "tenant") == bill(lake, None, view, "tenant")
    assert len(read) == known
    monkeypatch.setattr(kept_sums, "LATELY_S", -1.0)
    fill(lake, [request(4, -1)])
    ahead(lake, sums)
    assert len(read) == known, "nobody asked lately"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Queries of sums that were run."""
    run: list[str] = []
    as_it_was = Query.read

    def noting(query: Query, cursor: Cursor) -> list[tuple[Any, ...]]:
        if query.keepable:
            run.append(query.sql)
        return as_it_was(query, cursor)

    monkeypatch.setattr(Query, "read", noting)
    return run


def test_a_query_of_sums_alone_is_run_once_a_snapshot_and_ahead_of_who_asked_lately(
    lake: Lake, run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books, "ROWS_S", 600.0)  # however slow the machine is
    fill(lake, [request(0, -1)])
    sums = KeptSums(lake)
    bills = [bill(lake, sums, VIEWS[1], "tenant", of=DAYS) for _ in range(2)]
    assert (bills[0], len(run)) == (bills[1], 1)
    for number in (1, 2):
        fill(lake, [request(3 * number, -1)])
        ahead(lake, sums)
        assert len(run) == 1 + number
    fresh = bill(lake, sums, VIEWS[1], "tenant", of=DAYS)
    assert (fresh.total.requests, len(run)) == (bills[0].total.requests + 2, 3)
    for _ in range(2):
        bill(lake, sums, VIEWS[1], "tenant")
    assert len(run) == 5, "the edges of a month are read from tables"


def test_rows_of_the_snapshot_before_are_kept_beside_the_newest_ones(
    lake: Lake, run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books, "ROWS_S", 600.0)
    fill(lake, [request(0, -1)])
    sums = KeptSums(lake)
    with lake.read() as cursor:
        before = OneRead(SeenBooks(lake, EVERYTHING, sums=sums), Reading(lake, ExitStack(), lake.snapshot_id(cursor)))
    told = chargeback(before, SNAPSHOT, DAYS, ("tenant",), AS_OF)
    for number in range(2):
        fill(lake, [request(3 + number, -1)])
        ahead(lake, sums)
        runs = len(run)
        again = chargeback(before, SNAPSHOT, DAYS, ("tenant",), AS_OF)
        assert again == told
        assert len(run) - runs == number, "of the one before the last nothing is kept"


def test_rows_are_made_ahead_of_who_asked_last_as_long_as_there_is_time_and_sums_of_all(
    lake: Lake, run: list[str], read: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = count()
    monkeypatch.setattr(books, "monotonic", lambda: next(now_s))
    monkeypatch.setattr(books, "ROWS_S", 2.5)  # of looks at the clock: the first begins, two are before it is over
    fill(lake, [request(0, -1)])
    sums = KeptSums(lake)
    for name in ("tenant", "application", "model"):
        bill(lake, sums, EVERYTHING, name, of=DAYS)
    first, *last = run
    runs, reads = len(run), len(read)
    fill(lake, [request(3, -1)])
    ahead(lake, sums)
    assert run[runs:] == last[::-1]
    assert first not in last
    assert len(read) - reads == 3


def test_queries_come_first_and_rows_that_are_too_many_to_be_kept_are_not_made_ahead(
    lake: Lake, run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_sums, "MOST_ROWS", 3)
    fill(lake, [request(offset, -1) for offset in range(9)])
    sums = KeptSums(lake)
    bill(lake, sums, EVERYTHING, "tenant", "application", of=DAYS)
    assert [isinstance(asked.what, Query) for asked in sums.asked_lately()] == [False]
    bill(lake, sums, EVERYTHING, "application", of=DAYS)
    assert [isinstance(asked.what, Query) for asked in sums.asked_lately()] == [True, False, False]
    runs = len(run)
    fill(lake, [request(9, -1)])
    ahead(lake, sums)
    assert len(run) - runs == 1


def test_sums_of_files_that_were_merged_are_forgotten_once_no_snapshot_that_may_be_read_has_them(lake: Lake) -> None:
    sums = KeptSums(lake)
    for offset in range(4):
        fill(lake, [request(offset, -1)])
        bill(lake, sums, EVERYTHING, "tenant")
    of_four = sums.held_bytes
    maintain(lake, MIDNIGHT_US, MERGING)
    bill(lake, sums, EVERYTHING, "tenant")
    assert len(sums._sums) == 4 + 1
    fill(lake, [request(4, -1)])
    bill(lake, sums, EVERYTHING, "tenant")
    assert len(sums._sums) == 1 + 1
    assert 0 < sums.held_bytes < of_four
    assert sums.held_bytes == sum(each.nbytes + kept_sums.OVERHEAD_BYTES for each in sums._sums.values())


def ahead(lake: Lake, sums: KeptSums) -> None:
    with lake.read() as cursor:
        look_ahead(sums, cursor)


def test_who_sees_less_is_never_given_what_was_kept_for_another(lake: Lake) -> None:
    fill(lake, [request(offset, -1) for offset in range(9)])
    sums = KeptSums(lake)
    whole = bill(lake, sums, EVERYTHING, "tenant")
    acme = bill(lake, sums, View((Grant("acme"),)), "tenant")
    assert [line.groups["tenant"] for line in whole.lines] == ["acme", "bolt", "cork"]
    assert acme.lines == whole.lines[:1]


def test_the_least_used_sums_go_first_and_large_ones_are_not_kept(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(lake, [request(offset, -1) for offset in range(9)])
    sums = KeptSums(lake)
    bill(lake, sums, EVERYTHING, "tenant")
    one = sums.held_bytes
    assert one > 0
    monkeypatch.setattr(kept_sums, "MOST_BYTES", one)
    bill(lake, sums, EVERYTHING, "model")
    assert 0 < sums.held_bytes <= one
    monkeypatch.setattr(kept_sums, "LARGEST_BYTES", 0)
    fresh = KeptSums(lake)
    assert bill(lake, fresh, EVERYTHING, "tenant") == bill(lake, None, EVERYTHING, "tenant")
    assert fresh.held_bytes == 0
