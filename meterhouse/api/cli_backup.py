"""`meterhouse backup`: back-ups made, checked and restored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from meterhouse.api import tables
from meterhouse.api.cli_common import (
    FAILED,
    Format,
    FormatOption,
    emit,
    err,
    errors,
    fail,
    out,
    progress_bar,
    settings_of,
    user_name,
)
from meterhouse.api.clock import now_us
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.api.wiring_keep import hold_of, parts_of, place_of
from meterhouse.ingest.log import USAGE_EVENTS, LogError
from meterhouse.warehouse.audit import Deed
from meterhouse.warehouse.backup import backups
from meterhouse.warehouse.backup.manifest import Manifest
from meterhouse.warehouse.reports.to_json import rfc3339

app = typer.Typer(no_args_is_help=True)

PlaceArgument = Annotated[
    str, typer.Argument(metavar="PLACE", help="A folder, or s3://bucket/prefix in the store of METERHOUSE_DATA.")
]


@app.command()
def create(
    ctx: typer.Context,
    place: PlaceArgument,
    without_log: Annotated[bool, typer.Option("--without-log", help="Leave the embedded log out.")] = False,
    form: FormatOption = Format.table,
) -> None:
    """Copies catalogue, files, control data and the embedded log to an empty place, while all of it is used. A back-up
    that was not finished has no manifest, and is none."""
    settings = settings_of(ctx)
    with errors(), House(settings) as house, _progress() as told:
        hold = hold_of(house, now_us)  # opens control data, which brings it up to date
        parts = parts_of(settings, log=not without_log)
        _check_there(settings)
        manifest = backups.create(parts, place_of(settings, place), hold, now_us, told)
        detail = {"lake_snapshot": manifest.lake_snapshot, "parts": len(manifest.parts)}
        house.audit.record(Deed(user_name(), "backup.made", place, detail), now_us())
    _show(manifest, form)


@app.command()
def verify(ctx: typer.Context, place: PlaceArgument, form: FormatOption = Format.table) -> None:
    """Reads a back-up and says whether all of it is as it was written; leaves with 1 where it is not."""
    with errors(), _progress() as told:
        manifest, wrong = backups.check(place_of(settings_of(ctx), place), told)
    if not wrong:
        _show(manifest, form)
        return
    report = _report(manifest) | {"wrong": [{"part": each.name, "detail": each.told} for each in wrong]}
    if not emit(form, report, report["wrong"]):
        for each in wrong:
            out.print(f"{each.name}: {each.told}", style="bold red", markup=False, soft_wrap=True)
    fail("this back-up is damaged: use another, and make a new one", FAILED)


@app.command()
def restore(
    ctx: typer.Context,
    place: PlaceArgument,
    keep_log: Annotated[
        bool, typer.Option("--keep-log", help="Go on with the embedded log that is in the home.")
    ] = False,
    form: FormatOption = Format.table,
) -> None:
    """Puts a back-up into an empty home, empty databases, an empty prefix. Meters then go on from where its lake stands
    in the log."""
    settings = settings_of(ctx)
    with errors():
        with _progress() as told:
            manifest = backups.restore(parts_of(settings), place_of(settings, place), keep_log=keep_log, told=told)
        _show(manifest, form)
        with House(settings) as house:
            house.audit.record(Deed(user_name(), "backup.restored", place, {}), now_us())
            _compare_log(house, manifest)


def _check_there(settings: Settings) -> None:
    if parts_of(settings).catalogue.empty():
        fail("there is no lake yet, so there is nothing to back up: run `meterhouse work` once", FAILED)


def _compare_log(house: House, manifest: Manifest) -> None:
    """Says where the log does not go on from where the lake stands."""
    try:
        ends = house.log.end_offsets(USAGE_EVENTS)
    except LogError as trouble:
        err.print(f"note: the log could not be looked at: {trouble}", markup=False, soft_wrap=True)
        return
    for partition, mark in manifest.marks.items():
        end = ends.get(partition, 0)
        if end < mark.next_offset:
            err.print(
                f"note: partition {partition} is metered up to {mark.next_offset:,}, and this log ends at {end:,}: it"
                " is not the log that was metered, or it lost its end. All that is metered is restored; meters refuse"
                " this log (docs/upgrade.md, `A log that is lost`)",
                markup=False,
                soft_wrap=True,
            )


def _report(manifest: Manifest) -> dict[str, Any]:
    return {
        "taken": rfc3339(manifest.taken_us),
        "version": manifest.version,
        "lake_snapshot": manifest.lake_snapshot,
        "positions": {str(partition): mark.next_offset for partition, mark in manifest.marks.items()},
        "log": manifest.log,
        "parts": len(manifest.parts),
        "bytes": manifest.size_bytes,
    }


def _show(manifest: Manifest, form: Format) -> None:
    report = _report(manifest)
    if emit(form, report, [report]):
        return
    positions = ", ".join(f"{partition}: {offset:,}" for partition, offset in report["positions"].items())
    out.print(
        f"{report['parts']:,} parts, {report['bytes']:,} bytes: lake snapshot {report['lake_snapshot']} of"
        f" {tables.shown_time(report['taken'])}, the log metered up to {positions}",
        soft_wrap=True,
    )


@contextmanager
def _progress() -> Iterator[backups.Told]:
    with progress_bar() as bar:
        task = bar.add_task("", total=None, note="")
        yield lambda what, done, of: bar.update(task, description=what, completed=done, total=of)


def add_to(program: typer.Typer) -> None:
    program.add_typer(app, name="backup", rich_help_panel="Keep", help="Back-ups: made under load, checked, restored.")
