"""`meterhouse alerts`: the list, and what people do about alerts: acknowledge them, silence them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from meterhouse.api import tables
from meterhouse.api.alert_desk import AlertDesk
from meterhouse.api.cli_common import (
    ByOption,
    Format,
    FormatOption,
    FromOption,
    LimitOption,
    ToOption,
    emit,
    errors,
    length_us,
    out,
    settings_of,
    span_of,
    user_name,
)
from meterhouse.api.clock import now_us
from meterhouse.api.figures import Json, Span
from meterhouse.api.wiring import House
from meterhouse.streams.alerts import AlertFilter
from meterhouse.warehouse.view import EVERYTHING

app = typer.Typer(invoke_without_command=True)


class Status(StrEnum):
    open = "open"
    acknowledged = "acknowledged"
    resolved = "resolved"


class Kind(StrEnum):
    threshold = "threshold"
    forecast = "forecast"
    unpriced = "unpriced"
    meter_behind = "meter_behind"
    quality = "quality"
    reconciliation = "reconciliation"


KindOption = Annotated[Kind | None, typer.Option(help="Only alerts of this kind.")]


@app.callback()
def alerts(
    ctx: typer.Context,
    from_: FromOption = None,
    to: ToOption = None,
    status: Annotated[Status | None, typer.Option(help="Only those that are this now.")] = None,
    kind: KindOption = None,
    limit: LimitOption = 100,
    form: FormatOption = Format.table,
) -> None:
    """Alerts, the newest first, each with the story of its delivery; in a table those that are open come first."""
    if ctx.invoked_subcommand is not None:
        return
    span = span_of(from_, to)
    with errors(), House(settings_of(ctx)) as house:
        desk = AlertDesk(house, EVERYTHING)
        report = desk.page(_filter(span, status, kind), None, limit)
        open_ones = desk.page(_filter(span, Status.open, kind), None, limit) if form is Format.table else report
    if not emit(form, report, report["alerts"]):
        show_alerts(report, open_ones if status is None else None)


def _filter(span: Span, status: Status | None, kind: Kind | None) -> AlertFilter:
    return AlertFilter(
        from_us=span.from_us,
        to_us=span.to_us,
        status=None if status is None else status.value,
        kind=None if kind is None else kind.value,
        at_us=now_us(),
    )


def show_alerts(report: Json, open_ones: Json | None = None) -> None:
    """The alerts of a page and of `open_ones`, the open ones first. What says that one is over is in that one's row."""
    first = [] if open_ones is None else open_ones["alerts"]
    shown = {line["id"] for line in first}
    lines = [*first, *(line for line in report["alerts"] if line["standing"] and line["id"] not in shown)]
    lines.sort(key=lambda line: line["standing"] == "resolved")
    rows = [
        {
            "status": line["standing"],
            "what": line["summary"],
            "since": tables.shown_time(line["created"]),
            "until": line["resolved"] and tables.shown_time(line["resolved"]),
            "acknowledged by": line["acknowledged_by"],
            "spent": line["spent"],
            "limit": line["limit"],
            "delivery": line["state"],
            "id": line["id"],
        }
        for line in lines
    ]
    may_go = ("delivery", "limit", "spent", "until", "acknowledged by", "id")
    out.print(tables.table("Alerts", rows, may_go=may_go, console=out) if rows else "No alerts.")


@app.command()
def ack(
    ctx: typer.Context,
    alert: Annotated[str, typer.Argument(metavar="ID", help="The alert's id, as the list shows it.")],
    note: Annotated[str | None, typer.Option(help="What is being done.")] = None,
    by: ByOption = None,
) -> None:
    """Says who looks after an alert. It stays open until its reason is gone."""
    with errors(), House(settings_of(ctx)) as house:
        told = AlertDesk(house, EVERYTHING, user_name()).acknowledge(alert, by or user_name(), note)
    out.print(f"acknowledged by {told['acknowledged_by']}: {told['summary']}", markup=False, soft_wrap=True)


@app.command()
def silence(
    ctx: typer.Context,
    length: Annotated[str, typer.Option("--for", metavar="LENGTH", help="How long from now on: 30m, 2h, 3d; 90d.")],
    reason: Annotated[str, typer.Option(help="Why nobody is to hear of it.")],
    subject: Annotated[
        str | None, typer.Option(help="What alerts are about: a budget, provider/model, topic/partition.")
    ] = None,
    budget: Annotated[str | None, typer.Option(help="The same as --subject, of a budget.")] = None,
    kind: KindOption = None,
    by: ByOption = None,
) -> None:
    """Keeps alerts quiet for a while: listed as ever, not posted. What was posted before is told to its end."""
    if subject is not None and budget is not None:
        raise typer.BadParameter("give one of the two", param_hint="--subject / --budget")
    until_us = now_us() + length_us(length, "--for")
    with errors(), House(settings_of(ctx)) as house:
        made = AlertDesk(house, EVERYTHING, user_name()).silence(
            subject or budget, None if kind is None else kind.value, (None, until_us), by or user_name(), reason
        )
    out.print(f"silence {made['id']} until {tables.shown_time(made['until'])}", markup=False, soft_wrap=True)


@app.command()
def silences(ctx: typer.Context, form: FormatOption = Format.table) -> None:
    """Silences that are not over, the first to end first."""
    with errors(), House(settings_of(ctx)) as house:
        report = AlertDesk(house, EVERYTHING).silences()
    if emit(form, report, report["silences"]):
        return
    rows = [
        {
            "id": line["id"],
            "about": line["subject"],
            "kind": line["kind"],
            "from": tables.shown_time(line["from"]),
            "until": tables.shown_time(line["until"]),
            "by": line["by"],
            "reason": line["reason"],
        }
        for line in report["silences"]
    ]
    out.print(tables.table("Silences", rows, may_go=("from", "kind"), console=out) if rows else "No silences.")


@app.command()
def unsilence(
    ctx: typer.Context,
    silence_id: Annotated[str, typer.Argument(metavar="ID", help="The silence's id, as `alerts silences` shows it.")],
) -> None:
    """Ends a silence now. What it kept quiet is not posted later."""
    with errors(), House(settings_of(ctx)) as house:
        AlertDesk(house, EVERYTHING, user_name()).end_silence(silence_id)
    out.print(f"silence {silence_id} is over", markup=False)


def add_to(program: typer.Typer) -> None:
    help_text = " ".join((alerts.__doc__ or "").split())
    program.add_typer(app, name="alerts", rich_help_panel="Reports", help=help_text)
