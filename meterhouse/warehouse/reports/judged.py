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
from meterhouse.warehouse.reports.groups import in_scope
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


def beside(snapshot: Snapshot, objective: Objective) -> Sequence[Objective]:
    """Those that `together` counts with one, so that what is kept serves both; itself where it is none of these."""
    return next((some for some in together(snapshot) if objective in some), (objective,))


def judged_minutes(
    cursor: Cursor, snapshot: Snapshot, objectives: Sequence[Objective], cuts_us: Collection[int]
) -> list[JudgedMinutes]:
    """Of each of at most TOGETHER objectives, from the first cut to the last."""
    if not objectives:
        return []
    cuts = sorted(set(cuts_us))
    parts = _kept(cursor, snapshot, objectives, cuts)
    if parts is None:
        parts = [_counted(cuts, _by_part(snapshot, objectives, cuts).table(cursor))]
    starts = np.concatenate([starts for starts, _ in parts])
    order = np.argsort(starts, kind="stable")
    counts = np.concatenate([counts for _, counts in parts])[order]
    before = np.zeros((len(starts) + 1, counts.shape[1]), np.int64)
    np.cumsum(counts, axis=0, out=before[1:])
    return [JudgedMinutes(starts[order], before[:, 2 * n], before[:, 2 * n + 1]) for n in range(len(objectives))]


_Part = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Starts (n,) in microseconds, and total and bad of each objective (n, 2 * objectives)."""


def _kept(
    cursor: Cursor, snapshot: Snapshot, objectives: Sequence[Objective], cuts: Sequence[int]
) -> list[_Part] | None:
    """Whole minutes from what is kept, those that a cut lies in from charges. None: nothing is kept."""
    first, last = -(-cuts[0] // MINUTE_US), cuts[-1] // MINUTE_US
    sums = KeepableSums(_by_minute(snapshot, objectives), "charges", first * MINUTE_US, last * MINUTE_US)
    rows = sums.kept(cursor)
    if rows is None:
        return None
    in_two = sorted({cut // MINUTE_US for cut in cuts if cut % MINUTE_US})
    minutes = rows["minute"].to_numpy()
    whole = (minutes >= first) & (minutes < last) & ~np.isin(minutes, in_two)
    parts = [(minutes[whole].astype(np.int64) * MINUTE_US, _counts(rows)[whole])]
    for minute in in_two:
        span = max(minute * MINUTE_US, cuts[0]), min((minute + 1) * MINUTE_US, cuts[-1])
        inside = [span[0], *(cut for cut in cuts if span[0] < cut < span[1]), span[1]]
        rows = _by_part(snapshot, objectives, inside).table(cursor, ("charges", *span))
        parts.append(_counted(inside, rows))
    return parts


def _counted(cuts: Sequence[int], rows: pa.Table) -> _Part:
    """Of rows by minute and by how many cuts they are not before."""
    minutes, passed = (rows[name].to_numpy().astype(np.int64) for name in ("minute", "passed"))
    return np.maximum(minutes * MINUTE_US, np.array(cuts, np.int64)[passed - 1]), _counts(rows)


def _counts(rows: pa.Table) -> npt.NDArray[np.int64]:
    names = [name for name in rows.column_names if name.startswith(("total_", "bad_"))]
    return np.stack([rows[name].to_numpy() for name in names], axis=1).astype(np.int64)


_MINUTE: Final = f'(epoch_us("time") // {MINUTE_US})::INTEGER AS minute'


def _by_minute(snapshot: Snapshot, objectives: Sequence[Objective]) -> Query:
    """Rows: minute, then total and bad of each objective."""
    return _counting(snapshot, objectives, {"minute": _MINUTE}, Condition())


def _by_part(snapshot: Snapshot, objectives: Sequence[Objective], cuts: Sequence[int]) -> Query:
    """Rows: minute, how many cuts it is not before, then total and bad of each objective; from the first cut to the
    last."""
    passed = " + ".join(f'("time" >= make_timestamptz($cut_{n}::BIGINT))::INTEGER' for n in range(len(cuts)))
    keys = {"minute": _MINUTE, "passed": f"{passed} AS passed"}
    query = _counting(snapshot, objectives, keys, between(cuts[0], cuts[-1]))
    return Query(query.sql, {**query.params, **{f"cut_{n}": cut for n, cut in enumerate(cuts)}})


def _counting(snapshot: Snapshot, objectives: Sequence[Objective], keys: Mapping[str, str], where: Condition) -> Query:
    """Rows: keys, then total_n and bad_n of each objective. What scopes tell apart is counted first, in one pass over
    the requests; objectives then add up what is theirs of these counts, which are some tens of times fewer."""
    scopes = [in_scope(each.scope, snapshot).suffixed(f"_{n}") for n, each in enumerate(objectives)]
    measures = {(each.sli, each.below_ms): n for n, each in enumerate(objectives)}
    where = where & NOT_REFUSED & any_of(scopes)
    params = {name: value for scope in scopes for name, value in scope.params.items()} | dict(where.params)
    counts, sums = [], []
    for (sli, below_ms), n in measures.items():
        judged, bad = _judged(sli)
        counts += [f"count({judged}) AS judged_{n}", f"count(*) FILTER ({bad.format(n=n)}) AS wrong_{n}"]
        params |= {} if below_ms is None else {f"below_us_{n}": below_ms * 1000}
    for n, (each, scope) in enumerate(zip(objectives, scopes, strict=True)):
        measure, inside = measures[each.sli, each.below_ms], f"FILTER ({scope.sql or 'true'})"
        sums.append(f"coalesce(sum(judged_{measure}) {inside}, 0)::INTEGER AS total_{n}")
        sums.append(f"coalesce(sum(wrong_{measure}) {inside}, 0)::INTEGER AS bad_{n}")
    return Query(
        f"""
        SELECT {", ".join([*keys, *sums])} FROM (
            SELECT {", ".join([*keys.values(), *told_apart(scopes), *counts])} FROM charges
            WHERE {where.sql} GROUP BY ALL
        ) GROUP BY ALL
        """,
        params,
    )


def _judged(sli: str) -> tuple[str, str]:
    """Of requests that were not refused: what of one is not null if it is judged, and which are bad, of measure {n}."""
    if sli == "availability":
        return "*", "status = 'error'"
    return f"{sli}_us", f"{sli}_us >= $below_us_{{n}}::BIGINT"
