"""How a bench says what it measured: a table of figures, each beside its limit and its goal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    figure: str
    reached: str
    limit: str = ""  # measured in the same run
    share: str = ""  # of the limit
    goal: str = ""


def show(title: str, rows: Sequence[Row]) -> None:
    table = Table(title=title, title_justify="left")
    for name in ("figure", "reached", "limit", "share", "goal"):
        table.add_column(name, justify="left" if name == "figure" else "right")
    for row in rows:
        table.add_row(row.figure, row.reached, row.limit, row.share, row.goal)
    Console(width=140).print(table)
