"""The commands that change or run a house: apply, work, serve."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import typer

from meterhouse.api.addresses import LOOPBACK
from meterhouse.api.allocator import share_arenas
from meterhouse.api.cli_common import (
    FAILED,
    WRONG_USE,
    err,
    errors,
    fail,
    out,
    progress_bar,
    register,
    say_connections,
    settings_of,
    stopped_by_signals,
    user_name,
)
from meterhouse.api.clock import now_us
from meterhouse.api.metrics_server import serving_metrics
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.api.workers import Workers, give_way
from meterhouse.streams.meter import Progress
from meterhouse.warehouse.control_file import parse
from meterhouse.warehouse.control_plan import Plan, plan

SWITCH_S: Final = 0.001
"""How long a thread may keep Python's lock while others want it. A request takes it some dozens of times, and waited
the usual 5 ms each time that a worker had it."""


def apply(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="Control data, YAML.")],
) -> None:
    """Control data from a file: tenants, rate cards, budgets, objectives. Shows what changes; applied twice it changes
    nothing. A price already in force is never edited: add one with a later valid_from."""
    with errors(), House(settings_of(ctx)) as house:
        apply_file(house, file)


def apply_file(house: House, file: Path, *, quiet: bool = False) -> None:
    made = plan(parse(file.read_bytes()), house.control.snapshot(), now_us())
    for warning in made.warnings:
        err.print(f"note: {warning}", markup=False, soft_wrap=True)
    if made.problems:
        problems = "\n".join(f"  {problem}" for problem in made.problems)
        fail(f"{file} is refused and nothing was changed:\n{problems}", WRONG_USE)
    version = house.control.apply(made, now_us(), user_name())
    if not quiet:
        _show_changes(made, version)


def _show_changes(made: Plan, version: int) -> None:
    for change in made.changes:
        out.print(str(change), markup=False, soft_wrap=True)
    if made.changes:
        out.print(f"applied: control data is at version {version}")
    else:
        out.print(f"nothing to change: control data is at version {version}")


def work(
    ctx: typer.Context,
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="Return when all that the log holds is committed.")
    ] = False,
) -> None:
    """Runs meter, budget worker and alert sender: from the log to the lake, until Ctrl-C or until idle."""
    settings = settings_of(ctx)
    say_connections(settings)
    with errors(), stopped_by_signals() as stop, House(settings, writer=True) as house, serving_metrics(house):
        done = run_workers(house, stop, until_idle=until_idle)
    err.print(f"committed {done:,} events")


def run_workers(house: House, stop: threading.Event, *, until_idle: bool) -> int:
    """Runs the workers under a progress bar; returns how many events were committed."""
    with Workers(house) as workers, progress_bar() as bar:
        task = bar.add_task("records", total=None, note="")

        def show(progress: Progress) -> None:
            note = f"{progress.processed:,} events metered, {progress.committed:,} committed"
            bar.update(task, completed=progress.records, total=progress.records + progress.lag_records, note=note)

        seen = show if err.is_terminal else None
        if until_idle:
            workers.run_until_idle(stop, seen)
        else:
            workers.run(stop, seen)
        return workers.meter.committed


def serve(
    ctx: typer.Context,
    host: Annotated[
        str | None, typer.Option(help="Address to bind; beyond loopback with keys only. (Default: 127.0.0.1.)")
    ] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65_535, help="Port; 0: any free one. (Default: 8080.)")] = None,
) -> None:
    """Serves the pages and the HTTP API (documentation at /docs), until Ctrl-C. With the embedded log the workers run
    beside it; with Kafka they run alone, as meter, budget-worker and alert-sender."""
    settings = settings_of(ctx)
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = settings.model_copy(update=given)
    say_connections(settings)
    share_arenas()
    with errors(), House(settings, writer=settings.kafka_bootstrap is None) as house, serving_metrics(house):
        serve_house(house, settings)


def serve_house(house: House, settings: Settings) -> None:
    """Serves until a signal; with the embedded log, workers that fail take the server down with them, loudly."""
    # Here, since a second of imports is felt at every other command.
    from meterhouse.api.app import create_app
    from meterhouse.api.look_ahead import LookAhead
    from meterhouse.api.pages.assets import HOW_TO_BUILD
    from meterhouse.api.server import Server

    check_authentication(house, settings)
    with ExitStack() as parts:
        stop = parts.enter_context(stopped_by_signals())
        run: Callable[[], object] = stop.wait
        if settings.kafka_bootstrap is None:
            run = partial(parts.enter_context(Workers(house)).run, stop)
        _ = house.log, house.admissions  # missing topics are said now, not at the first request
        sys.setswitchinterval(SWITCH_S)
        pool = parts.enter_context(ThreadPoolExecutor(1, thread_name_prefix="workers", initializer=give_way))
        working = pool.submit(run)
        parts.callback(stop.set)  # before the pool waits for them
        app = create_app(house, workers_alive=lambda: not working.done())
        parts.enter_context(LookAhead(house, app.state.reports))
        server = Server(app, settings)
        working.add_done_callback(lambda _: setattr(server, "should_exit", True))
        bound = listen(settings)
        port = bound.getsockname()[1]
        scheme = "http" if settings.tls_cert is None else "https"
        if not app.state.pages.assets.are_built:
            err.print(f"note: pages have tables and no charts; to have them, {HOW_TO_BUILD}", soft_wrap=True)
        err.print(f"serving {scheme}://{settings.host}:{port} (documentation at /docs); Ctrl-C stops", soft_wrap=True)
        server.run([bound])
        stop.set()
        working.result()


def check_authentication(house: House, settings: Settings) -> None:
    """Beyond this machine nobody is served who does not say who they are."""
    if settings.host in LOOPBACK or house.authentication.is_on:
        return
    how = "METERHOUSE_AUTH is off: unset it" if settings.auth == "off" else "there is no API key yet"
    fail(
        f"{settings.host} is reached from other machines, and authentication is off ({how}). Make the first key with"
        " `meterhouse keys create --role admin`, or configure METERHOUSE_OIDC_ISSUER; or bind 127.0.0.1",
        WRONG_USE,
    )


def listen(settings: Settings) -> socket.socket:
    """The socket to serve on, so that a port that is taken is said plainly."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family)
    except OSError as taken:
        fail(f"cannot bind {settings.host}:{settings.port} ({taken.strerror}): try --port 0 for any free port", FAILED)


def add_to(app: typer.Typer) -> None:
    register(app, "Run", apply, work, serve)
