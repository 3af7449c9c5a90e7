"""Report commands: the tree of org units, what changed and why, and what will be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer
from rich.tree import Tree

from meterhouse.api import tables
from meterhouse.api.cli_common import (
    Format,
    FormatOption,
    FromOption,
    ToOption,
    emit,
    errors,
    note_as_of,
    out,
    register,
    settings_of,
    span_of,
)
from meterhouse.api.cli_reports import range_of
from meterhouse.api.figures import Json, Reports, names_of
from meterhouse.api.wiring import House
from meterhouse.streams.bill_change import PARTS
from meterhouse.streams.money import from_text
from meterhouse.warehouse.view import EVERYTHING

GroupByOption = Annotated[
    str,
    typer.Option(
        "--group-by",
        metavar="A,B",
        help="tenant, org_unit, cost_center, application, environment, model, provider, operation, kind.",
    ),
]
TenantOption = Annotated[list[str] | None, typer.Option("--tenant", help="Only this tenant; may be repeated.")]


def org_tree(
    ctx: typer.Context, from_: FromOption = None, to: ToOption = None, form: FormatOption = Format.table
) -> None:
    """Chargeback by the tree of org units: each with all units below it. A tenant that moved is in each unit with what
    it spent while it stood there. Without a range: the current month (UTC)."""
    report = _made(ctx, lambda reports: reports.org_tree(span_of(from_, to), {}))
    if emit(form, report, report["nodes"]):
        return
    drawn: list[Tree] = []
    for node in report["nodes"]:
        cost = tables.shown_money(node["with_below"]["cost"])
        label = f"[bold]{_escaped(node['name'] or 'all')}[/bold]  {cost}"
        branch = Tree(label) if not drawn else drawn[node["level"] - 1].add(label)
        del drawn[node["level"] :]
        drawn.append(branch)
        for tenant in node["tenants"]:
            branch.add(f"{_escaped(tenant['tenant'])}  {tables.shown_money(tenant['cost'])}")
    out.print(f"Chargeback by org unit, {report['currency']}, {range_of(report)}", style="bold")
    out.print(drawn[0])
    note_as_of(report)


def compare(
    ctx: typer.Context,
    from_: FromOption = None,
    to: ToOption = None,
    group_by: GroupByOption = "tenant,model",
    form: FormatOption = Format.table,
) -> None:
    """What each group cost now and in the period before: a whole calendar month (UTC) against the month before, any
    other range against the one of the same length just before it."""
    report = _made(ctx, lambda reports: reports.comparison(span_of(from_, to), names_of(group_by), {}))
    if emit(form, report, report["lines"]):
        return

    def row(line: Json) -> Json:
        costs = {name: (line[name] or {}).get("cost") for name in ("before", "now")}
        shown = {name: line[name] for name in (*report["group_by"], "state") if name in line}
        return {**shown, **costs, "change": line["difference"], "relative": line["relative"]}

    title = f"Chargeback, {report['currency']}, {range_of(report)} against {range_of(report['compared_with'])}"
    out.print(tables.table(title, [row(line) for line in report["lines"]], total=row(report["total"]), console=out))
    note_as_of(report)


def explain(
    ctx: typer.Context,
    from_: FromOption = None,
    to: ToOption = None,
    tenant: TenantOption = None,
    form: FormatOption = Format.table,
) -> None:
    """Why the bill changed from the period before: price, volume, model mix, output share, cache share, new and gone
    models, adding up exactly to the difference."""
    filters = {"tenant": tenant} if tenant else {}
    report = _made(ctx, lambda reports: reports.explanation(span_of(from_, to), filters))
    if emit(form, report, report["lines"]):
        return

    told = [name for name in PARTS if any(from_text(line["parts"][name]) for line in report["lines"])]

    def row(line: Json) -> Json:
        shown = {name: line[name] for name in ("tenant", "provider", "model") if name in line}
        parts = {name: line["parts"][name] for name in told}
        return {**shown, "before": line["before"], "now": line["now"], "change": line["difference"], **parts}

    title = f"Why the bill changed, {report['currency']}, {range_of(report)} from {range_of(report['compared_with'])}"
    rows = [row(line) for line in report["lines"]]
    out.print(tables.table(title, rows, total=row(report), may_go=("provider", "before", "now"), console=out))
    note_as_of(report)


def forecast(
    ctx: typer.Context,
    from_: FromOption = None,
    to: ToOption = None,
    group_by: GroupByOption = "tenant",
    form: FormatOption = Format.table,
) -> None:
    """What will have been spent when the range ends, per group, as weekdays of the last eight weeks went. Without a
    range: the current month (UTC)."""
    report = _made(ctx, lambda reports: reports.forecast(span_of(from_, to), names_of(group_by), {}))
    if emit(form, report, report["lines"]):
        return
    title = f"Forecast, {report['currency']}, {range_of(report)}, made {tables.shown_time(report['at'])}"
    out.print(tables.table(title, report["lines"], total=report["total"], console=out))
    note_as_of(report)


def _made(ctx: typer.Context, ask: Callable[[Reports], Json]) -> Json:
    with errors(), House(settings_of(ctx)) as house:
        return ask(Reports(house, EVERYTHING))


def _escaped(text: str) -> str:
    """Names are no markup."""
    return text.replace("[", r"\[")


def add_to(app: typer.Typer) -> None:
    register(app, "Reports", org_tree, compare, explain, forecast)
