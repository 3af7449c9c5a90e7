"""What the commands share: settings, output, errors and exit codes. Messages go to stderr, data to stdout."""

from __future__ import annotations

import getpass
import json
import logging
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any, Final, NoReturn

import structlog
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from meterhouse.api import tables
from meterhouse.api.alert_desk import NoSuch
from meterhouse.api.clock import BadTime, parse_time
from meterhouse.api.figures import Span
from meterhouse.api.metrics_server import MetricsError
from meterhouse.api.paging import ListingGone
from meterhouse.api.quality_desk import QualityMissing
from meterhouse.api.settings import Settings
from meterhouse.api.wiring_edges import TracesMissing
from meterhouse.ingest.log import LogError
from meterhouse.streams.alerts import ChannelMissing, OutboxUnavailable
from meterhouse.streams.budget_desk import BudgetWorkerStopped
from meterhouse.streams.ledger import LedgerUnavailable
from meterhouse.streams.meter import MeterStopped
from meterhouse.warehouse.api_keys import KeyOver
from meterhouse.warehouse.audit import BadDeed
from meterhouse.warehouse.backup.manifest import BackupError
from meterhouse.warehouse.control import ControlConflict, ControlUnavailable
from meterhouse.warehouse.database import DatabaseTooNew
from meterhouse.warehouse.lake import LakeError
from meterhouse.warehouse.reports.errors import BooksError, ReportError
from meterhouse.warehouse.reports.groups import Filters

FAILED: Final = 1
WRONG_USE: Final = 2

_FAILURES: Final = (
    LogError, LakeError, LedgerUnavailable, MeterStopped, BudgetWorkerStopped, OutboxUnavailable, ControlConflict,
    ControlUnavailable, DatabaseTooNew, BooksError, MetricsError, ChannelMissing, NoSuch, ListingGone, KeyOver,
    QualityMissing, TracesMissing, BackupError,
)  # fmt: skip

FILE_WIDTH: Final = 160
"""Columns of a table that goes to a file or a pipe."""

_LENGTH: Final = re.compile(r"(\d{1,6})([mhd])", re.ASCII)
_SECONDS: Final = {"m": 60, "h": 3_600, "d": 86_400}

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


class Format(StrEnum):
    """How a report is printed."""

    table = "table"
    json = "json"
    csv = "csv"


FromOption = Annotated[
    str | None, typer.Option("--from", metavar="TIME", help="Start, included: RFC 3339, or a date (UTC).")
]
ToOption = Annotated[str | None, typer.Option("--to", metavar="TIME", help="End, excluded: RFC 3339, or a date (UTC).")]
LimitOption = Annotated[int, typer.Option(min=1, max=1_000, help="At most so many.")]
ByOption = Annotated[str | None, typer.Option(help="Who does it. (Default: the user of this machine.)")]
WhereOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        help="Only this tenant, org_unit, cost_center, application, environment, model, provider or operation; may be"
        " given again. An empty value: those without one.",
    ),
]
FormatOption = Annotated[Format, typer.Option("--format", help="How to print it.")]


def register(app: typer.Typer, panel: str, *commands: Callable[..., None]) -> None:
    """Adds commands under a heading of `--help`; their docstrings are told as one paragraph."""
    for command in commands:
        app.command(rich_help_panel=panel, help=" ".join((command.__doc__ or "").split()))(command)


def settings_of(ctx: typer.Context) -> Settings:
    settings = ctx.obj
    assert isinstance(settings, Settings)
    return settings


def say_connections(settings: Settings) -> None:
    """Two lines at the start of what runs long: where it reads and writes, without secrets."""
    err.print(settings.connections(), markup=False, soft_wrap=True)


@contextmanager
def errors() -> Iterator[None]:
    """Turns errors that a person can mend into one clear message and an exit code."""
    try:
        yield
    except (ReportError, BadTime, BadDeed) as wrong:
        fail(str(wrong), WRONG_USE)
    except _FAILURES as failed:
        fail(str(failed), FAILED)


def fail(message: str, code: int) -> NoReturn:
    err.print(f"meterhouse: {message}", markup=False, soft_wrap=True)
    raise typer.Exit(code)


def time_of(text: str | None, option: str) -> int | None:
    try:
        return None if text is None else parse_time(text)
    except BadTime as wrong:
        raise typer.BadParameter(str(wrong), param_hint=option) from None


def span_of(from_: str | None, to: str | None) -> Span:
    return Span(time_of(from_, "--from"), time_of(to, "--to"))


def where_of(texts: Sequence[str] | None) -> Filters:
    """Filters of `NAME=VALUE`. Values of one name are alternatives; reports say which names there are."""
    found: dict[str, list[str | None]] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"{text!r} has no `=`: write tenant=acme-retail", param_hint="--where")
        found.setdefault(name, []).append(value or None)
    return found


def note_as_of(report: Mapping[str, Any]) -> None:
    """A line below a table: what its figures include."""
    as_of = report["as_of"]
    lag = "unknown" if as_of["lag_seconds"] is None else f"{as_of['lag_seconds']:.1f} s"
    watermark = tables.shown_time(as_of["watermark"] or "(unknown)")
    out.print(f"as of snapshot {as_of['snapshot']}, events that arrived before {watermark}, lag {lag}", style="dim")


def length_us(text: str, option: str) -> int:
    """A length of time, microseconds: 30m, 2h, 3d."""
    found = _LENGTH.fullmatch(text)
    if found is None:
        raise typer.BadParameter("write a number and m, h or d: 30m, 2h, 3d", param_hint=option)
    return int(found[1]) * _SECONDS[found[2]] * 1_000_000


def emit(form: Format, report: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> bool:
    """Prints a report as JSON (the whole) or CSV (its items); False: a table was asked for."""
    if form is Format.json:
        typer.echo(json.dumps(report, indent=2, ensure_ascii=False))
    elif form is Format.csv:
        sys.stdout.write(tables.to_csv(items))
    return form is not Format.table


def user_name() -> str:
    """Who is at the keyboard."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return "unknown"


def progress_bar() -> Progress:
    """A bar on stderr, only where a person looks at it."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, so that work ends between two steps; a second signal ends at once."""
    stop = threading.Event()

    def ask(number: int, _: object) -> None:
        if stop.is_set():
            raise SystemExit(128 + number)
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def configure_output() -> None:
    """Tables as wide as the terminal, or wide enough for a file; structured log lines on stderr, for people at a
    terminal, else JSON. No payloads are ever logged."""
    if not out.is_terminal:
        out.width = FILE_WIDTH
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
