"""How an objective's error budget went: what was left of it step by step, and the minutes that took the most."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from meterhouse.streams.control import Objective, Snapshot
from meterhouse.warehouse.books import Books
from meterhouse.warehouse.reports.as_of import AsOf, Freshness, as_of
from meterhouse.warehouse.reports.groups import check_range, floor_sql
from meterhouse.warehouse.reports.query import DAY_US, HOUR_US, MINUTE_US, Query, between
from meterhouse.warehouse.reports.removed import check_there
from meterhouse.warehouse.reports.slo import Ratio, judged

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
    books: Books, snapshot: Snapshot, objective: Objective, at_us: int, freshness: Freshness | None = None
) -> BurnDown:
    """Over the objective's window that ends at `at_us`, exact, from charges.

    The budget is that of the whole window: as many bad requests as its target allows of all that were judged in it.
    So the last step is what the objective's report says is left. Raises ReportError as it does, of charges that were
    removed.
    """
    from_us = at_us - objective.window_days * DAY_US
    check_range(from_us, at_us)
    step_us = HOUR_US if objective.window_days <= HOURLY_DAYS else DAY_US
    with books.read() as cursor:
        check_there(cursor, from_us, at_us)
        rows = minutes_query(snapshot, objective, (from_us, at_us), step_us).rows(cursor)
        figures_as_of = as_of(books, cursor, freshness)
    found = [(worst, int(start_us), Ratio(int(good), int(total))) for worst, start_us, good, total in rows]
    by_step = {start_us: ratio for worst, start_us, ratio in found if not worst}
    whole = Ratio(sum(each.good for each in by_step.values()), sum(each.total for each in by_step.values()))
    return BurnDown(
        objective,
        from_us,
        at_us,
        step_us,
        whole,
        _steps(objective, (from_us, at_us), step_us, by_step, whole),
        tuple((start_us, ratio) for worst, start_us, ratio in found if worst),
        figures_as_of,
    )


def minutes_query(snapshot: Snapshot, objective: Objective, window: tuple[int, int], step_us: int) -> Query:
    """Rows: is it one of the worst minutes, its start or the step's, good, total. Charges are read once."""
    all_judged, good = judged(snapshot, objective)
    condition = between(*window) & all_judged
    sql = f"""
        WITH minutes AS MATERIALIZED (
            SELECT {floor_sql(MINUTE_US)} AS start_us, count(*) FILTER ({good.sql}) AS good, count(*) AS total
            FROM charges WHERE {condition.sql} GROUP BY 1
        )
        SELECT false, start_us - start_us % {step_us:d}, sum(good), sum(total) FROM minutes GROUP BY ALL
        UNION ALL
        (SELECT true, start_us, good, total FROM minutes WHERE good < total
         ORDER BY total - good DESC, start_us DESC LIMIT {WORST:d})
    """
    return Query(sql, {**condition.params, **good.params})


def _steps(
    objective: Objective, window: tuple[int, int], step_us: int, found: dict[int, Ratio], whole: Ratio
) -> tuple[Step, ...]:
    from_us, to_us = window
    steps, bad = [], 0
    for start_us in range(from_us // step_us * step_us, to_us, step_us):
        ratio = found.get(start_us, Ratio(0, 0))
        bad += ratio.total - ratio.good
        burnt = Ratio(whole.total - bad, whole.total).burn_rate(objective.target)
        even = 1 - Fraction(min(start_us + step_us, to_us) - from_us, to_us - from_us)
        steps.append(Step(start_us, ratio, None if burnt is None else 1 - burnt, even))
    return tuple(steps)
