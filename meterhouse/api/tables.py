"""Reports for people and spreadsheets: the contract's JSON as tables (rich) and as CSV. Nothing is computed here."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from meterhouse.streams.bill_change import PARTS

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
_MONEY: Final = frozenset(
    {"cost", "limit", "spent", "reserved", "remaining", "forecast", "difference", "now", "before", *PARTS}
)
_ANY_WIDTH: Final = 10_000
_SHOWN_DECIMALS: Final = 6
"""A table shows money to the micro-unit; JSON and CSV have all twelve decimals."""


def flatten(item: Json, prefix: str = "") -> dict[str, Any]:
    """Nested objects as dotted columns: {"tokens": {"input": 1}} becomes {"tokens.input": 1}; lists are joined, of
    objects what each begins with."""
    flat: dict[str, Any] = {}
    for name, value in item.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            flat[prefix + name] = " ".join(
                str(next(iter(part.values()), "") if isinstance(part, Mapping) else part) for part in value
            )
        else:
            flat[prefix + name] = value
    return flat


def columns_of(flat: Sequence[Json]) -> list[str]:
    """In order of first appearance. An object that some items lack is no column: its members are."""
    names = list(dict.fromkeys(name for item in flat for name in item))
    objects = {name[:at] for name in names for at in range(len(name)) if name[at] == "."}
    return [name for name in names if name not in objects]


def to_csv(items: Sequence[Json]) -> str:
    """A header and a line per item; columns in order of first appearance; RFC 4180.

    Names come from outside, and a spreadsheet runs a text that begins like a formula: such a text gets an apostrophe
    in front, with which spreadsheets show it as it is. Numbers stay numbers.
    """
    flat = [flatten(item) for item in items]
    columns = columns_of(flat)
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\r\n")
    writer.writeheader()
    writer.writerows({name: _inert(value) for name, value in item.items()} for item in flat)
    return out.getvalue()


_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
_NUMBER: Final = re.compile(r"[+-]?\d+(\.\d+)?")


def _inert(value: Any) -> Any:
    """A cell that no spreadsheet runs."""
    if isinstance(value, str) and value.startswith(_FORMULA) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return "" if value is None else value


def table(
    title: str,
    items: Sequence[Json],
    *,
    total: Json | None = None,
    may_go: Sequence[str] = (),
    console: Console,
) -> Table:
    """One row per item; numbers stand right, grouped by thousands. Columns that say nothing (all empty or zero) are
    left out. Where the console is too narrow columns of `may_go` go, the first named first, and the caption says so."""
    flat = [flatten(item) for item in items]
    flat_total = {} if total is None else flatten(total)
    names = list(dict.fromkeys(name for item in [*flat, flat_total] for name in item))
    names = [name for name in names if name not in may_go or any(_says_something(item.get(name)) for item in flat)]
    hidden: list[str] = []
    while True:
        drawn = _drawn(title, names, flat, flat_total)
        droppable = [name for name in may_go if name in names]
        if not droppable or Measurement.get(console, console.options.update(width=_ANY_WIDTH), drawn).maximum <= (
            console.width
        ):
            break
        names.remove(droppable[0])
        hidden.append(_heading(droppable[0]))
    if hidden:
        drawn.caption = f"not shown for want of width: {', '.join(hidden)} (--format csv has all)"
        drawn.caption_justify = "left"
    return drawn


def _says_something(value: Any) -> bool:
    return value not in (None, 0, "", "0")


def _drawn(title: str, names: Sequence[str], flat: Sequence[Json], total: Json) -> Table:
    drawn = Table(
        title=title, title_justify="left", title_style="bold", header_style="bold", show_footer=bool(total),
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), footer_style="bold",
    )  # fmt: skip
    for name in names:
        values = [item.get(name) for item in [*flat, total]]
        numeric = _leaf(name) in _MONEY or any(isinstance(v, int | float) for v in values)
        footer = "" if not total else str(cell(name, total[name])) if name in total else ""
        drawn.add_column(_heading(name), justify="right" if numeric else "left", footer=footer, overflow="fold")
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


def window_name(window: Json) -> str:
    """A budget's window in its own calendar: `2026-11 Europe/Berlin`, `week of 2026-11-23 UTC`."""
    zone = ZoneInfo(window["time_zone"])
    day = datetime.fromisoformat(window["start"]).astimezone(zone).date()
    named = {"day": str(day), "week": f"week of {day}", "month": f"{day:%Y-%m}"}[window["every"]]
    return f"{named} {zone.key}"


def shown_time(text: str) -> str:
    """An RFC 3339 time to the second."""
    return re.sub(r"\.\d+", "", text)


def shown_money(text: str) -> str:
    """Twelve decimals cut for the eye without rounding up what was not spent; exact when nothing is lost."""
    whole, _, decimals = text.partition(".")
    if not whole.lstrip("-").isdigit():
        return text
    kept, lost = decimals[:_SHOWN_DECIMALS], decimals[_SHOWN_DECIMALS:]
    mark = "…" if lost.strip("0") else ""
    shown = f"{'-' if whole.startswith('-') else ''}{abs(int(whole)):,}"
    return f"{shown}.{kept}{mark}" if kept else shown


def _leaf(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _heading(name: str) -> str:
    return name.replace("tokens.", "").replace("by_status.", "").replace("_", " ")


def percent(share: float | None) -> str | None:
    """A share as a person reads it, for objectives near 100 %."""
    return None if share is None else f"{share * 100:.3f} %"
