"""`meterhouse keys`: who may use the API."""

from __future__ import annotations

from typing import Annotated

import typer

from meterhouse.api import tables
from meterhouse.api.auth.caller import Role, RoleMisfit, grant_of
from meterhouse.api.cli_common import Format, FormatOption, emit, err, errors, length_us, out, settings_of, user_name
from meterhouse.api.clock import now_us
from meterhouse.api.figures import Json
from meterhouse.api.key_desk import KeyDesk
from meterhouse.api.wiring import House
from meterhouse.warehouse.view import Grant

app = typer.Typer(no_args_is_help=True)

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `keys list` shows it.")]


@app.command()
def create(
    ctx: typer.Context,
    role: Annotated[Role, typer.Option(help="What it may do.")],
    name: Annotated[str | None, typer.Option(help="Who or what uses it. (Default: the user of this machine.)")] = None,
    tenant: Annotated[list[str] | None, typer.Option(help="A tenant that it sees; may be repeated.")] = None,
    application: Annotated[
        list[str] | None, typer.Option(metavar="TENANT/APPLICATION", help="One application of a tenant; the same.")
    ] = None,
    expires: Annotated[str | None, typer.Option(metavar="LENGTH", help="How long it is good: 12h, 90d.")] = None,
) -> None:
    """A new key, printed this once and stored nowhere. With the first one, servers ask everyone for theirs."""
    grants = [*(Grant(each) for each in tenant or ()), *map(_application, application or ())]
    expires_us = None if expires is None else now_us() + length_us(expires, "--expires")
    with errors(), House(settings_of(ctx)) as house:
        made = _desk(house).create(name or user_name(), role, grants or None, expires_us)
    _show(made, "")


@app.command("list")
def list_(ctx: typer.Context, form: FormatOption = Format.table) -> None:
    """Keys in force, and those that were over less than 90 days ago."""
    with errors(), House(settings_of(ctx)) as house:
        report = _desk(house).list()
    if emit(form, report, report["keys"]):
        return
    rows = [
        {
            "id": line["id"],
            "name": line["name"],
            "role": line["role"],
            "sees": _seen(line["grants"]),
            "standing": line["standing"],
            "expires": line["expires"] and tables.shown_time(line["expires"]),
            "last used": line["last_used"] and tables.shown_time(line["last_used"]),
            "created": tables.shown_time(line["created"]),
        }
        for line in report["keys"]
    ]
    out.print(tables.table("Keys", rows, may_go=("created", "last used"), console=out) if rows else "No keys.")


@app.command()
def rotate(
    ctx: typer.Context,
    key_id: IdArgument,
    overlap: Annotated[str, typer.Option(metavar="LENGTH", help="How long the old key goes on: 0m, 24h, 7d.")] = "24h",
) -> None:
    """A new key in place of an old one, with its role and grants. The old one goes on for the overlap."""
    overlap_us = length_us(overlap, "--overlap")
    with errors(), House(settings_of(ctx)) as house:
        made = _desk(house).rotate(key_id, overlap_us)
    _show(made, f"; {key_id} goes on for {overlap}")


@app.command()
def revoke(ctx: typer.Context, key_id: IdArgument) -> None:
    """Ends a key now; servers know within a second."""
    with errors(), House(settings_of(ctx)) as house:
        _desk(house).revoke(key_id)
    out.print(f"key {key_id} is revoked", markup=False)


def _desk(house: House) -> KeyDesk:
    return KeyDesk(house, user_name())


def _show(made: Json, more: str) -> None:
    """The key alone on stdout, so that a program may take it."""
    err.print(f"key {made['id']} for {made['name']}, {made['role']}{more}. It is shown this once:", markup=False)
    typer.echo(made["key"])


def _application(text: str) -> Grant:
    try:
        grant = grant_of(text)
    except RoleMisfit as wrong:
        raise typer.BadParameter(str(wrong), param_hint="--application") from None
    if grant.application is None:
        raise typer.BadParameter("write TENANT/APPLICATION; --tenant grants all of one", param_hint="--application")
    return grant


def _seen(grants: list[Json] | None) -> str:
    if grants is None:
        return "everything"
    return ", ".join("/".join(filter(None, (each["tenant"], each["application"]))) for each in grants)


def add_to(program: typer.Typer) -> None:
    program.add_typer(app, name="keys", rich_help_panel="Run", help="Who may use the API: API keys.")
