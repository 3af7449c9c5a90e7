"""What a process knows of the newest snapshot without asking, and reads that begin after a commit came between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from meterhouse.warehouse import lake_writing
from meterhouse.warehouse.books import OneRead, SeenBooks
from meterhouse.warehouse.kept_sums import KeptSums
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.lake_reading import Reading, reading
from meterhouse.warehouse.lake_writing import Writing
from meterhouse.warehouse.maintenance import MaintenanceSettings, maintain
from meterhouse.warehouse.reports.as_of import Freshness, KeptPositions
from meterhouse.warehouse.reports.chargeback import chargeback
from meterhouse.warehouse.reports.charges import Wanted, charges
from meterhouse.warehouse.reports.groups import Selection
from meterhouse.warehouse.reports.latencies import latencies
from meterhouse.warehouse.reports.query import DAY_US
from meterhouse.warehouse.reports.usage import usage
from meterhouse.warehouse.view import EVERYTHING, Grant, View
from tests.builders import T0_US
from tests.warehouse.filled import SNAPSHOT, fill

MIDNIGHT_US: Final = T0_US // DAY_US * DAY_US
EDGES: Final = Selection(MIDNIGHT_US - DAY_US - 1_234_567, MIDNIGHT_US + DAY_US - 7_654_321)
DAYS: Final = Selection(MIDNIGHT_US - 2 * DAY_US, MIDNIGHT_US + 2 * DAY_US)
VIEWS: Final = (EVERYTHING, View((Grant("acme"),)), View((Grant("bolt", "search"),)))


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    with Lake.open(LakeConfig(tmp_path / "lake.sqlite", tmp_path / "data", threads=1)) as lake:
        yield lake


def rows(first: int, count: int) -> list[dict[str, Any]]:
    return [
        {
            "tenant": ("acme", "bolt", "cork")[offset % 3],
            "application": ("assistant", "search")[offset % 2],
            "model": "atlas-large",
            "status": "ok",
            "time": MIDNIGHT_US - DAY_US + offset * 7_919 * 1_000_003 % (2 * DAY_US),
            "input_tokens": 1 + offset,
            "duration_us": 1_000 * (1 + offset),
            "offset": offset,
        }
        for offset in range(first, first + count)
    ]


def read_once(lake: Lake) -> int:
    with lake.read() as cursor:
        return lake.snapshot_id(cursor)


# -- what is known -----------------------------------------------------------------------------------------------------


def test_the_newest_snapshot_is_known_from_a_read_until_something_is_written(lake: Lake) -> None:
    before = read_once(lake)
    assert lake.writing.newest == before
    fill(lake, rows(0, 3))
    assert lake.writing.newest is None
    after = read_once(lake)
    assert lake.writing.newest == after > before
    maintain(lake, T0_US, MaintenanceSettings())
    assert lake.writing.newest is None


def test_who_does_not_write_alone_knows_nothing(lake: Lake) -> None:
    fill(lake, rows(0, 3))
    with Lake.open(lake.config, read_only=True) as reader:
        read_once(reader)
        assert reader.writing.newest is None
    shared = Writing(is_alone=False)
    shared.note(shared.times, 7)
    assert shared.newest is None


def test_what_a_slow_reader_saw_before_a_commit_is_not_the_newest_after_it() -> None:
    writing = Writing(is_alone=True)
    times = writing.times
    with writing:
        pass
    writing.note(times, 7)
    assert writing.newest is None
    writing.note(writing.times, 8)
    assert writing.newest == 8
    writing.note(times, 9)
    assert writing.newest == 8


def test_while_something_is_written_the_later_of_two_snapshots_is_the_newest() -> None:
    writing = Writing(is_alone=True)
    with writing:
        writing.note(writing.times, 8)  # began after COMMIT
        writing.note(writing.times, 7)  # began before it, and came later
        assert writing.newest == 8


def test_while_the_newest_snapshot_is_made_ready_the_one_before_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    monkeypatch.setattr(lake_writing, "monotonic", lambda: now_s[0])
    writing = Writing(is_alone=True)
    writing.note(writing.times, 7)
    writing.is_followed = True
    with writing:
        pass
    writing.note(writing.times, 8)
    assert writing.newest == 7
    now_s[0] += lake_writing.BEHIND_S / 2
    with writing:
        pass
    assert writing.newest == 7
    now_s[0] += lake_writing.BEHIND_S / 2
    assert writing.newest is None, "a second commit does not leave the first one's readers behind longer"
    writing.note(writing.times, 9)
    assert writing.newest == 9
    writing.made_ready()
    with writing:
        pass
    assert writing.newest == 9
    writing.made_ready()
    assert writing.newest is None
    writing.note(writing.times, 10)
    assert writing.newest == 10


def test_without_a_follower_nobody_is_left_behind() -> None:
    writing = Writing(is_alone=True)
    writing.note(writing.times, 7)
    with writing:
        pass
    assert writing.newest is None
    assert writing.moved.is_set()


# -- reads that begin late ---------------------------------------------------------------------------------------------

REPORTS: Final[dict[str, Callable[[OneRead, View, Freshness | None], object]]] = {
    "chargeback": lambda books, view, fresh: chargeback(books, view.cut(SNAPSHOT), EDGES, ("tenant", "model"), fresh),
    "chargeback of days": lambda books, view, fresh: chargeback(books, view.cut(SNAPSHOT), DAYS, ("tenant",), fresh),
    "usage": lambda books, view, fresh: usage(books, view.cut(SNAPSHOT), EDGES, ("model",), "hour", fresh),
    "latencies": lambda books, view, fresh: latencies(books, EDGES, ("model",), "day", fresh),
    "charges": lambda books, view, fresh: charges(books, view.cut(SNAPSHOT), Wanted(EDGES, None, None, 100), fresh),
}


@pytest.mark.parametrize("asked_before", [False, True])
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("name", REPORTS)
def test_a_read_that_begins_after_a_commit_is_of_the_snapshot_before_it(
    lake: Lake, name: str, view: View, asked_before: bool
) -> None:
    fill(lake, rows(0, 30))
    sums, positions, report = KeptSums(lake), KeptPositions(), REPORTS[name]
    seen = SeenBooks(lake, view, sums=sums)
    with reading(lake, None) as cursor:
        fresh = Freshness(T0_US, {}, {}, positions.read(lake, cursor))
        begun = report(OneRead(SeenBooks(lake, view), cursor), view, fresh)
        assert not asked_before or report(OneRead(seen, cursor), view, fresh) == begun
        snapshot = cursor.snapshot
    with ExitStack() as until:
        late = Reading(lake, until, snapshot)
        fill(lake, rows(30, 30))
        with reading(lake, None) as now:
            newer = Freshness(T0_US, {}, {}, positions.read(lake, now))
            assert report(OneRead(seen, now), view, newer) != begun
        assert report(OneRead(seen, late), view, fresh) == begun
        assert name in ("chargeback of days", "charges") or late.at() == snapshot


def test_a_report_whose_rows_are_kept_begins_no_transaction(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(lake, rows(0, 30))
    books = SeenBooks(lake, EVERYTHING, sums=KeptSums(lake))
    with reading(lake, None) as cursor:
        fresh = Freshness(T0_US, {}, {}, KeptPositions().read(lake, cursor))
        told = chargeback(OneRead(books, cursor), SNAPSHOT, DAYS, ("tenant",), fresh)
    monkeypatch.setattr(Lake, "begun", None)
    with reading(lake, lake.writing.newest) as cursor:
        assert chargeback(OneRead(books, cursor), SNAPSHOT, DAYS, ("tenant",), fresh) == told
