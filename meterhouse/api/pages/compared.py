"""Lines of a comparison as tables show them: what is shown adds up, down each column and across each line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from meterhouse.api.pages.words import Amount, column, decimals_for, difference, shares

MAX_LINES: Final = 500
"""Of a table: what a person reads, and 200 kB. Files have them all."""
_ZERO: Final = "0.000000000000"
_NO_FIGURES: Final[Mapping[str, Any]] = {"requests": 0, "unpriced_requests": 0, "tokens": {}, "cost": _ZERO}

_OTHERS: Final[Mapping[str, Any]] = {"state": "others", "relative": None}


@dataclass(frozen=True, slots=True)
class Line:
    groups: Mapping[str, str | None]
    state: str  # kept, new, gone; of the total: kept; of all lines beyond MAX_LINES together: others
    requests: int
    tokens: int
    unpriced: int
    now: Amount
    before: Amount
    change: Amount
    relative: str | None
    share: str  # of the total of now


@dataclass(frozen=True, slots=True)
class Table:
    """`lines`: the last is all `others`, so many, together, where there are more than a table has."""

    lines: Sequence[Line]
    total: Line
    others: int
    decimals: int  # of its money


def table_of(report: Mapping[str, Any], *, by_cost: bool = False, most: int | None = None) -> Table:
    """Lines and total; those that changed most come first, or those that cost most. `most`: lines, None: all."""
    ranked = sorted(report["lines"], key=_cost_now if by_cost else _changed, reverse=True)
    others = 0 if most is None or len(ranked) <= most else len(ranked) - most + 1
    if others:
        ranked = [*ranked[:-others], _together(ranked[-others:])]
    total = report["total"]
    places = min(decimals_for(_figures(total, when)["cost"]) for when in ("now", "before"))
    exacts = [[_figures(line, when)["cost"] for line in ranked] for when in ("now", "before")]
    (now, now_total), (before, before_total) = (column(costs, places) for costs in exacts)
    parts = shares(exacts[0])
    costs = zip(now, before, strict=True)
    lines = [
        _line(line, report["group_by"], each, places, part)
        for line, each, part in zip(ranked, costs, parts, strict=True)
    ]
    whole = _line(total, (), (now_total, before_total), places, shares([now_total.exact])[0])
    return Table(lines, whole, others, places)


def _line(line: Mapping[str, Any], group_by: Any, costs: tuple[Amount, Amount], places: int, share: str) -> Line:
    figures = _figures(line, "now")
    now, before = costs
    return Line(
        groups={name: line[name] for name in group_by if name in line},
        state=line.get("state", "kept"),
        requests=figures["requests"],
        tokens=sum(figures["tokens"].values()),
        unpriced=figures["unpriced_requests"],
        now=now,
        before=before,
        change=difference(now, before, line["difference"], places),
        relative=line["relative"],
        share=share,
    )


def _together(lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Lines as one, without groups."""

    def added(when: str) -> Mapping[str, Any]:
        figures = [_figures(line, when) for line in lines]
        sums = {name: sum(each[name] for each in figures) for name in ("requests", "unpriced_requests")}
        tokens = {"all": sum(count for each in figures for count in each["tokens"].values())}
        return {**sums, "tokens": tokens, "cost": _sum(each["cost"] for each in figures)}

    difference = _sum(line["difference"] for line in lines)
    return {
        "state": "others",
        "now": added("now"),
        "before": added("before"),
        "difference": difference,
        "relative": None,
    }


def _sum(amounts: Any) -> str:
    return f"{sum(map(Decimal, amounts), Decimal()):.12f}"


def _cost_now(line: Mapping[str, Any]) -> Decimal:
    return Decimal(_figures(line, "now")["cost"])


def _changed(line: Mapping[str, Any]) -> Decimal:
    return abs(Decimal(line["difference"]))


def _figures(line: Mapping[str, Any], when: str) -> Mapping[str, Any]:
    return _NO_FIGURES if line[when] is None else line[when]
