"""The command that checks data quality, once or on a schedule, in a process of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any, Final

import structlog
import typer

from meterhouse.api import quality_desk, tables
from meterhouse.api.cli_common import (
    FAILED,
    Format,
    FormatOption,
    emit,
    err,
    errors,
    length_us,
    out,
    register,
    say_connections,
    settings_of,
    stopped_by_signals,
)
from meterhouse.api.metrics_server import serving_metrics
from meterhouse.api.wiring import House
from meterhouse.ingest.log import LogError
from meterhouse.streams.alerts import OutboxUnavailable
from meterhouse.warehouse.control import ControlUnavailable
from meterhouse.warehouse.lake import LakeError

if TYPE_CHECKING:
    from meterhouse.api.quality_metrics import QualityMetrics
    from meterhouse.warehouse.quality.checks import Suite, SuiteResult

MIN_EVERY_US: Final = 60 * 1_000_000
"""A run reads a week of the lake."""
_TROUBLE: Final = (LakeError, LogError, ControlUnavailable, OutboxUnavailable)

_log = structlog.get_logger("meterhouse.quality")


class SuiteName(StrEnum):
    events = "events"
    rollups = "rollups"
    control = "control"


def quality(
    ctx: typer.Context,
    suite: Annotated[
        list[SuiteName] | None, typer.Option(help="Only this suite; may be given again. (Default: all of them.)")
    ] = None,
    form: FormatOption = Format.table,
    docs: Annotated[
        Path | None, typer.Option(metavar="DIR", file_okay=False, help="Writes Data Docs, pages for a browser, there.")
    ] = None,
    every: Annotated[
        str | None, typer.Option(metavar="TIME", help="Runs again after each 30m, 1h, 1d, until Ctrl-C or SIGTERM.")
    ] = None,
) -> None:
    """Checks the data by Great Expectations: ranges, sets, freshness, completeness, drift of events, roll-ups and
    control data. Leaves with 1 when a check fails; says which rows, and what to do. Failures are alerts until they
    pass again."""
    suites: list[Suite] = [each.value for each in dict.fromkeys(suite or SuiteName)]
    settings = settings_of(ctx)
    if every is None:
        with errors(), House(settings) as house:
            quality_desk.run(house, suites, docs)
            report = quality_desk.report(house, suites)
        show(report, form, docs)
        if not report["passed"]:
            raise typer.Exit(FAILED)
        return
    every_us = length_us(every, "--every")
    if every_us < MIN_EVERY_US:
        raise typer.BadParameter("runs are a minute apart at least", param_hint="--every")
    say_connections(settings)
    with errors(), stopped_by_signals() as stop, House(settings) as house, serving_metrics(house):
        # Here, since no other command counts anything.
        from meterhouse.api.quality_metrics import QualityMetrics

        watch = QualityMetrics(house.metrics.registry)
        quality_desk.expectations()  # what is not installed is said now
        repeat(lambda: quality_desk.run(house, suites, docs), every_us / 1_000_000, watch, stop)


def repeat(
    run: Callable[[], Sequence[SuiteResult]], every_s: float, watch: QualityMetrics, stop: threading.Event
) -> None:
    """Runs now, and again `every_s` seconds after each run, until `stop` is set. A run that cannot be made is said in
    the program's log, and the next one is tried at its time."""
    while not stop.is_set():
        began_s = monotonic()
        try:
            results = run()
        except _TROUBLE as trouble:
            watch.broke()
            _log.warning("data quality could not be checked, will try again", reason=str(trouble))
        else:
            watch.ran(results, monotonic() - began_s)
            for result in results:
                failed = [each.check.id for each in result.failed]
                _log.info("data quality checked", suite=result.suite, passed=result.passed, failed=failed)
        stop.wait(every_s)


def show(report: dict[str, Any], form: Format, docs: Path | None) -> None:
    checks = [{"suite": run["suite"], **check} for run in report["suites"] for check in run["checks"]]
    if not emit(form, report, [{**check, "rows": " | ".join(check["rows"])} for check in checks]):
        rows = [
            {
                "suite": check["suite"],
                "check": check["check"],
                "kind": check["kind"],
                "what": check["says"],
                "rows": check["checked"],
                "offending": check["offending"],
                "": "passes" if check["passed"] else "FAILS" if check["trouble"] is None else "UNKNOWN",
            }
            for check in checks
        ]
        out.print(tables.table("Data quality", rows, may_go=("kind", "rows"), console=out))
        for check in checks:
            _explain(check)
    if docs is not None:
        err.print(f"Data Docs: {docs / 'index.html'}", markup=False, soft_wrap=True)


def _explain(check: dict[str, Any]) -> None:
    """Below the table: where a check fails, and what to do; or that it has not seen everything."""
    if not check["whole"]:
        out.print(f"  {check['suite']}/{check['check']}: there are more rows than were checked", markup=False)
    if check["passed"]:
        return
    lines = [check["trouble"]] if check["trouble"] else check["rows"]
    for line in lines:
        out.print(f"  {check['suite']}/{check['check']}: {line}", markup=False, soft_wrap=True)
    if (more := check["offending"] - len(check["rows"])) > 0:
        out.print(f"  {check['suite']}/{check['check']}: and {more:,} more", markup=False, soft_wrap=True)
    out.print(f"  do: {check['do']}", markup=False, soft_wrap=True)


def add_to(app: typer.Typer) -> None:
    register(app, "Reports", quality)
