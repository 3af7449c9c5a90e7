"""Lines of a comparison as tables show them: what is shown adds up, down each column and across each line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from meterhouse.api.pages.words import Amount, column, decimals_for, difference

_ZERO: Final = "0.000000000000"


@dataclass(frozen=True, slots=True)
class Line:
    groups: Mapping[str, str | None]
    state: str  # kept, new, gone; of the total: kept
    requests: int
    tokens: int
    unpriced: int
    now: Amount
    before: Amount
    change: Amount
    relative: str | None
    share: Decimal | None  # of the total of now


def lines_of(report: Mapping[str, Any]) -> tuple[list[Line], Line]:
    """Lines and total, those that changed most first."""
    ranked = sorted(report["lines"], key=lambda line: -abs(Decimal(line["difference"])))
    total = report["total"]
    places = min(decimals_for(_cost(total, when)) for when in ("now", "before"))
    columns = [column([_cost(line, when) for line in ranked], places) for when in ("now", "before")]
    (now, now_total), (before, before_total) = columns
    whole = Decimal(_cost(total, "now"))
    shown = [_line(line, report["group_by"], (now[i], before[i]), places, whole) for i, line in enumerate(ranked)]
    return shown, _line(total, (), (now_total, before_total), places, whole)


def _line(line: Mapping[str, Any], group_by: Any, costs: tuple[Amount, Amount], places: int, whole: Decimal) -> Line:
    figures = line["now"] or {"requests": 0, "unpriced_requests": 0, "tokens": {}}
    now, before = costs
    return Line(
        groups={name: line[name] for name in group_by},
        state=line.get("state", "kept"),
        requests=figures["requests"],
        tokens=sum(figures["tokens"].values()),
        unpriced=figures["unpriced_requests"],
        now=now,
        before=before,
        change=difference(now, before, line["difference"], places),
        relative=line["relative"],
        share=Decimal(now.exact) / whole if whole else None,
    )


def _cost(line: Mapping[str, Any], when: str) -> str:
    cost: str = _ZERO if line[when] is None else line[when]["cost"]
    return cost
