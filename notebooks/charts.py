"""How the notebooks show things: one look for tables and charts, and sentences that say what to conclude.

Money stays exact (Decimal, or whole pico-units) until it is written or drawn; only a chart's coordinates are floats.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown, display
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from meterhouse.streams.money import rounded_lines, to_decimal, to_pico, to_text
from meterhouse.warehouse.reports.groups import datetime_of
from meterhouse.warehouse.reports.slo import ObjectiveLine

INK, MUTED, GRID, PALE = "#1b1f24", "#667085", "#e4e7ec", "#b9c3d0"
MAIN, MORE, LESS = "#0b5cad", "#c2571a", "#0b5cad"
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
"""Okabe and Ito's: told apart by colour-blind eyes too."""

mpl.rcParams.update(
    {
        "figure.figsize": (9, 3.6), "figure.dpi": 110, "figure.constrained_layout.use": True,
        "font.size": 10, "text.color": INK, "axes.edgecolor": GRID, "axes.labelcolor": MUTED,
        "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlepad": 12,
        "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "axes.axisbelow": True,
        "xtick.color": MUTED, "ytick.color": INK, "xtick.major.size": 0, "ytick.major.size": 0,
        "grid.color": GRID, "legend.frameon": False, "axes.prop_cycle": mpl.cycler(color=COLOURS),
    }
)  # fmt: skip


def money(pico: int, decimals: int = 2) -> str:
    """For a person: rounded once, half-even."""
    return _minus(f"{to_decimal(pico).quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_EVEN):,f}")


def signed(pico: int, decimals: int = 2) -> str:
    return f"{'+' if pico > 0 else ''}{money(pico, decimals)}"


def exact(pico: int) -> str:
    """All twelve decimals."""
    return to_text(pico)


def statement(lines_pico: Sequence[int]) -> list[Decimal]:
    """Lines and, last, their total, each rounded so that what is shown adds up to the total that is shown."""
    lines, total = rounded_lines(lines_pico)
    return [*lines, total]


def percent(share: Any, decimals: int = 1) -> str:
    return "–" if share is None else _minus(f"{100 * float(share):,.{decimals}f} %")


def _minus(number: str) -> str:
    return number.replace("-", "−")


def more_or_less(now: int, before: int) -> str:
    """`12.3 % more than`, of amounts."""
    if before in (0, now):
        return "as much as" if now == before else "more than"
    return f"{percent(abs(now - before) / before)} {'more' if now > before else 'less'} than"


def pico(amount: Decimal) -> int:
    return to_pico(amount)


def day(time_us: int) -> str:
    return f"{datetime_of(time_us):%-d %B %Y}"


def month(time_us: int) -> str:
    return f"{datetime_of(time_us):%B %Y}"


def options(from_us: int, to_us: int) -> str:
    """A range as the command line takes it."""
    start, end = (datetime_of(time_us).isoformat().replace("+00:00", "Z") for time_us in (from_us, to_us))
    return f"--from {start} --to {end}"


def need(found: object, what: str) -> None:
    """Raises LookupError where there is nothing to show."""
    if not found:
        raise LookupError(f"nothing was {what}: METERHOUSE_HOME names the house; `make notebooks` makes one to try")


def said(*sentences: str) -> None:
    """What to conclude, a line each."""
    display(Markdown("\n".join(f"- {sentence}" for sentence in sentences)))


def same_as(command: str, figure: str) -> None:
    """The command that says the same, and the figure that both say."""
    display(Markdown(f"`{command}` says the same: **{figure}**"))


def table(rows: Iterable[Mapping[str, Any]], *, total: Mapping[str, Any] | None = None, **columns: str) -> None:
    """A row per mapping, and one of totals; `columns` are those that are shown, by name, with their headings. Counts
    and amounts are grouped by thousands, and what is absent is a dash."""
    shown = [*rows, *([total] if total else [])]
    frame = pd.DataFrame([{heading: _cell(row.get(name)) for name, heading in columns.items()} for row in shown])
    look = [*_LOOK, _TOTAL] if total else _LOOK
    display(frame.style.hide(axis="index").set_table_styles(look) if shown else Markdown("*None.*"))


def latencies(line: ObjectiveLine) -> dict[str, str | None]:
    """Percentiles of what an objective measures: of a time to first token that, else of the duration."""
    metric = "time_to_first_token" if line.objective.sli == "time_to_first_token" else "duration"
    values = {name: None if us is None else f"{us / 1e6:,.2f} s" for name, us in line.percentiles_us[metric].items()}
    return {"measure": metric.replace("_", " "), **values}


_LOOK = [
    {"selector": "th, td", "props": "text-align: right; padding: .25em .9em; font-variant-numeric: tabular-nums"},
    {"selector": "th:first-child, td:first-child", "props": "text-align: left"},
    {"selector": "th", "props": f"border-bottom: 1px solid {PALE}"},
]
_TOTAL = {"selector": "tr:last-child td", "props": f"font-weight: bold; border-top: 1px solid {PALE}"}


