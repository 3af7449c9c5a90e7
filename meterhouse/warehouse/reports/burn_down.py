"""How an objective's error budget went: what was left of it step by step, and the minutes that took the most."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from meterhouse.streams.control import Objective, Snapshot
from meterhouse.warehouse.books import Books
from meterhouse.warehouse.reports.as_of import AsOf, Freshness, as_of
from meterhouse.warehouse.reports.groups import check_days
from meterhouse.warehouse.reports.judged import JudgedMinutes, Ratio, judged_minutes_of_one
from meterhouse.warehouse.reports.query import DAY_US, HOUR_US
from meterhouse.warehouse.reports.removed import check_there

WORST: Final = 10
"""Minutes that are named: what a person looks into."""
HOURLY_DAYS: Final = 3
"""Windows up to so long are shown by the hour, longer ones by the day: at most some hundred steps."""


@dataclass(frozen=True, slots=True)
class Step:
    """An hour or a day of UTC, the first and the last cut by the window."""

    start_us: int
    ratio: Ratio
    left: Fraction | None  # of the window's error budget, when the step ends; None: nothing was judged in the window
    even: Fraction  # what would be left if it were used evenly


@dataclass(frozen=True, slots=True)
class BurnDown:
    objective: Objective
    from_us: int  # the window [from_us, to_us)
    to_us: int
    step_us: int
    ratio: Ratio  # of the window
    steps: tuple[Step, ...]  # each there, ascending
    worst: tuple[
        tuple[int, Ratio], ...
    ]  # start of the minute; those with most bad requests first, the latest of equals
    as_of: AsOf


def burn_down(
    books: Books,
    snapshot: Snapshot,
    objective: Objective,
    at_us: int,
    between_us: tuple[int, int] | None = None,
    freshness: Freshness | None = None,
) -> BurnDown:
    """Over the objective's window that ends at `at_us` or, when given, over `between_us`; exact, from charges.

    The budget is that of the whole window: as many bad requests as its target allows of all that were judged in it.
    So the last step is what the objective's report says is left. Raises ReportError as it does, of charges that were
    removed, and on a range of more than MAX_DAYS days.
    """
    from_us, at_us = between_us or (at_us - objective.window_days * DAY_US, at_us)
    check_days(from_us, at_us)
    step_us = HOUR_US if at_us - from_us <= HOURLY_DAYS * DAY_US else DAY_US
    with books.read() as cursor:
        check_there(cursor, from_us, at_us)
        minutes = judged_minutes_of_one(cursor, snapshot, objective, (from_us, at_us))
        figures_as_of = as_of(books, cursor, freshness)
    whole = minutes.within(from_us, at_us)
    steps = _steps(objective, (from_us, at_us), step_us, minutes, whole)
    worst = tuple(minutes.worst(WORST))
    return BurnDown(objective, from_us, at_us, step_us, whole, steps, worst, figures_as_of)


def _steps(
    objective: Objective, window: tuple[int, int], step_us: int, minutes: JudgedMinutes, whole: Ratio
) -> tuple[Step, ...]:
    from_us, to_us = window
    steps, bad = [], 0
    for begin_us, ratio in minutes.by_step(from_us, to_us, step_us):
        start_us = begin_us // step_us * step_us
        bad += ratio.total - ratio.good
        burnt = Ratio(whole.total - bad, whole.total).burn_rate(objective.target)
        even = 1 - Fraction(min(start_us + step_us, to_us) - from_us, to_us - from_us)
        steps.append(Step(start_us, ratio, None if burnt is None else 1 - burnt, even))
    return tuple(steps)
