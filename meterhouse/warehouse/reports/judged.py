"""Requests as objectives judge them: good and total by the minute, exact, of any range.

A charge never changes, and neither does a file of charges: what its minutes came to is kept for as long as the file is
there. A range is cut where it begins and ends and wherever else someone asks; minutes that a cut lies in are counted
from their charges, in the files that may hold them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from meterhouse.streams.control import Objective, Snapshot
from meterhouse.warehouse.lake import Cursor
from meterhouse.warehouse.reports.groups import floor_sql, in_scope
from meterhouse.warehouse.reports.histograms import NOT_REFUSED, told_apart
from meterhouse.warehouse.reports.query import MINUTE_US, Condition, KeepableSums, Query, any_of, between

TOGETHER: Final = 16
"""Objectives that are counted in one pass: a day of their minutes is 200 KB at most, so that each file's are kept."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """Good of total, exact."""

    good: int
    total: int

    @property
    def compliance(self) -> Fraction | None:
        """Share of good; None when there was nothing to judge."""
        return Fraction(self.good, self.total) if self.total else None

    def burn_rate(self, target: Decimal) -> Fraction | None:
        """Share of bad over the share that the target allows: at 1 the error budget lasts exactly the window."""
        return Fraction(self.total - self.good, self.total) / (1 - Fraction(target)) if self.total else None


