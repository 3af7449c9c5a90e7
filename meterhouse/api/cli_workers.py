"""The commands that run one worker alone: meter, budget-worker, alert-sender."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Annotated

import typer

from meterhouse.api.cli_common import err, errors, register, say_connections, settings_of, stopped_by_signals
from meterhouse.api.metrics_server import serving_metrics
from meterhouse.api.wiring import House
from meterhouse.api.workers import alert_until_idle, run_together

UntilIdleOption = Annotated[bool, typer.Option("--until-idle", help="Return when there is nothing left to do.")]


def meter(ctx: typer.Context, until_idle: UntilIdleOption = False) -> None:
    """Runs one meter of the group, from the log to the lake, until Ctrl-C or SIGTERM: what it has read is then
    committed. With Kafka and PostgreSQL run as many as there are partitions; a SQLite catalogue takes one."""
    with _alone(ctx, writer=True) as (house, stop):
        if house.settings.kafka_bootstrap is not None and house.settings.one_meter_only:
            err.print("note: the catalogue is SQLite, so this is the one meter: set METERHOUSE_CATALOGUE for more")
        with closing(house.meter()) as running:
            running.run(stop, until_idle=until_idle)
        err.print(f"committed {running.committed:,} events")


def budget_worker(ctx: typer.Context, until_idle: UntilIdleOption = False) -> None:
    """Runs a budget worker: from budget totals to states and alerts, until Ctrl-C or SIGTERM. With Kafka run two or
    more: each has some of the budgets, and the others take over from one that dies."""
    with _alone(ctx) as (house, stop), closing(house.budget_worker()) as worker:
        if until_idle:
            worker.run_until_idle(stop)
        else:
            worker.run(stop)


def alert_sender(ctx: typer.Context, until_idle: UntilIdleOption = False) -> None:
    """Runs the alert sender: posts the alerts that wait in the control database, until Ctrl-C or SIGTERM. Beside it the
    lookout raises what no threshold tells: forecasts, models without a price, a meter that is behind."""
    with _alone(ctx) as (house, stop):
        sender, lookout = house.alert_sender(), house.lookout()
        if until_idle:
            alert_until_idle(lookout, sender, stop)
        else:
            run_together(stop, partial(sender.run, stop), lookout.run)


@contextmanager
def _alone(ctx: typer.Context, *, writer: bool = False) -> Iterator[tuple[House, threading.Event]]:
    settings = settings_of(ctx)
    say_connections(settings)
    if settings.kafka_bootstrap is None:
        err.print("note: this home is embedded: `meterhouse work` runs all three workers in one process")
    with (
        errors(),
        stopped_by_signals() as stop,
        House(settings, writer=writer) as house,
        serving_metrics(house),
    ):
        yield house, stop


def add_to(app: typer.Typer) -> None:
    register(app, "Run", meter, budget_worker, alert_sender)
