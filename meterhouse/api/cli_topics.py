"""`meterhouse topics`: what is declared against what the log has, and making the one like the other."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from meterhouse.api.cli_common import WRONG_USE, err, errors, fail, out, settings_of
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House, open_kafka, topics_of
from meterhouse.ingest.topics import TopicPlan

if TYPE_CHECKING:
    from meterhouse.ingest.kafka_log import KafkaLog

app = typer.Typer(no_args_is_help=True)


@app.command()
def apply(
    ctx: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
) -> None:
    """Creates what is missing of the log's topics, adds partitions, sets their options. Shows what changes and, at a
    terminal, asks first; applied twice it changes nothing."""
    settings = settings_of(ctx)
    with errors():
        if settings.kafka_bootstrap is None:
            _apply_embedded(settings, dry_run=dry_run)
            return
        with closing(open_kafka(settings, None)) as log:
            _apply(log, settings, ask=not yes and sys.stdin.isatty() and out.is_terminal, dry_run=dry_run)


@app.command()
def show(ctx: typer.Context) -> None:
    """The topics that the log has: partitions, copies, how long records stay."""
    settings = settings_of(ctx)
    if settings.kafka_bootstrap is None:
        out.print(f"the embedded log has its topics by itself: {_names(settings)}", soft_wrap=True)
        return
    table = Table("topic", "partitions", "replication", "cleanup", "retention ms", box=None)
    with errors(), closing(open_kafka(settings, None)) as log:
        names = [spec.name for spec in topics_of(settings)]
        there = log.describe_topics(names)
    for name in names:
        if state := there.get(name):
            kept = state.config.get("retention.ms", "")
            cleanup = state.config.get("cleanup.policy", "")
            table.add_row(name, str(state.partitions), str(state.replication), cleanup, kept)
        else:
            table.add_row(name, "missing: meterhouse topics apply")
    out.print(table)


def _apply(log: KafkaLog, settings: Settings, *, ask: bool, dry_run: bool) -> None:
    plan = log.plan_topics(topics_of(settings))
    _tell(plan)
    if not plan.changes:
        out.print("nothing to change")
    elif dry_run:
        out.print(f"{len(plan.changes)} changes, none made")
    elif ask and not typer.confirm(f"Make {len(plan.changes)} changes in {settings.kafka_bootstrap}?"):
        out.print("nothing was changed")
    else:
        log.apply_topics(plan)
        out.print(f"applied {len(plan.changes)} changes")


def _tell(plan: TopicPlan) -> None:
    if plan.problems:
        problems = "\n".join(f"  {problem}" for problem in plan.problems)
        fail(f"the topics are refused and nothing was changed:\n{problems}", WRONG_USE)
    for change in plan.changes:
        out.print(str(change), markup=False, soft_wrap=True)
    if grown := [spec.name for spec in plan.grow]:
        err.print(f"note: partitions of {', '.join(grown)} can never be taken away again", soft_wrap=True)


def _apply_embedded(settings: Settings, *, dry_run: bool) -> None:
    if not dry_run:
        with House(settings) as house:
            _ = house.log  # opening it makes them
    out.print(
        f"nothing to apply: the embedded log makes its topics when it is opened ({_names(settings)})", soft_wrap=True
    )


def _names(settings: Settings) -> str:
    return ", ".join(f"{spec.name} {spec.partitions}" for spec in topics_of(settings))


def add_to(program: typer.Typer) -> None:
    program.add_typer(app, name="topics", rich_help_panel="Run", help="The log's topics: apply, show.")
