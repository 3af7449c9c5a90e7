"""Back-ups: one consistent state of catalogue, files, control data and embedded log, taken while all of it is used.

The catalogue's copy comes first and decides: it names its files, which never change, and how far the log is metered.
Its snapshot is held, as a report's is, until they are copied. Control data and log come after it, so they know of all
that it names. The manifest comes last.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final, Protocol

from meterhouse.warehouse.backup import catalogue_copy
from meterhouse.warehouse.backup.databases import Database, SqliteDatabase
from meterhouse.warehouse.backup.manifest import MAX_BYTES, NAME, BackupError, Manifest, Part, manifest_of
from meterhouse.warehouse.backup.trees import Tree, each_of, tree_of
from meterhouse.warehouse.lake_store import S3Place

CATALOGUE: Final = "catalogue"
CONTROL: Final = "control"
LOG: Final = "log"
FILES: Final = "files"
"""Folders of a back-up."""

Place = Path | S3Place
Told = Callable[[str, int, int], None]
"""Hears what is being done, how many of it are done, and how many there are."""


def _silent(what: str, done: int, of: int) -> None:
    """Nobody listens."""


class Hold(Protocol):
    """Keeps a lake snapshot from being let go."""

    def begin(self, snapshot: int) -> None: ...

    def go_on(self) -> None:
        """Raises BackupError: it was let go."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What is backed up, or restored to."""

    catalogue: Database
    control: Database
    data: Place
    log: SqliteDatabase | None  # of the embedded log; None: a broker has it


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A part that a back-up lacks, or has in another form than it was written."""

    name: str
    told: str


def create(parts: Parts, place: Place, hold: Hold, clock: Callable[[], int], told: Told = _silent) -> Manifest:
    """Makes a back-up at an empty place. Raises BackupError; what is there then is no back-up."""
    target, data = tree_of(place), tree_of(parts.data)
    _check_apart(target, data)
    if target.names():
        raise BackupError(f"{target.named} is not empty: give each back-up a place of its own")
    if isinstance(place, Path):
        place.mkdir(parents=True, exist_ok=True, mode=0o700)  # it holds what the home holds
    staging = tempfile.TemporaryDirectory(prefix="meterhouse-backup-", dir=place if isinstance(place, Path) else None)
    with staging as folder:
        staged = tree_of(Path(folder))
        taken_us = clock()
        with parts.catalogue.copied(Path(folder) / CATALOGUE) as ask:
            [(snapshot,)] = ask(catalogue_copy.NEWEST)
            needed, marks = catalogue_copy.files(ask), catalogue_copy.marks(ask)
        hold.begin(snapshot)
        if not parts.catalogue.ask(f"SELECT 1 FROM ducklake_snapshot WHERE snapshot_id = {snapshot:d}"):
            raise BackupError("the lake let its snapshot go before it could be held: try again")

        made = _files_copied(target, data, needed, hold, told)
        with parts.control.copied(Path(folder) / CONTROL) as ask:
            [(schema,)] = ask("SELECT version_num FROM alembic_version")
        if parts.log is not None:
            with parts.log.copied(Path(folder) / LOG):
                pass
        names = staged.names()
        databases = each_of(
            names,
            lambda name: target.copy(name, staged, name),
            lambda done: told("databases", done, len(names)),
        )
    manifest = Manifest(
        version=version("meterhouse"), taken_us=taken_us, ended_us=clock(), catalogue=parts.catalogue.kind,
        control=parts.control.kind, control_schema=schema, log=parts.log is not None, lake_snapshot=snapshot,
        marks=marks, parts=[*databases, *made],
    )  # fmt: skip
    target.write(NAME, manifest.to_bytes())
    return manifest


def _files_copied(
    target: Tree, data: Tree, needed: Sequence[catalogue_copy.LakeFile], hold: Hold, told: Told
) -> list[Part]:
    def copied(file: catalogue_copy.LakeFile) -> Part:
        hold.go_on()
        part = target.copy(f"{FILES}/{file.name}", data, file.name)
        if part.bytes != file.bytes:
            raise BackupError(f"{file.name} has {part.bytes:,} bytes, not {file.bytes:,}: the lake is damaged")
        return part

    try:
        return each_of(needed, copied, lambda done: told("files", done, len(needed)))
    except FileNotFoundError as gone:
        raise BackupError(f"a file of the lake is not there ({gone}): run `meterhouse verify`") from None


def read(place: Place) -> Manifest:
    """The manifest of a back-up. Raises BackupError where there is none."""
    tree = tree_of(place)
    content = tree.read(NAME, MAX_BYTES)
    if content is None:
        raise BackupError(f"there is no back-up at {tree.named}, or one that was not finished: it has no {NAME}")
    return manifest_of(content, tree.named)


def check(place: Place, told: Told = _silent) -> tuple[Manifest, list[Shortfall]]:
    """The manifest, and each part that is not as the manifest says. Reads all of it. Raises BackupError."""
    manifest, tree = read(place), tree_of(place)

    def looked_at(part: Part) -> Shortfall | None:
        try:
            return _difference(part, tree.part(part.name))
        except FileNotFoundError:
            return Shortfall(part.name, "it is missing")

    found = each_of(manifest.parts, looked_at, lambda done: told("parts", done, len(manifest.parts)))
    return manifest, [each for each in found if each is not None]


def restore(parts: Parts, place: Place, *, keep_log: bool = False, told: Told = _silent) -> Manifest:
    """Puts a back-up into an empty place. With `keep_log` the log that is there stays, in place of the back-up's.

    Raises BackupError: no lake was restored then.
    """
    manifest, source, data = read(place), tree_of(place), tree_of(parts.data)
    _check_apart(source, data)
    _check_kinds(manifest, parts)
    _check_empty(parts, data, keep_log)
    with tempfile.TemporaryDirectory(prefix="meterhouse-restore-", dir=_near(parts)) as folder:
        staged = tree_of(Path(folder))
        databases = [part for of in (CATALOGUE, CONTROL, LOG) for part in manifest.of(of)]
        each_of(databases, partial(_restored, source, staged, ""), lambda done: told("databases", done, len(databases)))
        files = manifest.of(FILES)
        try:
            each_of(files, partial(_restored, source, data, f"{FILES}/"), lambda done: told("files", done, len(files)))
            _load(parts, manifest, Path(folder))
        except BaseException:
            for file in files:
                data.remove(file.name.removeprefix(f"{FILES}/"))
            raise
    return manifest


def _near(parts: Parts) -> Path | None:
    """A folder on the disk that databases go to: a log may be larger than the one of temporary files."""
    files = [each.path for each in (parts.log, parts.catalogue, parts.control) if isinstance(each, SqliteDatabase)]
    if not files:
        return None
    files[0].parent.mkdir(parents=True, exist_ok=True)
    return files[0].parent


def _load(parts: Parts, manifest: Manifest, staged: Path) -> None:
    parts.catalogue.load(staged / CATALOGUE, catalogue_copy.alone())
    try:
        parts.control.load(staged / CONTROL, ())
        if parts.log is not None and manifest.log and parts.log.empty():
            parts.log.load(staged / LOG, ())
    except BackupError as trouble:
        raise BackupError(
            f"{trouble}. The catalogue was restored already: empty {parts.catalogue.named} first"
        ) from None


def _restored(source: Tree, target: Tree, less: str, part: Part) -> None:
    name = part.name.removeprefix(less)
    try:
        wrong = _difference(part, replace(target.copy(name, source, part.name), name=part.name))
    except FileNotFoundError:
        wrong = Shortfall(part.name, "it is missing")
    if wrong is not None:
        raise BackupError(
            f"the back-up at {source.named} is damaged, and nothing was restored: {part.name}: {wrong.told}."
            " Use another back-up; `meterhouse backup verify` lists what is wrong with one"
        )


def _difference(wanted: Part, found: Part) -> Shortfall | None:
    if found == wanted:
        return None
    if found.bytes != wanted.bytes:
        return Shortfall(wanted.name, f"it has {found.bytes:,} bytes, not {wanted.bytes:,}")
    return Shortfall(wanted.name, "its bytes are not those that were written")


def _check_apart(backup: Tree, data: Tree) -> None:
    if type(backup.place) is type(data.place) and (
        f"{backup.root}/".startswith(f"{data.root}/") or f"{data.root}/".startswith(f"{backup.root}/")
    ):
        raise BackupError(
            f"{backup.named} and the lake's files are within each other, and maintenance removes what is not the"
            " lake's: name another place"
        )


def _check_kinds(manifest: Manifest, parts: Parts) -> None:
    for what, made, wanted in (
        ("CATALOGUE", manifest.catalogue, parts.catalogue.kind),
        ("CONTROL", manifest.control, parts.control.kind),
    ):
        if made != wanted:
            how = f"set METERHOUSE_{what}" if made == "postgresql" else f"unset METERHOUSE_{what}"
            raise BackupError(f"the back-up's {what.lower()} is of {made}, and settings say {wanted}: {how}")


def _check_empty(parts: Parts, data: Tree, keep_log: bool) -> None:
    found = [each.named for each in (parts.catalogue, parts.control) if not each.empty()]
    if data.names():
        found.append(data.named)
    if found:
        raise BackupError(
            f"a back-up is restored into an empty place only, and there is something in {', '.join(found)}: nothing was"
            " changed. Name an empty home, new databases, another prefix; or move what is there away"
        )
    if parts.log is not None and not keep_log and not parts.log.empty():
        raise BackupError(
            f"there is a log at {parts.log.named}: give --keep-log to go on with it, or move it away to have the"
            " back-up's. Nothing was changed"
        )
