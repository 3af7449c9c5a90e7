"""`meterhouse charges`: the events behind a chargeback's line."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from meterhouse.api import tables
from meterhouse.api.cli_common import (
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
from meterhouse.api.figures import Json, Reports
from meterhouse.api.paging import MAX_PAGE, Page
from meterhouse.api.resolving import parse_place
from meterhouse.api.wiring import House
from meterhouse.warehouse.view import EVERYTHING


class Kind(StrEnum):
    input = "input"
    cache_read = "cache_read"
    cache_write = "cache_write"
    output = "output"
    reasoning = "reasoning"


_SHOWN = ("tenant", "application", "model", "status", "disposition", "tokens", "rate_card", "cost")
_LESS_TOLD = (
    "rate_card", "tokens.cache_write", "tokens.reasoning", "disposition", "tokens.cache_read", "place",
)  # fmt: skip


def charges(
    ctx: typer.Context,
    from_: FromOption = None,
    to: ToOption = None,
    where: WhereOption = None,
    kind: Annotated[Kind | None, typer.Option(help="Tokens and cost of this kind alone.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_PAGE, help="At most so many.")] = 100,
    after: Annotated[
        str | None, typer.Option(metavar="TOKEN", help="Go on after a page: what it named at its end.")
    ] = None,
    at: Annotated[
        str | None, typer.Option(metavar="PLACE", help="Only the one at partition/offset/index, as JSON.")
    ] = None,
    form: FormatOption = Format.table,
) -> None:
    """The events behind a chargeback's line, oldest first: tokens, rate card, prices, cost, place in the log. Narrow it
    to a line by --where and the range; the costs then add up to the line's. Without a range: the current month (UTC).
    """
    span, filters = span_of(from_, to), where_of(where)
    with errors(), House(settings_of(ctx)) as house:
        reports = Reports(house, EVERYTHING)
        if at is not None:
            place = parse_place(at)
            emit(Format.json, reports.charge(place.partition, place.offset, place.index), ())
            return
        report = reports.charges(span, filters, kind, Page(limit, after))
    if not emit(form, report, report["charges"]):
        _show(report)
    if report["next"] is not None and form is not Format.json:
        err.print(f"there is more: add --after {report['next']}", markup=False, soft_wrap=True)


def _show(report: Json) -> None:
    rows = [
        {
            "time": tables.shown_time(line["time"]),
            "place": f"{line['partition']}/{line['offset']}/{line['index']}",
            **{name: line[name] for name in _SHOWN},
        }
        for line in report["charges"]
    ]
    title = f"Charges, {report['currency']}"
    total = {name: report["total"][name] for name in ("tokens", "cost")}
    out.print(tables.table(title, rows, total=total, may_go=_LESS_TOLD, console=out))
    if (removed := report["removed"]) is not None:
        err.print(
            f"note: retention removed {removed['requests']:,} requests, which cost {removed['cost']}, of days before"
            f" {tables.shown_time(removed['before'])}: the total counts them, the lines do not have them",
            markup=False,
            soft_wrap=True,
        )
    note_as_of(report)


def add_to(app: typer.Typer) -> None:
    register(app, "Reports", charges)