def _cell(value: Any) -> Any:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _minus(f"{value:,}") if isinstance(value, int | Decimal) else value


def chart(title: str, *, unit: str, size: tuple[float, float] | None = None) -> Axes:
    """Empty axes. The title says what is to be seen; the unit stands at the axis of values."""
    _, axes = plt.subplots(figsize=size)
    axes.set_title(title)
    axes.set_ylabel(unit)
    return axes


def bars(
    title: str,
    unit: str,
    values: Mapping[str, int],
    *,
    beside: Mapping[str, int] | None = None,
    legend: Sequence[str] = (),
) -> None:
    """Horizontal bars of money in pico-units, largest first, each with its amount; `beside`: a paler one below each."""
    names = sorted(values, key=lambda name: values[name])
    axes = chart(title, unit="", size=(9, 0.9 + (0.62 if beside else 0.42) * len(names)))
    height, shift = (0.36, 0.2) if beside else (0.62, 0.0)
    for number, name in enumerate(names):
        _bar(axes, number + shift, values[name], height, MAIN)
        if beside is not None:
            _bar(axes, number - shift, beside.get(name, 0), height, PALE)
    axes.set_yticks(range(len(names)), names)
    _horizontal(axes, unit, [*values.values(), *(beside or {}).values()])
    if legend:
        handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in (MAIN, PALE)]
        axes.legend(handles, legend, loc="lower right")
    plt.show()


def differences(title: str, unit: str, values: Mapping[str, int]) -> None:
    """Horizontal bars of money in pico-units on both sides of nothing, in their order from above."""
    names = list(values)[::-1]
    axes = chart(title, unit="", size=(9, 0.9 + 0.42 * len(names)))
    for number, name in enumerate(names):
        _bar(axes, number, values[name], 0.62, MORE if values[name] > 0 else LESS, sign=True)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    _horizontal(axes, unit, list(values.values()))
    plt.show()


def steps(title: str, unit: str, before: tuple[str, int], parts: Mapping[str, int], now: tuple[str, int]) -> None:
    """From one amount to another by its parts, which add up: money in pico-units."""
    axes = chart(title, unit=unit, size=(9, 4))
    shown = {name: pico for name, pico in parts.items() if pico}
    level, labels, top = before[1], [before[0], *shown, now[0]], max(before[1], now[1])
    _step(axes, 0, 0, before[1], PALE, money(before[1]))
    for number, pico in enumerate(shown.values(), start=1):
        _step(axes, number, level, level + pico, MORE if pico > 0 else LESS, signed(pico))
        level += pico
        top = max(top, level)
    _step(axes, len(labels) - 1, 0, now[1], MAIN, money(now[1]))
    axes.set_xticks(range(len(labels)), [label.replace("_", "\n") for label in labels])
    axes.grid(axis="y")
    axes.set_ylim(0, _units(top) * 1.1 or 1)
    plt.show()


def stacked(title: str, unit: str, frame: pd.DataFrame) -> None:
    """Columns of a frame upon each other, a bar for each row; the index is days."""
    axes = chart(title, unit=unit)
    bottom = pd.Series(0, index=frame.index)
    for name, colour in zip(frame.columns, COLOURS, strict=False):
        axes.bar(frame.index, frame[name], bottom=bottom, color=colour, width=0.86, label=name)
        bottom += frame[name]
    axes.grid(axis="y")
    days_below(axes)
    legend_beside(axes)
    plt.show()


def days_below(axes: Axes) -> None:
    locator = mpl.dates.AutoDateLocator(minticks=4, maxticks=9)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(mpl.dates.DateFormatter("%-d %b"))


def legend_beside(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1, 0.5))


def counts_at(axes: Any) -> None:
    axes.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _units(pico: int) -> float:
    """A coordinate."""
    return float(to_decimal(pico))


def _bar(axes: Axes, place: float, pico: int, height: float, colour: str, *, sign: bool = False) -> None:
    axes.barh(place, _units(pico), height, color=colour)
    axes.annotate(
        signed(pico) if sign else money(pico),
        (_units(pico), place), xytext=(4 if pico >= 0 else -4, 0), textcoords="offset points",
        ha="left" if pico >= 0 else "right", va="center", fontsize=9, color=INK if colour != PALE else MUTED,
    )  # fmt: skip


def _step(axes: Axes, place: int, low: int, high: int, colour: str, text: str) -> None:
    axes.bar(place, _units(high - low), 0.62, bottom=_units(low), color=colour)
    top = _units(max(low, high))
    axes.annotate(text, (place, top), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=9)


def _horizontal(axes: Axes, unit: str, values: Sequence[int]) -> None:
    low, high = min([0, *values]), max([0, *values])
    room = _units(high - low) * 0.14 or 1
    axes.set_xlim(_units(low) - (room if low else 0), _units(high) + (room if high else 0))
    axes.set_xlabel(unit)
    axes.grid(axis="x")
