"""`meterhouse rejects`: the report, and what can be done about a reject: requeue, repair, discard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer

from meterhouse.api import tables
from meterhouse.api.cli_common import (
    FAILED,
    WRONG_USE,
    ByOption,
    Format,
    FormatOption,
    FromOption,
    LimitOption,
    ToOption,
    emit,
    errors,
    fail,
    out,
    settings_of,
    span_of,
    user_name,
)
from meterhouse.api.figures import Reports
from meterhouse.api.resolving import Outcome, RejectDesk, parse_place
from meterhouse.api.wiring import House
from meterhouse.ingest.event import MAX_EVENT_BYTES
from meterhouse.ingest.repair import BadEdit, edited
from meterhouse.warehouse.reports.rejects import RejectFilter
from meterhouse.warehouse.view import EVERYTHING

_PAYLOAD_SHOWN: Final = 60
"""Characters of a payload in a table; JSON has all of it."""

app = typer.Typer(invoke_without_command=True)

ReasonOption = Annotated[list[str] | None, typer.Option(help="Only this reason; may be given again.")]
TenantOption = Annotated[str | None, typer.Option(help="Only this tenant, as the event claims it.")]
PlaceArgument = Annotated[str, typer.Argument(metavar="PLACE", help="partition/offset/index, as the report shows it.")]


@app.callback()
def report(
    ctx: typer.Context,
    from_: FromOption = None,
    to: ToOption = None,
    reason: ReasonOption = None,
    limit: LimitOption = 100,
    everything: Annotated[bool, typer.Option("--all", help="Those too that somebody has dealt with.")] = False,
    form: FormatOption = Format.table,
) -> None:
    """Events that were not taken, with reason and bytes; the newest arrival first. The range is of arrival."""
    if ctx.invoked_subcommand is not None:
        return
    span = span_of(from_, to)
    with errors(), House(settings_of(ctx)) as house:
        matching = RejectFilter(span.from_us, span.to_us, tuple(reason or ()))
        made = Reports(house, EVERYTHING).rejects(matching, None, limit, resolved=everything)
    if emit(form, made, made["rejects"]):
        return
    rows = [
        {
            "arrived": tables.shown_time(line["arrived"]),
            "place": f"{line['partition']}/{line['offset']}/{line['index']}",
            "tenant": line["tenant"],
            "reason": line["reason"],
            "detail": line["detail"],
            "state": line["state"],
            "payload": line["payload"][:_PAYLOAD_SHOWN] + ("…" if len(line["payload"]) > _PAYLOAD_SHOWN else ""),
        }
        for line in made["rejects"]
    ]
    may_go = ("payload", "tenant", "state")
    out.print(
        tables.table("Rejects (partition/offset/index)", rows, may_go=may_go, console=out) if rows else "No rejects."
    )


@app.command()
def requeue(
    ctx: typer.Context,
    place: Annotated[list[str] | None, typer.Option(help="Only this place; may be given again.")] = None,
    reason: ReasonOption = None,
    tenant: TenantOption = None,
    limit: LimitOption = 1_000,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
    by: ByOption = None,
) -> None:
    """Sends kept bytes again, unchanged, where they would be taken now: after a tenant was added, say."""
    with errors(), House(settings_of(ctx)) as house:
        desk = RejectDesk(house, by or user_name())
        lines = [desk.find(parse_place(each)) for each in place or ()]
        if place is None:
            matching = RejectFilter(reasons=tuple(reason or ()), tenant=tenant)
            lines = [*Reports(house, EVERYTHING).open_rejects(matching, limit)]
        outcomes = desk.requeue(lines, dry_run=dry_run)
    _show(outcomes)
    done = sum(each.done for each in outcomes)
    out.print(f"{'to send' if dry_run else 'sent'}: {done:,}, left: {len(outcomes) - done:,}")
    if place and done < len(outcomes):
        raise typer.Exit(FAILED)


@app.command()
def repair(
    ctx: typer.Context,
    place: PlaceArgument,
    edits: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="data.model=atlas-large; may be given again."),
    ] = None,
    file: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The whole event, corrected, as JSON.")
    ] = None,
    note: Annotated[str | None, typer.Option(help="Why.")] = None,
    by: ByOption = None,
) -> None:
    """Sends a corrected event instead of a rejected one, once it is sure to be taken."""
    if (edits is None) == (file is None):
        fail("say what to correct: --set PATH=VALUE, or --file with the whole event", WRONG_USE)
    with errors(), House(settings_of(ctx)) as house:
        desk = RejectDesk(house, by or user_name())
        line = desk.find(parse_place(place))
        try:
            payload = edited(line.payload, edits or ()) if file is None else _read(file)
        except BadEdit as wrong:
            fail(str(wrong), WRONG_USE)
        outcome = desk.repair(line, payload, note)
    _end([outcome])


@app.command()
def discard(
    ctx: typer.Context,
    places: Annotated[
        list[str], typer.Argument(metavar="PLACE...", help="partition/offset/index, as the report shows.")
    ],
    note: Annotated[str, typer.Option(help="Why it is not to be billed.")],
    by: ByOption = None,
) -> None:
    """Marks rejects as not to be billed. Their bytes stay where they are."""
    with errors(), House(settings_of(ctx)) as house:
        desk = RejectDesk(house, by or user_name())
        outcomes = desk.discard([desk.find(parse_place(each)) for each in places], note)
    _end(outcomes)


def _read(file: Path) -> bytes:
    payload = file.read_bytes()
    if len(payload) > MAX_EVENT_BYTES:
        raise BadEdit(f"{file} has {len(payload):,} bytes, an event has at most {MAX_EVENT_BYTES:,}")
    return payload


def _end(outcomes: Sequence[Outcome]) -> None:
    _show(outcomes)
    if not all(each.done for each in outcomes):
        raise typer.Exit(FAILED)


def _show(outcomes: Sequence[Outcome]) -> None:
    for each in outcomes:
        out.print(f"{each.place}: {each.told}", markup=False, soft_wrap=True)


def add_to(program: typer.Typer) -> None:
    help_text = " ".join((report.__doc__ or "").split())
    program.add_typer(app, name="rejects", rich_help_panel="Reports", help=help_text)
