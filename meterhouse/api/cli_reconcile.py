"""`meterhouse reconcile`: what gateways and model nodes say of the same requests."""

from __future__ import annotations

from collections import defaultdict
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
from meterhouse.api.cli_reports import range_of
from meterhouse.api.figures import Json, Reports
from meterhouse.api.paging import MAX_PAGE, Page
from meterhouse.api.wiring import House
from meterhouse.warehouse.view import EVERYTHING


class RequestKind(StrEnum):
    matched = "matched"
    tokens_differ = "tokens_differ"
    gateway_only = "gateway_only"
    node_only = "node_only"
    refused_but_run = "refused_but_run"
    pending = "pending"
    no_node_needed = "no_node_needed"
    no_node_events = "no_node_events"
    no_request_id = "no_request_id"


_LESS_TOLD = (
    "pending", "no_request_id", "refused_but_run", "device s without request", "no_node_events", "no_node_needed",
    "tokens_differ", "node_only", "gateway_only",
)  # fmt: skip
_LESS_TOLD_REQUESTS = ("places", "device us", "nodes", "statuses", "provider")


def reconcile(
    ctx: typer.Context,
    from_: FromOption = None,
    to: ToOption = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Only this tenant, provider or model; may be given again."),
    ] = None,
    kind: Annotated[
        RequestKind | None, typer.Option(help="List the requests of this kind instead of counting.")
    ] = None,
    gaps: Annotated[bool, typer.Option("--gaps", help="List the requests of every kind of gap.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=MAX_PAGE, help="List at most so many.")] = 100,
    after: Annotated[
        str | None, typer.Option(metavar="TOKEN", help="Go on after a page: what it named at its end.")
    ] = None,
    form: FormatOption = Format.table,
) -> None:
    """Gateways' and model nodes' events brought together by request: counts that differ, requests that only one side
    saw, device time without a request. Leaves with 1 when a tenant exceeds a limit (METERHOUSE_RECONCILE_*). With
    --kind or --gaps: the requests themselves. Without a range: the current month (UTC)."""
    span, filters = span_of(from_, to), where_of(where)
    with errors(), House(settings_of(ctx)) as house:
        reports = Reports(house, EVERYTHING)
        if kind is not None or gaps:
            _list(reports.reconciled_requests(span, filters, kind, Page(limit, after)), form)
            return
        report = reports.reconciliation(span, filters)
    if not emit(form, report, report["lines"]):
        show_reconciliation(report)
    if report["exceeded"]:
        raise typer.Exit(FAILED)


def show_reconciliation(report: Json) -> None:
    lines = report["lines"]
    rows = [{name: line[name] for name in ("tenant", "provider", "model")} | _row(line) for line in lines]
    told = tables.table(
        f"Reconciliation, requests, {range_of(report)}", rows, total=_row(report["total"]), may_go=_LESS_TOLD,
        console=out,
    )  # fmt: skip
    out.print(told)
    for silent in _silent(lines):
        out.print(f"  no node events: {silent}", markup=False, soft_wrap=True)
    limits = report["limits"]
    for tenant, names in report["exceeded"].items():
        said = ", ".join(f"{name} over {limits[name.replace('_s', '_seconds')]}" for name in names)
        out.print(f"  {tenant} exceeds: {said}", style="bold red", markup=False, soft_wrap=True)
    note_as_of(report)


def _row(counted: Json) -> Json:
    share = counted["share"]
    return {
        **counted["requests"],
        "device s without request": counted["device_us_without_request"] / 1_000_000 or None,
        "gaps": None if share is None else tables.percent(float(share)),
    }


def _silent(lines: list[Json]) -> list[str]:
    """Tenants whose nodes tell nothing, with the providers that serve them, each said once."""
    requests: dict[tuple[str, str], int] = defaultdict(int)
    for line in lines:
        requests[line["tenant"], line["provider"]] += line["requests"]["no_node_events"]
    return [
        f"{tenant}, {provider}: {count:,} requests are not compared"
        for (tenant, provider), count in requests.items()
        if count
    ]


def _list(report: Json, form: Format) -> None:
    if not emit(form, report, report["requests"]):
        what = report["kind"] or "gaps"
        rows = [_request_row(line) for line in report["requests"]]
        title = f"Requests, {what}, {range_of(report)}"
        out.print(tables.table(title, rows, may_go=_LESS_TOLD_REQUESTS, console=out))
        note_as_of(report)
    if report["next"] is not None and form is not Format.json:
        err.print(f"there is more: add --after {report['next']}", markup=False, soft_wrap=True)


def _request_row(line: Json) -> Json:
    gateway, node = line["gateway"], line["node"]
    return {
        "time": tables.shown_time(line["time"]),
        **{name: line[name] for name in ("kind", "tenant", "request_id", "provider", "model")},
        "at gateway": f"{gateway['input_tokens']:,}+{gateway['output_tokens']:,}" if gateway["events"] else None,
        "at nodes": f"{node['input_tokens']:,}+{node['output_tokens']:,}" if node["events"] else None,
        "statuses": " ".join(gateway["statuses"]) or None,
        "nodes": " ".join(node["nodes"]) or None,
        "device us": node["device_us"],
        "places": " ".join([*gateway["places"], *node["places"]]),
    }


def add_to(app: typer.Typer) -> None:
    register(app, "Reports", reconcile)
