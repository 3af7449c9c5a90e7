"""`meterhouse audit`: the audit log, listed and checked."""

from __future__ import annotations

from typing import Annotated

import typer

from meterhouse.api import audit_desk, tables
from meterhouse.api.cli_common import (
    FAILED,
    Format,
    FormatOption,
    FromOption,
    LimitOption,
    ToOption,
    emit,
    err,
    errors,
    out,
    progress_bar,
    settings_of,
    span_of,
)
from meterhouse.api.figures import Json
from meterhouse.api.wiring import House
from meterhouse.warehouse.audit import AuditFilter

_DETAIL_SHOWN = 80
"""Characters of a detail in a table; JSON and CSV have all of it."""

app = typer.Typer(no_args_is_help=True)


@app.command(name="list")
def list_entries(
    ctx: typer.Context,
    from_: FromOption = None,
    to: ToOption = None,
    actor: Annotated[str | None, typer.Option(help="Only what they did.")] = None,
    action: Annotated[str | None, typer.Option(help="Only deeds of this kind: control.applied, ...")] = None,
    after: Annotated[str | None, typer.Option(help="`next` of the page before (--format json).")] = None,
    limit: LimitOption = 100,
    form: FormatOption = Format.table,
) -> None:
    """Who did what, the newest first."""
    span = span_of(from_, to)
    with errors(), House(settings_of(ctx)) as house:
        report = audit_desk.page(house, AuditFilter(span.from_us, span.to_us, actor, action), after, limit)
    if emit(form, report, report["entries"]):
        return
    rows = [
        {
            "entry": line["seq"],
            "at": tables.shown_time(line["at"]),
            "actor": line["actor"],
            "action": line["action"],
            "subject": line["subject"],
            "detail": _shown(line["detail"]),
        }
        for line in report["entries"]
    ]
    out.print(tables.table("Audit log", rows, may_go=("detail",), console=out) if rows else "No entries.")


@app.command()
def verify(ctx: typer.Context, form: FormatOption = Format.table) -> None:
    """Checks that no entry was edited, removed, moved or added by anyone but Meterhouse: the chain of hashes, the
    database's head, and each head in the lake. Leaves with 1 and names the entry where one was."""
    with errors(), House(settings_of(ctx)) as house, progress_bar() as bar:
        task = bar.add_task("entries", total=house.audit.head().seq, note="")
        report = audit_desk.verification(house, lambda seq: bar.update(task, completed=seq))
    if not emit(form, report, [report]):
        show_verification(report)
    if not report["whole"]:
        raise typer.Exit(FAILED)


def show_verification(report: Json) -> None:
    if report["fault"] is None:
        out.print(f"the audit log is whole: {report['entries']:,} entries")
    else:
        out.print(f"the audit log was altered: {report['fault']['detail']}", style="bold red", soft_wrap=True)
    vouched = f"the lake vouches for it up to entry {report['vouched_for']:,}, by {report['lake_heads']:,} heads"
    none = "the lake has no head of it yet: only the database itself was asked (`meterhouse work` writes one)"
    err.print(f"note: {vouched if report['lake_heads'] else none}", markup=False, soft_wrap=True)


def _shown(detail: Json) -> str:
    text = ", ".join(f"{name} {value}" for name, value in tables.flatten(detail).items() if value is not None)
    return text[:_DETAIL_SHOWN] + ("…" if len(text) > _DETAIL_SHOWN else "")


def add_to(program: typer.Typer) -> None:
    help_text = "The audit log: who did what, and whether anyone altered it since."
    program.add_typer(app, name="audit", rich_help_panel="Reports", help=help_text)
