"""Back-ups: whole or none, restored into an empty place or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from meterhouse.api.clock import now_us
from meterhouse.warehouse.audit import AuditLog, Deed
from meterhouse.warehouse.backup.backups import Parts, Place, check, create, read, restore
from meterhouse.warehouse.backup.databases import Database, PostgresDatabase, SqliteDatabase
from meterhouse.warehouse.backup.manifest import BackupError, Mark, manifest_of
from meterhouse.warehouse.backup.trees import Tree, tree_of
from meterhouse.warehouse.database import open_database, sqlite_url
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.lake_ledger import LakeLedger
from meterhouse.warehouse.lake_store import S3Place
from meterhouse.warehouse.maintenance import MaintenanceSettings, maintain
from meterhouse.warehouse.verify import verify
from tests.builders import DAY_US, T0_US
from tests.services.databases import with_driver
from tests.services.lakes import MakeLake
from tests.warehouse.filled import SNAPSHOT, fill, reject

LATER = MaintenanceSettings(merge_files=2, size_classes=(2**40,), delete_after_us=10 * DAY_US)
"""Merges, lets snapshots go, and leaves their files to be deleted."""
ROWS = [{"input_tokens": number, "id": str(number)} for number in range(1, 5)]


class Held:
    """A hold that counts."""

    def __init__(self) -> None:
        self.snapshots: list[int] = []
        self.looks = 0

    def begin(self, snapshot: int) -> None:
        self.snapshots.append(snapshot)

    def go_on(self) -> None:
        self.looks += 1


@dataclass
class Site:
    """A lake and control data of one kind, and where a back-up of them may be."""

    config: LakeConfig
    control_url: str
    parts: Parts
    backup: Place

    def control(self) -> sa.Engine:
        return open_database(self.control_url)


MakeSite = Callable[[], Site]


@pytest.fixture(params=["sqlite-folder", "postgres-s3"])
def new_site(request: pytest.FixtureRequest, new_lake: MakeLake, tmp_path: Path) -> MakeSite:
    made = 0

    def make() -> Site:
        nonlocal made
        made += 1
        config = new_lake(request.param)
        catalogue: Database
        control: Database
        if isinstance(config.catalogue, Path):
            file = tmp_path / f"control-{made}.sqlite"
            catalogue, control, url = SqliteDatabase(config.catalogue), SqliteDatabase(file), sqlite_url(file)
        else:
            place = request.getfixturevalue("postgres").new_database()
            catalogue = PostgresDatabase(config.catalogue, "the catalogue", catalogue=True)
            control, url = PostgresDatabase(place, "control data", catalogue=False), with_driver(place)
        backup: Place = tmp_path / f"backup-{made}"
        if isinstance(config.data, S3Place):
            backup = replace(config.data, url=f"{config.data.url}-backup")
        return Site(config, url, Parts(catalogue, control, config.data, None), backup)

    return make


@pytest.fixture
def site(new_site: MakeSite) -> Site:
    """With rows of two commits, merged files that nobody needs any more, and two entries of the audit log."""
    made = new_site()
    with Lake.open(made.config) as lake:
        for number in range(2):
            fill(
                lake, [{**row, "id": f"{number}-{row['id']}", "offset": 10 * number + n} for n, row in enumerate(ROWS)]
            )
        report = maintain(lake, now_us() + DAY_US, LATER)
        assert report.merged_files > 0
        assert report.expired_snapshots > 0
        fill(lake, [], [], [reject(40)])
    engine = made.control()
    for number in range(2):
        AuditLog(engine).record(Deed("ann", "control.applied", f"version {number}", {"ä": None}), T0_US + number)
    engine.dispose()
    return made


def what_it_holds(site: Site) -> list[Any]:
    with Lake.open(site.config) as lake:
        assert verify(lake, SNAPSHOT).balanced
        ledger = LakeLedger(lake)
        positions = ledger.positions()
        ledger.close()
        with lake.read() as cursor:
            rows = [
                cursor.execute(f'SELECT * FROM {table} ORDER BY "offset"').fetchall()
                for table in ("charges", "rejects")
            ]
    engine = site.control()
    with engine.connect() as connection:
        entries = connection.execute(sa.text("SELECT seq, actor, subject, detail FROM audit_log ORDER BY seq")).all()
    assert AuditLog(engine).verify(()).fault is None
    engine.dispose()
    return [positions, *rows, entries]


def identity(site: Site) -> str:
    with Lake.open(site.config) as lake, lake.read() as cursor:
        return lake.identity(cursor)


def test_what_is_restored_is_what_was_backed_up_and_goes_on(site: Site, new_site: MakeSite) -> None:
    hold, wanted = Held(), what_it_holds(site)
    manifest = create(site.parts, site.backup, hold, lambda: T0_US)
    assert hold.snapshots == [manifest.lake_snapshot]
    assert hold.looks == len(manifest.of("files")) > 0
    assert manifest.marks == {0: Mark(41, T0_US)}
    assert check(site.backup) == (manifest, [])
    there = new_site()
    assert restore(there.parts, site.backup) == manifest
    assert what_it_holds(there) == wanted
    assert identity(there) != identity(site)  # what was derived of the one is not taken for the other's
    with Lake.open(there.config) as lake:
        fill(lake, [{"id": "later", "offset": 50}])
        report = maintain(lake, now_us() + DAY_US, replace(LATER, delete_after_us=-DAY_US, keep_all_us=2 * DAY_US))
        assert (report.trouble, report.deleted_files) == ((), 0)  # what the other lake still had to delete is not here
        assert verify(lake, SNAPSHOT).balanced


def test_a_back_up_that_was_interrupted_is_none(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, done = Tree.copy, 0

    def interrupted(self: Tree, name: str, source: Tree, of: str) -> Any:
        nonlocal done
        done += 1
        if done > 3:
            raise KeyboardInterrupt
        return copy(self, name, source, of)

    monkeypatch.setattr(Tree, "copy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        create(site.parts, site.backup, Held(), lambda: T0_US)
    monkeypatch.undo()
    assert tree_of(site.backup).names()
    with pytest.raises(BackupError, match=r"no back-up at .* or one that was not finished"):
        check(site.backup)
    with pytest.raises(BackupError, match="not empty: give each back-up a place of its own"):
        create(site.parts, site.backup, Held(), lambda: T0_US)


@pytest.mark.parametrize("harm", ["changed", "cut", "missing"])
def test_a_damaged_back_up_is_named_and_restores_nothing(site: Site, new_site: MakeSite, harm: str) -> None:
    manifest, tree = create(site.parts, site.backup, Held(), lambda: T0_US), tree_of(site.backup)
    part = manifest.of("files")[-1]
    content = tree.read(part.name, 2**30) or b""
    tree.remove(part.name)
    if harm != "missing":
        tree.write(part.name, content[:-1] + bytes([content[-1] ^ 1]) if harm == "changed" else content[:-1])
    [wrong] = check(site.backup)[1]
    assert wrong.name == part.name
    there = new_site()
    with pytest.raises(BackupError, match="is damaged, and nothing was restored"):
        restore(there.parts, site.backup)
    assert (there.parts.catalogue.empty(), there.parts.control.empty()) == (True, True)
    assert tree_of(there.config.data).names() == []


def test_a_back_up_is_restored_into_an_empty_place_only(site: Site, new_site: MakeSite) -> None:
    create(site.parts, site.backup, Held(), lambda: T0_US)
    wanted = what_it_holds(site)
    with pytest.raises(BackupError, match="into an empty place only"):
        restore(site.parts, site.backup)
    assert what_it_holds(site) == wanted
    there = new_site()
    other = tree_of(there.config.data)
    other.write("main/charges/stray.parquet", b"PAR1")
    with pytest.raises(BackupError, match="into an empty place only"):
        restore(there.parts, site.backup)
    assert other.names() == ["main/charges/stray.parquet"]


def test_a_back_up_within_the_lake_is_refused(site: Site) -> None:
    data = site.config.data
    within = replace(data, url=f"{data.url}/backup") if isinstance(data, S3Place) else data / "backup"
    with pytest.raises(BackupError, match="within each other"):
        create(site.parts, within, Held(), lambda: T0_US)


def test_a_manifest_that_was_edited_is_refused(tmp_path: Path, site: Site) -> None:
    content = create(site.parts, site.backup, Held(), lambda: T0_US).to_bytes()
    assert read(site.backup) == manifest_of(content, "there")
    for wrong in (content.replace(b'"lake_snapshot": ', b'"lake_snapshot": 1'), content[:-9], b"[]", b"{}"):
        with pytest.raises(BackupError, match="is damaged"):
            manifest_of(wrong, "there")
    with pytest.raises(BackupError, match="a newer Meterhouse made it"):
        manifest_of(content.replace(b'"format": 1', b'"format": 2'), "there")


def test_another_kind_of_database_is_refused_and_says_which_setting(
    site: Site, new_site: MakeSite, tmp_path: Path
) -> None:
    create(site.parts, site.backup, Held(), lambda: T0_US)
    other: Database = SqliteDatabase(tmp_path / "other.sqlite")
    if site.parts.catalogue.kind == "sqlite":
        other = PostgresDatabase("postgresql://nobody@127.0.0.1:1/none", "none", catalogue=True)
    with pytest.raises(BackupError, match="METERHOUSE_CATALOGUE"):
        restore(replace(new_site().parts, catalogue=other), site.backup)
