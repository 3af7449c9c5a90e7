"""Service level objectives: good and total, error budget, burn rates and percentiles, of each objective."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

from meterhouse.streams.control import Objective, Snapshot
from meterhouse.warehouse.books import Books
from meterhouse.warehouse.lake import Cursor
from meterhouse.warehouse.reports.as_of import AsOf, Freshness, as_of
from meterhouse.warehouse.reports.groups import check_days, check_range, in_scope
from meterhouse.warehouse.reports.histograms import Percentiles, percentiles_of
from meterhouse.warehouse.reports.judged import Ratio, judged_minutes, together
from meterhouse.warehouse.reports.query import DAY_US, HOUR_US, MINUTE_US
from meterhouse.warehouse.reports.removed import check_there

BURN_WINDOWS_US: Final[Mapping[str, int]] = {
    "5m": 5 * MINUTE_US,
    "30m": 30 * MINUTE_US,
    "1h": HOUR_US,
    "2h": 2 * HOUR_US,
    "6h": 6 * HOUR_US,
    "1d": DAY_US,
    "3d": 3 * DAY_US,
}


@dataclass(frozen=True, slots=True)
class BurnRule:
    """Both windows must burn at `factor` or faster. Google SRE workbook, chapter 5."""

    long: str
    short: str
    factor: Fraction
    severity: str  # page | ticket


BURN_RULES: Final = (
    BurnRule("1h", "5m", Fraction("14.4"), "page"),
    BurnRule("6h", "30m", Fraction(6), "page"),
    BurnRule("1d", "2h", Fraction(3), "ticket"),
    BurnRule("3d", "6h", Fraction(1), "ticket"),
)
"""Of an objective of RULE_DAYS: they spend 2, 5, 10 and 10 percent of its error budget within the long window."""
RULE_DAYS: Final = 30


def burn_rules(window_days: int) -> tuple[BurnRule, ...]:
    """The rules of an objective of so many days: the same share of its budget in the same long window, so the factor is
    in proportion to the days; but never below 1, at which the budget lasts. A long window must be shorter than the
    objective's."""
    return tuple(
        replace(rule, factor=max(Fraction(1), rule.factor * window_days / RULE_DAYS))
        for rule in BURN_RULES
        if BURN_WINDOWS_US[rule.long] < window_days * DAY_US
    )


@dataclass(frozen=True, slots=True)
class ObjectiveLine:
    objective: Objective
    from_us: int  # the window [from_us, to_us)
    to_us: int
    ratio: Ratio
    burns: Mapping[str, Ratio]  # by name of BURN_WINDOWS_US, each ending at to_us and cut at from_us
    percentiles_us: Percentiles

    @property
    def error_budget_left(self) -> Fraction | None:
        """Share of the error budget not yet used: 1 none is used, 0 all of it, below 0 the objective is missed."""
        burnt = self.ratio.burn_rate(self.objective.target)
        return None if burnt is None else 1 - burnt

    @property
    def state(self) -> str:
        """`met`, `missed`, or `no data`."""
        left = self.error_budget_left
        return "no data" if left is None else "met" if left >= 0 else "missed"

    @property
    def burning(self) -> tuple[BurnRule, ...]:
        """The rules that fire."""
        return tuple(rule for rule in burn_rules(self.objective.window_days) if self._burns_by(rule))

    def _burns_by(self, rule: BurnRule) -> bool:
        rates = [self.burns[name].burn_rate(self.objective.target) for name in (rule.long, rule.short)]
        return all(rate is not None and rate >= rule.factor for rate in rates)


@dataclass(frozen=True, slots=True)
class Slo:
    at_us: int
    lines: tuple[ObjectiveLine, ...]  # in the control file's order
    as_of: AsOf


def slo(
    books: Books,
    snapshot: Snapshot,
    at_us: int,
    between_us: tuple[int, int] | None = None,
    freshness: Freshness | None = None,
) -> Slo:
    """All objectives over [at − window_days, at) or, when given, over `between_us`; burn windows end where it ends.

    Good and total are exact, from charges: `throttled` and `blocked` are outside, a request without the measure is
    outside of a latency objective, `aborted` is good for availability. Percentiles are of the objective's scope and
    window, all requests but the refused: whole hours from the lake's histograms and the edges from charges, so within
    1 % of the nearest-rank value; histograms are added up, percentiles never averaged.
    """
    if between_us is not None:
        check_range(*between_us)
    windows = {each: between_us or (at_us - each.window_days * DAY_US, at_us) for each in snapshot.objectives}
    with books.read() as cursor:
        if windows:  # all end at the same time: the longest holds the others
            check_there(cursor, *min(windows.values()))
        lines = [line for objectives in together(snapshot) for line in _lines(cursor, snapshot, objectives, windows)]
        return Slo(at_us, tuple(lines), as_of(books, cursor, freshness))


def _lines(
    cursor: Cursor,
    snapshot: Snapshot,
    objectives: Sequence[Objective],
    windows: Mapping[Objective, tuple[int, int]],
) -> Iterator[ObjectiveLine]:
    distinct = {windows[each] for each in objectives}
    cuts = {max(from_us, to_us - length) for from_us, to_us in distinct for length in (0, *BURN_WINDOWS_US.values())}
    judged = judged_minutes(cursor, snapshot, objectives, {from_us for from_us, _ in distinct} | cuts)
    scopes = [in_scope(each.scope, snapshot) for each in objectives]
    percentiles = {window: percentiles_of(cursor, window, scopes) for window in distinct}
    for number, (objective, minutes) in enumerate(zip(objectives, judged, strict=True)):
        from_us, to_us = window = windows[objective]
        burns = {
            name: minutes.within(max(from_us, to_us - length_us), to_us) for name, length_us in BURN_WINDOWS_US.items()
        }
        ratio = minutes.within(from_us, to_us)
        yield ObjectiveLine(objective, from_us, to_us, ratio, burns, percentiles[window][number])


@dataclass(frozen=True, slots=True)
class ObjectiveDays:
    """An objective day by day: good and total of each day of UTC that shares an instant with [from, to), cut by it."""

    objective: Objective
    whole: Ratio  # of all of the range; the days add up to it
    days: Mapping[int, Ratio]  # by where the day, or the part of it, begins


def slo_days(books: Books, snapshot: Snapshot, from_us: int, to_us: int) -> tuple[ObjectiveDays, ...]:
    """All objectives, in the control file's order, counted as `slo` counts. Raises ReportError on an empty range and on
    more than MAX_DAYS days."""
    check_days(from_us, to_us)
    lines = []
    with books.read() as cursor:
        for objectives in together(snapshot):
            judged = judged_minutes(cursor, snapshot, objectives, (from_us, to_us))
            for objective, minutes in zip(objectives, judged, strict=True):
                days = dict(minutes.by_step(from_us, to_us, DAY_US))
                lines.append(ObjectiveDays(objective, minutes.within(from_us, to_us), days))
    return tuple(lines)