@dataclass(frozen=True, slots=True)
class JudgedMinutes:
    """Good and total of one objective. What is asked of it begins and ends with a whole minute or at a cut."""

    starts_us: npt.NDArray[np.int64]  # (n,) of minutes, or of the parts that cuts make of them; ascending, may repeat
    totals: npt.NDArray[np.int64]  # (n + 1,) all that was judged before each of them, and at the end
    bads: npt.NDArray[np.int64]  # (n + 1,) the bad of these

    def within(self, from_us: int, to_us: int) -> Ratio:
        first, last = np.searchsorted(self.starts_us, [from_us, to_us])
        total = int(self.totals[last] - self.totals[first])
        return Ratio(total - int(self.bads[last] - self.bads[first]), total)

    def by_step(self, from_us: int, to_us: int, step_us: int) -> Iterator[tuple[int, Ratio]]:
        """Every step of UTC that shares an instant with [from, to), cut by it, and where it begins; a step is whole
        minutes."""
        for start_us in range(from_us // step_us * step_us, to_us, step_us):
            begin_us = max(start_us, from_us)
            yield begin_us, self.within(begin_us, min(start_us + step_us, to_us))

    def worst(self, count: int) -> Iterator[tuple[int, Ratio]]:
        """The minutes with most bad requests and when they begin, the latest of equals first."""
        minutes, place = np.unique(self.starts_us // MINUTE_US, return_inverse=True)
        bads, totals = (np.zeros(len(minutes), np.int64) for _ in range(2))
        np.add.at(bads, place, np.diff(self.bads))
        np.add.at(totals, place, np.diff(self.totals))
        for at in np.lexsort((-minutes, -bads))[:count]:
            if bads[at]:
                yield int(minutes[at]) * MINUTE_US, Ratio(int(totals[at] - bads[at]), int(totals[at]))


def together(snapshot: Snapshot) -> Iterator[Sequence[Objective]]:
    """All objectives in the control file's order, as many as are counted at once."""
    for first in range(0, len(snapshot.objectives), TOGETHER):
        yield snapshot.objectives[first : first + TOGETHER]


def judged_minutes(
    cursor: Cursor, snapshot: Snapshot, objectives: Sequence[Objective], cuts_us: Collection[int]
) -> list[JudgedMinutes]:
    """Of each of at most TOGETHER objectives, from the first cut to the last."""
    cuts = sorted(set(cuts_us))
    tables = _kept(cursor, snapshot, objectives, cuts)
    return _judged_minutes(_afresh(cursor, snapshot, objectives, cuts) if tables is None else tables)


def judged_minutes_of_one(
    cursor: Cursor, snapshot: Snapshot, objective: Objective, cuts_us: Collection[int]
) -> JudgedMinutes:
    """Of one objective: from what is kept of those that `together` counts with it, so that it is kept once."""
    cuts = sorted(set(cuts_us))
    beside = next((some for some in together(snapshot) if objective in some), (objective,))
    tables = _kept(cursor, snapshot, beside, cuts)
    if tables is not None:
        return _judged_minutes(tables)[list(beside).index(objective)]
    return _judged_minutes(_afresh(cursor, snapshot, (objective,), cuts))[0]


def _judged_minutes(tables: Sequence[pa.Table]) -> list[JudgedMinutes]:
    starts = np.concatenate([rows["start_us"].to_numpy() for rows in tables])
    order = np.argsort(starts, kind="stable")
    counts = np.concatenate([_counts(rows) for rows in tables])[order]
    before = np.zeros((len(starts) + 1, counts.shape[1]), np.int64)
    np.cumsum(counts, axis=0, out=before[1:])
    return [JudgedMinutes(starts[order], before[:, n], before[:, n + 1]) for n in range(0, counts.shape[1], 2)]


def _afresh(cursor: Cursor, snapshot: Snapshot, objectives: Sequence[Objective], cuts: Sequence[int]) -> list[pa.Table]:
    inside = between(cuts[0], cuts[-1]) & any_of(_scopes(snapshot, objectives))
    return [_added(snapshot, objectives, _apart(snapshot, objectives, cuts, inside)).table(cursor)]


def _kept(
    cursor: Cursor, snapshot: Snapshot, objectives: Sequence[Objective], cuts: Sequence[int]
) -> list[pa.Table] | None:
    """Whole minutes from what is kept, those that a cut lies in from charges. None: nothing is kept."""
    first_us, last_us = -(-cuts[0] // MINUTE_US) * MINUTE_US, cuts[-1] // MINUTE_US * MINUTE_US
    all_of_them = _added(snapshot, objectives, _apart(snapshot, objectives, (), any_of(_scopes(snapshot, objectives))))
    rows = KeepableSums(all_of_them, "charges", first_us, last_us).kept(cursor)
    if rows is None:
        return None
    in_two = sorted({cut // MINUTE_US * MINUTE_US for cut in cuts if cut % MINUTE_US})
    starts = rows["start_us"].to_numpy()
    whole = (starts >= first_us) & (starts < last_us) & ~np.isin(starts, in_two)
    tables = [rows.filter(pa.array(whole))]
    if in_two:
        tables.append(_of_minutes(cursor, snapshot, objectives, cuts, in_two))
    return tables


def _of_minutes(
    cursor: Cursor, snapshot: Snapshot, objectives: Sequence[Objective], cuts: Sequence[int], minutes: Sequence[int]
) -> pa.Table:
    """Of these minutes alone. Requests are counted minute by minute, and all counts added up at once: to plan that
    takes longer than to do it."""
    counted = []
    for minute_us in minutes:
        span = max(minute_us, cuts[0]), min(minute_us + MINUTE_US, cuts[-1])
        inside = [cut for cut in cuts if span[0] < cut < span[1]]
        query = _apart(snapshot, objectives, [span[0], *inside], between(*span))
        counted.append(query.table(cursor, ("charges", *span)))
    cursor.register("counts_of_minutes", pa.concat_tables(counted))
    return _added(snapshot, objectives, Query("FROM counts_of_minutes")).table(cursor)


def _counts(rows: pa.Table) -> npt.NDArray[np.int64]:
    names = [name for name in rows.column_names if name != "start_us"]
    return np.stack([rows[name].to_numpy() for name in names], axis=1).astype(np.int64)


def _apart(snapshot: Snapshot, objectives: Sequence[Objective], cuts: Sequence[int], where: Condition) -> Query:
    """Rows: start_us of a minute or of the part of it that begins with a cut, what scopes tell apart, then counts of
    each measure: some tens of times fewer than requests."""
    where = where & NOT_REFUSED
    params, counts = dict(where.params), []
    for (sli, below_ms), n in _measures(objectives).items():
        judged, bad = _judged(sli)
        counts += [f"count({judged}) AS judged_{n}", f"count(*) FILTER ({bad.format(n=n)}) AS wrong_{n}"]
        params |= {} if below_ms is None else {f"below_us_{n}": below_ms * 1000}
    start = floor_sql(MINUTE_US)
    if cuts:
        named = [f"$cut_{n}::BIGINT" for n in range(len(cuts))]
        passed = " ".join(f'WHEN "time" >= make_timestamptz({cut}) THEN {cut}' for cut in reversed(named))
        params |= {f"cut_{n}": cut for n, cut in enumerate(cuts)}
        start = f"greatest({start}, CASE {passed} END)"
    columns = ", ".join([f"{start} AS start_us", *told_apart(_scopes(snapshot, objectives)), *counts])
    return Query(f"SELECT {columns} FROM charges WHERE {where.sql} GROUP BY ALL", params)


def _added(snapshot: Snapshot, objectives: Sequence[Objective], counts: Query) -> Query:
    """Rows: start_us, then total_n and bad_n of each objective: the sums of what is its of `counts`."""
    measures, sums = _measures(objectives), []
    params = dict(counts.params)
    for n, (each, scope) in enumerate(zip(objectives, _scopes(snapshot, objectives), strict=True)):
        measure, inside = measures[each.sli, each.below_ms], f"FILTER ({scope.sql or 'true'})"
        sums.append(f"coalesce(sum(judged_{measure}) {inside}, 0)::INTEGER AS total_{n}")
        sums.append(f"coalesce(sum(wrong_{measure}) {inside}, 0)::INTEGER AS bad_{n}")
        params |= scope.params
    return Query(f"SELECT start_us, {', '.join(sums)} FROM ({counts.sql}) GROUP BY ALL", params)


def _scopes(snapshot: Snapshot, objectives: Sequence[Objective]) -> list[Condition]:
    return [in_scope(each.scope, snapshot).suffixed(f"_{n}") for n, each in enumerate(objectives)]


def _measures(objectives: Sequence[Objective]) -> Mapping[tuple[str, int | None], int]:
    """What objectives judge by, and its number: counted once, however many of them judge by it."""
    return {measure: n for n, measure in enumerate(dict.fromkeys((each.sli, each.below_ms) for each in objectives))}


def _judged(sli: str) -> tuple[str, str]:
    """Of requests that were not refused: what of one is not null if it is judged, and which are bad, of measure {n}."""
    if sli == "availability":
        return "*", "status = 'error'"
    return f"{sli}_us", f"{sli}_us >= $below_us_{{n}}::BIGINT"
