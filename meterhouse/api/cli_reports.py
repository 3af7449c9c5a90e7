"""The report commands: each prints a table, JSON or CSV."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from meterhouse.api import tables
from meterhouse.api.cli_common import (
    FAILED,
    Format,
    FormatOption,
    FromOption,
    ToOption,
    WhereOption,
    emit,
    err,
    errors,
    note_as_of,
    out,
    register,
    settings_of,
    span_of,
    where_of,
)
from meterhouse.api.figures import Json, Reports, Span, names_of
from meterhouse.api.wiring import House
from meterhouse.warehouse.view import EVERYTHING


class Bucket(StrEnum):
    minute = "minute"
    hour = "hour"
    day = "day"


_LESS_TOLD = (
    "unpriced_requests", "by_status.blocked", "by_status.throttled", "by_status.aborted", "tokens.cache_write",
    "tokens.reasoning", "billed_requests", "tokens.cache_read", "by_status.error",
)  # fmt: skip
"""Columns that a narrow table does without, the first one first."""

GroupByOption = Annotated[
    str,
    typer.Option(
        "--group-by",
        metavar="A,B",
        help="tenant, org_unit, cost_center, application, environment, model, provider, operation, kind, day, hour, "
        "month.",
    ),
]


def chargeback(
    ctx: typer.Context,
    from_: FromOption = None,
    to: ToOption = None,
    group_by: GroupByOption = "tenant,model",
    where: WhereOption = None,
    form: FormatOption = Format.table,
) -> None:
    """What was billed, per group, exactly. Without a range: the current month (UTC)."""
    span, filters = span_of(from_, to), where_of(where)
    with errors(), House(settings_of(ctx)) as house:
        report = Reports(house, EVERYTHING).chargeback(span, names_of(group_by), filters)
    if not emit(form, report, report["lines"]):
        show_chargeback(report)


def show_chargeback(report: Json) -> None:
    title = f"Chargeback, {report['currency']}, {range_of(report)}"
    out.print(tables.table(title, report["lines"], total=report["total"], may_go=_LESS_TOLD, console=out))
    note_as_of(report)


def usage(
    ctx: typer.Context,
    from_: FromOption = None,
    to: ToOption = None,
    group_by: GroupByOption = "",
    where: WhereOption = None,
    every: Annotated[Bucket, typer.Option(help="Width of a bucket.")] = Bucket.day,
    form: FormatOption = Format.table,
) -> None:
    """Requests by status and tokens of every request, in buckets of time. Without a range: the current month (UTC)."""
    span, filters = span_of(from_, to), where_of(where)
    with errors(), House(settings_of(ctx)) as house:
        report = Reports(house, EVERYTHING).usage(span, every.value, names_of(group_by), filters)
    if not emit(form, report, report["lines"]):
        title = f"Usage per {report['every']}, {range_of(report)}"
        out.print(tables.table(title, report["lines"], total=report["total"], may_go=_LESS_TOLD, console=out))
        note_as_of(report)


def slo(ctx: typer.Context, from_: FromOption = None, to: ToOption = None, form: FormatOption = Format.table) -> None:
    """Objectives: compliance, error budget left, burn rates, percentiles. Without a range: each objective's own
    window, ending now."""
    span = span_of(from_, to)
    with errors(), House(settings_of(ctx)) as house:
        report = Reports(house, EVERYTHING).slo(span)
    if not emit(form, report, report["objectives"]):
        show_slo(report)


def show_slo(report: Json) -> None:
    rows = [
        {
            "objective": line["id"],
            "measure": line["sli"] if line["below_ms"] is None else f"{line['sli']} < {line['below_ms']:,} ms",
            "target": tables.percent(float(line["target"])),
            "good": line["good"],
            "total": line["total"],
            "compliance": tables.percent(line["compliance"]),
            "budget left": tables.percent(line["error_budget_left"]),
            "state": line["state"],
            "burning": " ".join(rule["severity"] for rule in line["burning"]) or None,
            "burn 1h": line["burn_rates"].get("1h"),
            "burn 1d": line["burn_rates"].get("1d"),
            **{f"{name} ms": value for name, value in line["duration_ms"].items()},
            "ttft p95 ms": line["time_to_first_token_ms"]["p95"],
        }
        for line in report["objectives"]
    ]
    out.print(
        tables.table("Service level objectives", rows, may_go=("burn 1d", "ttft p95 ms", "good", "p50 ms"), console=out)
    )
    note_as_of(report)


def budgets(
    ctx: typer.Context, from_: FromOption = None, to: ToOption = None, form: FormatOption = Format.table
) -> None:
    """Budgets: limit, spent, remaining, state, forecast, and the day on which that reaches the limit. Without a range:
    each budget's current window."""
    span = span_of(from_, to)
    with errors(), House(settings_of(ctx)) as house:
        report = Reports(house, EVERYTHING).budgets(span)
    if not emit(form, report, report["budgets"]):
        show_budgets(report)


def show_budgets(report: Json) -> None:
    rows = [
        {
            "budget": line["id"],
            "window": tables.window_name(line["window"]),
            **{name: line[name] for name in ("unit", "limit", "spent", "remaining", "state")},
            "crossed %": " ".join(line["thresholds_crossed"]) or None,
            "forecast": line["forecast"],
            "exceeds on": line["exceeds_on"],
            "then": line["on_exceeded"],
        }
        for line in report["budgets"]
    ]
    out.print(tables.table("Budgets", rows, may_go=("then", "remaining", "crossed %", "forecast"), console=out))
    note_as_of(report)


def verify(
    ctx: typer.Context, from_: FromOption = None, to: ToOption = None, form: FormatOption = Format.table
) -> None:
    """Checks that the books balance: each law with its left side, right side and difference. Leaves with 1 and names
    the rows when one does not hold."""
    span = span_of(from_, to)
    if span != Span():
        err.print("note: verify always checks the whole lake; --from and --to change nothing")
    with errors(), House(settings_of(ctx)) as house:
        report = Reports(house, EVERYTHING).verify()
    if not emit(form, report, report["laws"]):
        show_laws(report)
    if not report["balanced"]:
        raise typer.Exit(FAILED)


def show_laws(report: Json) -> None:
    laws = report["laws"]
    shown = [
        {
            "law": law["law"],
            "what": law["name"],
            "left": law["left"],
            "right": law["right"],
            "difference": law["difference"],
            "": "balanced" if law["balanced"] else "differs",
        }
        for law in laws
    ]
    out.print(tables.table("Laws", shown, may_go=("right",), console=out))
    for law in laws:
        for row in law["rows"]:
            out.print(f"  law {law['law']}, {law['name']}: {row}", markup=False, soft_wrap=True)
    note_as_of(report)


def range_of(report: Json) -> str:
    return f"{tables.shown_time(report['from'])} ‥ {tables.shown_time(report['to'])}"


def add_to(app: typer.Typer) -> None:
    register(app, "Reports", chargeback, usage, slo, budgets, verify)
