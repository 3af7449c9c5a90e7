"""The command line: `meterhouse`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from meterhouse.api import (
    cli_alerts,
    cli_audit,
    cli_backup,
    cli_charges,
    cli_comparison,
    cli_demo,
    cli_erase,
    cli_export,
    cli_feed,
    cli_keys,
    cli_quality,
    cli_reconcile,
    cli_rejects,
    cli_reports,
    cli_topics,
    cli_work,
    cli_workers,
)
from meterhouse.api.cli_common import WRONG_USE, configure_output, fail
from meterhouse.api.settings import Settings, problems_of

app = typer.Typer(
    name="meterhouse",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="Settings are METERHOUSE_* variables (see the README). Exit codes: 0 done, 1 the work failed, 2 wrong use.",
)


@app.callback()
def settings(
    ctx: typer.Context,
    home: Annotated[
        Path | None,
        typer.Option(
            help="Folder of log, lake and control data; may stand anywhere in the line. (Default: ./meterhouse-data.)"
        ),
    ] = None,
) -> None:
    """The meter and the books of an LLM platform: request events in, exact chargeback, budgets and SLOs out."""
    configure_output()
    try:
        ctx.obj = Settings() if home is None else Settings(home=home)
    except ValueError as wrong:
        fail(problems_of(wrong), WRONG_USE)


GROUPS = (
    cli_demo, cli_work, cli_workers, cli_feed, cli_reports, cli_charges, cli_comparison,
    cli_reconcile, cli_export, cli_quality, cli_alerts, cli_rejects, cli_audit,
    cli_topics, cli_keys, cli_backup, cli_erase,
)  # fmt: skip
for group in GROUPS:
    group.add_to(app)


def with_home_first(arguments: list[str]) -> list[str]:
    """`--home DIR` is an option of the program; people write it after the command too."""
    for place, argument in enumerate(arguments):
        if argument == "--":
            break
        if argument == "--home" and place + 1 < len(arguments):
            return [*arguments[place : place + 2], *arguments[:place], *arguments[place + 2 :]]
        if argument.startswith("--home="):
            return [argument, *arguments[:place], *arguments[place + 1 :]]
    return arguments


def main() -> None:
    app(args=with_home_first(sys.argv[1:]), prog_name="meterhouse")


if __name__ == "__main__":
    main()
