"""What is read from the catalogue's own tables is what the lake's tables say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meterhouse.warehouse import catalogue
from meterhouse.warehouse.lake import Cursor, Lake
from tests.builders import T0_US
from tests.services.lakes import MakeLake
from tests.warehouse.filled import fill


@pytest.fixture(params=["sqlite-folder", "postgres-folder"])
def lake(request: pytest.FixtureRequest, new_lake: MakeLake) -> Iterator[Lake]:
    with Lake.open(new_lake(request.param)) as lake:
        yield lake


def request(offset: int, partition: int) -> dict[str, object]:
    return {"tenant": "acme", "model": "atlas-large", "status": "ok", "time": T0_US, "offset": offset,
            "partition": partition, "input_tokens": 1}  # fmt: skip


def files_of(lake: Lake, cursor: Cursor, table: str, snapshot: int) -> list[catalogue.LakeFile] | None:
    return catalogue.files(lake, cursor, (table, "rejects"), snapshot)[table]


def both(lake: Lake) -> tuple[object, object]:
    """Positions as the catalogue and as the lake's tables have them."""
    with lake.read() as cursor:
        told = catalogue.positions(lake, cursor, lake.snapshot_id(cursor))
        rows = cursor.execute('SELECT "partition", next_offset, arrived_us FROM positions ORDER BY 1').fetchall()
    return told, rows


def test_positions_are_those_of_the_lake_through_commits_and_growth(lake: Lake) -> None:
    assert both(lake) == (None, [])
    for partition, offset in ((0, 4), (1, 0), (0, 9), (2, 5), (1, 7)):
        fill(lake, [request(offset, partition)])
        told, rows = both(lake)
        assert told == rows
    assert [offset for _, offset, _ in rows] == [10, 8, 6]  # type: ignore[attr-defined]


def test_of_an_older_snapshot_the_catalogue_is_not_asked(lake: Lake) -> None:
    fill(lake, [request(0, 0)])
    with lake.read() as cursor:
        snapshot = lake.snapshot_id(cursor)
        assert files_of(lake, cursor, "rollup_day", snapshot) is not None
        assert catalogue.positions(lake, cursor, snapshot - 1) is None
        assert files_of(lake, cursor, "rollup_day", snapshot - 1) in (None, [])


def test_files_are_those_that_the_lake_lists_and_say_what_times_they_hold(lake: Lake) -> None:
    fill(lake, [request(0, 0)])
    with lake.read() as cursor:
        told = files_of(lake, cursor, "charges", lake.snapshot_id(cursor))
        listed = cursor.execute("SELECT data_file FROM ducklake_list_files('lake', 'charges')").fetchall()
    assert told is not None
    assert [(file.path,) for file in told] == listed
    assert [(file.first_us, file.last_us) for file in told] == [(T0_US, T0_US)]
    assert [file.may_hold(T0_US, T0_US + 1) for file in told] == [True]
    assert [file.may_hold(T0_US + 1, T0_US + 2) for file in told] == [False]


def test_a_table_with_deleted_rows_is_read_by_the_lake(lake: Lake) -> None:
    fill(lake, [request(0, 0), request(1, 0) | {"input_tokens": 2}])
    with lake.borrowed() as cursor:
        cursor.execute("DELETE FROM charges WHERE input_tokens = 1")
    with lake.read() as cursor:
        assert files_of(lake, cursor, "charges", lake.snapshot_id(cursor)) is None
