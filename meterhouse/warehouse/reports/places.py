"""Who stood where in a time range: what makes the groups and filters `org_unit` and `cost_center` true to the time.

A tenant that stood in one place all the while is *settled*: its rows are that place's. Of one that moved within the
range, each *stay* is cut out at its microseconds and read from the coarsest tables that have it exactly, all stays of a
table together: a join on tenant and time, so that moves of one tenant cost nothing for others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final

from meterhouse.streams.control import Place, Snapshot
from meterhouse.warehouse.reports.errors import ReportError
from meterhouse.warehouse.reports.query import Condition, Piece, pieces

MAX_STAYS: Final = 20_000
"""In one report: each is up to seven rows that the lake is joined with. A reorganisation moves all tenants once."""
MAX_CHARGE_RUNS: Final = 16
"""Reads of a table for all stays together: each skips what lies between the moves, and takes milliseconds to plan.
That pays for charges; of roll-ups there are few."""
MAX_ROLLUP_RUNS: Final = 2

SETTLED: Final = 0
"""`place` of a row of a tenant that did not move, or that is not known."""
STAY_KEY: Final = "place"


@dataclass(frozen=True, slots=True)
class Stay:
    """A part of the range in which a tenant stood in one place."""

    number: int  # of the tenant's stays, from 1; SETTLED: the whole range
    from_us: int
    to_us: int
    place: Place


def stays_of(snapshot: Snapshot, from_us: int, to_us: int, tenants: frozenset[str] | None = None) -> list[Stay]:
    """The stays of all tenants (or of these) in the range. A tenant's touch, do not overlap and cover the range."""
    stays: list[Stay] = []
    for tenant, places in snapshot.places_by_tenant().items():
        if tenants is not None and tenant not in tenants:
            continue
        ends = [place.from_us for place in places[1:]] + [to_us + 1]
        inside = [place for place, end in zip(places, ends, strict=True) if place.from_us < to_us and end > from_us]
        edges = [from_us, *(place.from_us for place in inside[1:]), to_us]
        first = 1 if len(inside) > 1 else SETTLED
        stays += [Stay(n + first, edges[n], edges[n + 1], place) for n, place in enumerate(inside)]
    return stays


def cut_at_moves(whole: Sequence[Piece], coarsest: str, matching: Sequence[Stay], moved: frozenset[str]) -> list[Piece]:
    """`whole` without the tenants that moved, and beside it the stays that are wanted of these.

    `matching`: stays of those that moved. Each piece has the key STAY_KEY.
    """
    stayed = Condition()
    if moved:
        stayed = Condition(f'"tenant" NOT IN {tenants_sql("moved")}', {"moved": json.dumps(sorted(moved))})
    found = [replace(piece, where=stayed, keys={STAY_KEY: str(SETTLED)}) for piece in whole]
    by_table: dict[str, list[tuple[Piece, Stay]]] = {}
    for stay in matching:
        for piece in pieces(stay.from_us, stay.to_us, coarsest):
            by_table.setdefault(piece.table, []).append((piece, stay))
    for table, cut in by_table.items():
        most = MAX_CHARGE_RUNS if table == "charges" else MAX_ROLLUP_RUNS
        for run in _runs(sorted(cut, key=lambda each: each[0].from_us), most):
            found.append(_run(table, f"{table}_{len(found)}", run))
    return found


Cut = list[tuple[Piece, Stay]]


def _runs(cut: Cut, most: int) -> list[Cut]:
    """Cuts that lie together, at most `most` such runs: apart where the widest gaps between them are."""
    gaps, reach = [], cut[0][0].to_us
    for number, (piece, _) in enumerate(cut[1:], 1):
        if piece.from_us > reach:
            gaps.append((piece.from_us - reach, number))
        reach = max(reach, piece.to_us)
    edges = [0, *sorted(number for _, number in sorted(gaps)[-(most - 1) :]), len(cut)]
    return [cut[low:high] for low, high in pairwise(edges)]


def _run(table: str, name: str, run: Cut) -> Piece:
    """One piece for all of a run, joined with the stays."""
    unnested, params = _relation([(stay, piece.from_us, piece.to_us) for piece, stay in run], f"_{name}")
    first, last = min(piece.from_us for piece, _ in run), max(piece.to_us for piece, _ in run)
    beside = f" JOIN {unnested} AS stays ON {_STOOD}"
    return Piece(table, first, last, beside, Condition("", params), {STAY_KEY: "stay_number"})


def among(stays: Sequence[Stay]) -> Condition:
    """Charges of these stays."""
    unnested, params = _relation([(stay, stay.from_us, stay.to_us) for stay in stays], "")
    return Condition(f"EXISTS (SELECT 1 FROM {unnested} AS stays WHERE {_STOOD})", params)


_STOOD: Final = (
    '"tenant" = stay_tenant AND "time" >= make_timestamptz(stay_from_us) AND "time" < make_timestamptz(stay_to_us)'
)


def _relation(spans: Sequence[tuple[Stay, int, int]], suffix: str) -> tuple[str, dict[str, Any]]:
    """Parts of stays, from when to when, as a relation, and its parameter."""
    columns = {"stay_tenant": "VARCHAR", "stay_number": "INTEGER", "stay_from_us": "BIGINT", "stay_to_us": "BIGINT"}
    rows = [(stay.place.tenant, stay.number, from_us, to_us) for stay, from_us, to_us in spans]
    return rows_sql(f"stays{suffix}", columns), {f"stays{suffix}": rows_json(columns, rows)}


def rows_sql(name: str, columns: Mapping[str, str]) -> str:
    """Rows of a parameter as a relation, of columns (name → SQL type). The parameter is one JSON text: a list of
    thousands of values takes seconds to bind, the text milliseconds."""
    shape = json.dumps([dict(columns)])
    return f"(SELECT unnest(from_json(${name}::VARCHAR, '{shape}'), max_depth := 2))"


def rows_json(columns: Mapping[str, str], rows: Iterable[Sequence[Any]]) -> str:
    """The parameter of `rows_sql`."""
    return json.dumps([dict(zip(columns, row, strict=True)) for row in rows])


def tenants_sql(name: str) -> str:
    """Tenants of a parameter, which is a JSON list, for `IN`."""
    return f"(SELECT unnest(from_json(${name}::VARCHAR, '[\"VARCHAR\"]')))"


def check_stays(count: int) -> None:
    """Raises ReportError when tenants moved more often than one report takes."""
    if count > MAX_STAYS:
        raise ReportError(
            f"tenants moved between org units or cost centers over {MAX_STAYS:,} times in this range: take a shorter"
            " one, or a filter of tenants"
        )
