"""`meterhouse erase-user`: a user's id goes, every figure stays."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from meterhouse.api.cli_common import (
    WRONG_USE,
    ByOption,
    Format,
    FormatOption,
    emit,
    errors,
    fail,
    out,
    progress_bar,
    register,
    settings_of,
    user_name,
)
from meterhouse.api.clock import now_us
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.api.wiring_places import lake_config
from meterhouse.warehouse.erasure import ErasedRows, compact, compact_file, erase

MAX_USER = 1_000
"""Characters of an id: longer ones are no ids, and no event has them."""


def erase_user(
    ctx: typer.Context,
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Whose user it is.")],
    user: Annotated[
        str, typer.Argument(metavar="USER", help="The opaque id, as events have it; `-`: it is read from stdin.")
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    by: ByOption = None,
    form: FormatOption = Format.table,
) -> None:
    """Takes a user's id out of the lake for good: out of charges, of node events of the same requests and of rejects,
    out of files, catalogue and control data. What requests cost and counted stays as it is, and so do all totals. What
    the log still has of the user goes with its retention, and comes back by no replay.

    With a SQLite catalogue stop `work` and `serve` first. An erasure that was interrupted is asked for again."""
    settings = settings_of(ctx)
    id_ = sys.stdin.readline().rstrip("\n") if user == "-" else user
    if not 0 < len(id_) <= MAX_USER:
        fail(f"a user's id has 1 to {MAX_USER:,} characters", WRONG_USE)
    if not yes and sys.stdin.isatty() and not typer.confirm(f"Erase this user of {tenant}? It cannot be undone."):
        raise typer.Exit
    with errors():
        erased, repairs = _erase(settings, tenant, id_, by or user_name())
    report = {"tenant": tenant, "rows": erased.rows, "files": erased.files, "repairs": repairs}
    if not emit(form, report, [report]):
        rows = ", ".join(f"{count:,} rows of {table}" for table, count in erased.rows.items()) or "no rows"
        out.print(f"erased from {rows}; {erased.files:,} files were written again", soft_wrap=True)


def _erase(settings: Settings, tenant: str, user: str, by: str) -> tuple[ErasedRows, int]:
    with House(settings, writer=True) as house, progress_bar() as bar:
        task = bar.add_task("files", total=None, note="")
        lake = house.lake  # before it is noted as begun: it may have another writer
        begun, key = house.erasures.begin(tenant, user, by, now_us())
        erased = erase(
            lake, tenant, user, key, lambda table, files: bar.update(task, description=table, completed=files)
        )
        repairs = house.erasures.end(begun, user, erased.rows, now_us())
    compact(lake_config(settings))
    if settings.control is None:
        compact_file(settings.control_path)
    return erased, repairs


def add_to(app: typer.Typer) -> None:
    register(app, "Keep", erase_user)
