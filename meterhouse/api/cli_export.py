"""`meterhouse export`: whole files for other programs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from meterhouse.api.cli_common import (
    FAILED,
    WRONG_USE,
    FromOption,
    ToOption,
    err,
    errors,
    fail,
    progress_bar,
    settings_of,
    span_of,
    user_name,
)
from meterhouse.api.exports import FocusFile, Form
from meterhouse.api.figures import Reports
from meterhouse.api.wiring import House
from meterhouse.warehouse.view import EVERYTHING

app = typer.Typer(no_args_is_help=True)


@app.callback()
def export() -> None:
    """Whole files for other programs."""


@app.command()
def focus(
    ctx: typer.Context,
    from_: FromOption = None,
    to: ToOption = None,
    form: Annotated[Form, typer.Option("--format", help="What to write.")] = Form.csv,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file. (Default: CSV goes to stdout.)", dir_okay=False)
    ] = None,
    tenant: Annotated[list[str] | None, typer.Option(help="Only this tenant; may be given several times.")] = None,
) -> None:
    """What was billed as rows of FOCUS 1.4, Cost and Usage: the rows add up to the chargeback, exactly. Without a
    range: the current month (UTC). A file appears under its name only when it is whole."""
    span = span_of(from_, to)
    if output is None and form is Form.parquet:
        fail("Parquet is not for a terminal or a pipe: name its file with -o", WRONG_USE)
    filters = {"tenant": tenant} if tenant else {}
    with errors(), House(settings_of(ctx)) as house:
        file = FocusFile(Reports(house, EVERYTHING), house.audit.record, user_name(), span, form, filters)
        with _whole(output) as sink:
            _write(file, sink)
    done = file.export
    assert done is not None
    unpriced = done.total.unpriced_requests
    note = f"; {unpriced:,} requests have no price yet and are not in it: `meterhouse chargeback`" if unpriced else ""
    err.print(f"{done.rows:,} rows, {done.total.cost} {done.query.control.currency}{note}", soft_wrap=True)


def _write(file: FocusFile, sink: BinaryIO) -> None:
    with progress_bar() as bar:
        task = bar.add_task("parts of the range", total=None, note="")
        for piece in file.pieces():
            sink.write(piece)
            if file.export is not None:
                done, parts = file.export.parts_done, len(file.export.parts)
                bar.update(task, completed=done, total=parts, note=f"{file.export.rows:,} rows")
    sink.flush()


@contextmanager
def _whole(output: Path | None) -> Iterator[BinaryIO]:
    """Where the file goes: stdout, or a file beside its name that takes it at the end, or is removed."""
    if output is None:
        yield sys.stdout.buffer
        return
    part = output.with_name(output.name + ".part")
    try:
        with part.open("wb") as sink:
            yield sink
        part.replace(output)
    except OSError as trouble:
        fail(f"{output} cannot be written: {trouble.strerror}", FAILED)
    finally:
        part.unlink(missing_ok=True)


def add_to(program: typer.Typer) -> None:
    program.add_typer(app, name="export", rich_help_panel="Reports", help="Whole files for other programs: focus.")
