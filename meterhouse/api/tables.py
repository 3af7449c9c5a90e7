"""Reports for people and spreadsheets: the contract's JSON as tables (rich) and as CSV. Nothing is computed here."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich.table import Table
from rich.text import Text

Json = Mapping[str, Any]

STATE_STYLES: Final = {
    "ok": "green",
    "warned": "yellow",
    "exceeded": "bold red",
    "met": "green",
    "missed": "bold red",
    "balanced": "green",
    "differs": "bold red",
}
_MONEY: Final = frozenset({"cost", "limit", "spent", "reserved", "remaining", "forecast"})
_SHOWN_DECIMALS: Final = 6
"""A table shows money to the micro-unit; JSON and CSV have all twelve decimals."""


def flatten(item: Json, prefix: str = "") -> dict[str, Any]:
    """Nested objects as dotted columns: {"tokens": {"input": 1}} becomes {"tokens.input": 1}; lists are joined."""
    flat: dict[str, Any] = {}
    for name, value in item.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            flat[prefix + name] = " ".join(str(part) for part in value)
        else:
            flat[prefix + name] = value
    return flat


def to_csv(items: Sequence[Json]) -> str:
    """A header and a line per item; columns in order of first appearance; RFC 4180."""
    flat = [flatten(item) for item in items]
    columns = list(dict.fromkeys(name for item in flat for name in item))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows({name: "" if value is None else value for name, value in item.items()} for item in flat)
    return out.getvalue()


def table(
    title: str, items: Sequence[Json], *, columns: Iterable[str] | None = None, total: Json | None = None
) -> Table:
    """One row per item. Numbers are aligned right and grouped by thousands."""
    flat = [flatten(item) for item in items]
    flat_total = None if total is None else flatten(total)
    names = list(columns or dict.fromkeys(name for item in [*flat, flat_total or {}] for name in item))
    drawn = Table(title=title, title_justify="left", title_style="bold", header_style="bold", show_footer=bool(total))
    for name in names:
        values = [item.get(name) for item in flat]
        numeric = _leaf(name) in _MONEY or any(isinstance(v, int | float) for v in values)
        footer = "" if flat_total is None else str(cell(name, flat_total.get(name)))
        drawn.add_column(
            _heading(name), justify="right" if numeric else "left", footer=footer, no_wrap=numeric, overflow="fold"
        )
    for item in flat:
        drawn.add_row(*(cell(name, item.get(name)) for name in names))
    return drawn


def cell(name: str, value: Any) -> Text:
    """One value as a person reads it."""
    if value is None:
        return Text("-", style="dim")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, int):
        return Text(f"{value:,}")
    if isinstance(value, float):
        return Text(f"{value:,.2f}")
    if _leaf(name) in _MONEY:
        return Text(shown_money(str(value)))
    return Text(str(value), style=STATE_STYLES.get(str(value), ""))


def shown_money(text: str) -> str:
    """Twelve decimals cut for the eye without rounding up what was not spent; exact when nothing is lost."""
    whole, _, decimals = text.partition(".")
    if not whole.lstrip("-").isdigit():
        return text
    kept, lost = decimals[:_SHOWN_DECIMALS], decimals[_SHOWN_DECIMALS:]
    mark = "…" if lost.strip("0") else ""
    return f"{int(whole):,}.{kept}{mark}" if kept else f"{int(whole):,}"


def _leaf(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _heading(name: str) -> str:
    return name.replace("tokens.", "").replace("by_status.", "").replace("_", " ")


def percent(share: float | None) -> str | None:
    """A share as a person reads it, for objectives near 100 %."""
    return None if share is None else f"{share * 100:.3f} %"
