"""The demo: a fresh folder, a seeded workload through the real pipeline, and what its users would look at."""

from __future__ import annotations

import tempfile
import time
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Final

import typer

from meterhouse.api.alert_desk import AlertDesk
from meterhouse.api.cli_alerts import show_alerts
from meterhouse.api.cli_common import err, errors, out, register, settings_of, stopped_by_signals
from meterhouse.api.cli_feed import publish_workload
from meterhouse.api.cli_reports import show_budgets, show_chargeback, show_slo
from meterhouse.api.cli_work import apply_file, run_workers, serve_house
from meterhouse.api.clock import now_us
from meterhouse.api.figures import Reports, Span
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.streams.alerts import EVERY_ALERT
from meterhouse.warehouse.view import EVERYTHING

EVENTS: Final = 118_000
DAYS: Final = 62  # a whole month before this one, whatever day it is: bills are compared with it
SEED: Final = 7


def demo(
    ctx: typer.Context,
    serve: Annotated[bool, typer.Option("--serve/--no-serve", help="Serve the API afterwards, until Ctrl-C.")] = True,
    events: Annotated[int, typer.Option(min=100, max=10_000_000, help="How many to simulate, about.")] = EVENTS,
) -> None:
    """Two months of an invented group's requests, from event to bill, in a folder of its own. Everything shown comes
    from the pipeline as it runs."""
    began = time.monotonic()
    settings = _fresh(settings_of(ctx))
    err.print(f"a fresh house in {settings.home}", soft_wrap=True)
    with errors(), House(settings, writer=True) as house:
        with as_file(files("meterhouse.api") / "demo.yaml") as control:
            apply_file(house, control, quiet=True)
        span_s, end_us = DAYS * 86_400, now_us()
        published = publish_workload(
            house,
            events=events,
            seed=SEED,
            rate=events / span_s,
            start_us=end_us - span_s * 1_000_000,
            until_us=end_us,  # nights and weekends are quiet, so that the number alone does not say when it ends
        )
        with stopped_by_signals() as stop:
            committed = run_workers(house, stop, until_idle=True)
        took_s = time.monotonic() - began
        err.print(f"{published:,} events published, {committed:,} metered and committed, {took_s:.1f} s in all")
        _show(house)
        out.print(
            f"\nLook closer:  meterhouse --home {settings.home} chargeback --group-by application,kind", soft_wrap=True
        )
        if serve:
            serve_house(house, settings)


def _show(house: House) -> None:
    reports = Reports(house, EVERYTHING)
    end_us = now_us()
    months = Span(end_us - DAYS * 86_400 * 1_000_000, end_us)
    show_chargeback(reports.chargeback(months, ("tenant", "application"), {}))
    out.print()
    show_slo(reports.slo(Span()))
    out.print()
    show_budgets(reports.budgets(Span()))
    out.print()
    show_alerts(AlertDesk(house, EVERYTHING).page(EVERY_ALERT, None, 15))


def _fresh(settings: Settings) -> Settings:
    """The settings with a home that nobody has lived in: books of a demo never mix with others."""
    home = settings.home
    if home == Settings.model_fields["home"].default or home.exists():
        home = Path(tempfile.mkdtemp(prefix="meterhouse-demo-"))
    return settings.model_copy(update={"home": home})


def add_to(app: typer.Typer) -> None:
    register(app, "Start here", demo)
