"""Latencies as histograms: whole hours as the lake keeps them, the edges of a range from charges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from meterhouse.ingest.event import REFUSED_STATUSES
from meterhouse.streams import latency
from meterhouse.warehouse.lake import Cursor
from meterhouse.warehouse.reports.query import (
    DAY_US,
    HOUR_US,
    Condition,
    KeepableSums,
    Query,
    any_of,
    between,
)

METRICS: Final = ("duration", "time_to_first_token")
QUANTILES: Final[Mapping[str, Decimal]] = {"p50": Decimal("0.50"), "p95": Decimal("0.95"), "p99": Decimal("0.99")}
AT_ONCE: Final = 100_000
"""Requests of an hour that are put into buckets together: some MB, however many the hour has."""
NOT_REFUSED: Final = Condition("NOT list_contains($refused::VARCHAR[], status)", {"refused": sorted(REFUSED_STATUSES)})

Percentiles = Mapping[str, Mapping[str, int | None]]
"""Metric → p50, p95, p99 in microseconds, within 1 % of the nearest-rank value; None: no values."""


def histogram_rows(
    cursor: Cursor, window: tuple[int, int], where: Condition, keys: Sequence[str] = ()
) -> list[tuple[Any, ...]]:
    """All requests but the refused that satisfy `where`: the keys' values, metric, latency bucket, requests.

    Keys are SQL over a row; they and `where` are of columns that histograms and charges both have. Add up what is of
    equal keys and bucket.
    """
    whole, edges = _cut(window, HOUR_US)
    rows = _stored_rows(cursor, whole, where, keys) if whole else []
    raw = [row for edge in edges for row in _tuples(_edge(edge, where, keys).table(cursor, ("charges", *edge)))]
    rows += [
        (*row[: len(keys)], metric, latency.bucket_of(row[len(keys) + number]), row[-1])
        for row in raw
        for number, metric in enumerate(METRICS)
        if row[len(keys) + number] is not None
    ]
    return rows


def percentiles_of(cursor: Cursor, window: tuple[int, int], scopes: Sequence[Condition]) -> list[Percentiles]:
    """Of the requests in each scope but the refused. Whole days of UTC from sums that are kept, the hours beside them
    from histograms, what is left from charges."""
    whole, edges = _cut(window, HOUR_US)
    found = np.zeros((len(METRICS) * latency.BUCKETS, len(scopes)), np.int64)
    for rows in _whole_hours(cursor, *whole, scopes) if whole else ():
        at = rows["metric"].to_numpy().astype(np.int64) * latency.BUCKETS + rows["bucket"].to_numpy()
        np.add.at(found, at, np.stack([rows[f"requests_{n}"].to_numpy() for n in range(len(scopes))], axis=1))
    for edge in edges:
        for batch in _measured(*edge, scopes).batches(cursor, AT_ONCE, ("charges", *edge)):
            _add_measured(found, pa.Table.from_batches([batch]))
    numbers = np.arange(latency.BUCKETS, dtype=np.int32)
    by_metric = found.reshape(len(METRICS), latency.BUCKETS, len(scopes))
    return [
        {
            metric: {name: latency.quantile(numbers, by_metric[m, :, n], share) for name, share in QUANTILES.items()}
            for m, metric in enumerate(METRICS)
        }
        for n in range(len(scopes))
    ]


def _whole_hours(cursor: Cursor, from_us: int, to_us: int, scopes: Sequence[Condition]) -> Iterator[pa.Table]:
    """Rows: metric as its place in METRICS, bucket, requests_n of each scope; add them up."""
    first, last = -(-from_us // DAY_US) * DAY_US, to_us // DAY_US * DAY_US
    if first > last:
        first = last = to_us
    by_day = KeepableSums(_by_day(scopes), "latency_hour", first, last)
    # The hours beside whole days are others in an hour: until then these are worth keeping too.
    beside = [
        KeepableSums(_by_day(scopes, span), "latency_hour", *span)
        for span in ((from_us, first), (last, to_us))
        if span[0] < span[1]
    ]
    kept = [rows for sums in (by_day, *beside) if (rows := sums.kept(cursor)) is not None]
    if len(kept) <= len(beside):
        yield _by_day(scopes, (from_us, to_us)).table(cursor)
        return
    days = kept[0]["day"].to_numpy()
    yield kept[0].filter(pa.array((days >= first // DAY_US) & (days < last // DAY_US)))
    yield from kept[1:]


def told_apart(scopes: Sequence[Condition]) -> list[str]:
    """The columns that scopes look at: counts by these are enough for each of them."""
    return [name for name in ("tenant", "application", "model") if any(f'"{name}"' in scope.sql for scope in scopes)]


def _by_day(scopes: Sequence[Condition], span: tuple[int, int] | None = None) -> Query:
    named = [scope.suffixed(f"_{n}") for n, scope in enumerate(scopes)]
    where = any_of(named) if span is None else between(*span) & any_of(named)
    params = {name: value for scope in named for name, value in scope.params.items()}
    metric = " ".join(f"WHEN '{name}' THEN {place}" for place, name in enumerate(METRICS))
    keys = f'(epoch_us("time") // {DAY_US})::INTEGER AS day, (CASE metric {metric} END)::TINYINT AS metric, bucket'
    sums = [
        f"coalesce(sum(requests) FILTER ({scope.sql or 'true'}), 0)::BIGINT AS requests_{n}"
        for n, scope in enumerate(named)
    ]
    return Query(
        f"""
        SELECT day, metric, bucket, {", ".join(sums)} FROM (
            SELECT {", ".join([keys, *told_apart(named)])}, sum(requests) AS requests
            FROM latency_hour WHERE {where.sql or "true"} GROUP BY ALL
        ) GROUP BY ALL
        """,
        {**params, **where.params},
    )


def _measured(from_us: int, to_us: int, scopes: Sequence[Condition]) -> Query:
    """Rows: both metrics of a request, microseconds, and in_n for each scope: is it in it? 0 or 1"""
    named = [scope.suffixed(f"_{n}") for n, scope in enumerate(scopes)]
    where = between(from_us, to_us) & NOT_REFUSED & any_of(named)
    columns = [
        *(f"{metric}_us" for metric in METRICS),
        *(f"({s.sql or 'true'}) ::TINYINT AS in_{n}" for n, s in enumerate(named)),
    ]
    params = {name: value for scope in named for name, value in scope.params.items()}
    return Query(f"SELECT {', '.join(columns)} FROM charges WHERE {where.sql}", {**params, **where.params})


def _add_measured(found: npt.NDArray[np.int64], rows: pa.Table) -> None:
    """Adds requests to histograms (metrics * buckets, scopes)."""
    inside = [rows[f"in_{n}"].to_numpy().astype(np.bool_) for n in range(found.shape[1])]
    for place, metric in enumerate(METRICS):
        values = rows[f"{metric}_us"]
        known = values.is_valid().to_numpy()
        buckets = latency.buckets(values.drop_null().to_numpy())
        first = place * latency.BUCKETS
        for n, each in enumerate(inside):
            found[first : first + latency.BUCKETS, n] += np.bincount(buckets[each[known]], minlength=latency.BUCKETS)


def percentiles(rows: Sequence[tuple[Any, ...]]) -> Percentiles:
    """Of rows that end in metric, latency bucket, requests: what their sum comes to. Percentiles are never averaged."""
    found = {}
    for metric in METRICS:
        of_metric = [row[-2:] for row in rows if row[-3] == metric]
        buckets = np.array([bucket for bucket, _ in of_metric], dtype=np.int32)
        counts = np.array([int(requests) for _, requests in of_metric], dtype=np.int64)
        found[metric] = {name: latency.quantile(buckets, counts, share) for name, share in QUANTILES.items()}
    return found


def _stored_rows(
    cursor: Cursor, window: tuple[int, int], where: Condition, keys: Sequence[str]
) -> list[tuple[Any, ...]]:
    """Of whole hours: what is kept of the whole days among them, and of the hours beside these, which are others in an
    hour."""
    days, beside = _cut(window, DAY_US)
    spans = [days, *beside] if days else beside
    sums = [KeepableSums(_stored(span, where, keys), "latency_hour", *span) for span in spans]
    kept = [rows for each in sums if (rows := each.kept(cursor)) is not None]
    if len(kept) < len(sums):
        return _stored(window, where, keys).rows(cursor)
    return [row for rows in kept for row in _tuples(rows)]


def _stored(window: tuple[int, int], where: Condition, keys: Sequence[str]) -> Query:
    condition = between(*window) & where
    columns = ", ".join([*keys, "metric", "bucket", "sum(requests)::BIGINT"])
    return Query(f"SELECT {columns} FROM latency_hour WHERE {condition.sql} GROUP BY ALL", condition.params)


def _edge(edge: tuple[int, int], where: Condition, keys: Sequence[str]) -> Query:
    condition = between(*edge) & NOT_REFUSED & where
    columns = ", ".join([*keys, *(f"{metric}_us" for metric in METRICS), "count(*)"])
    return Query(f"SELECT {columns} FROM charges WHERE {condition.sql} GROUP BY ALL", condition.params)


def _cut(window: tuple[int, int], unit_us: int) -> tuple[tuple[int, int] | None, list[tuple[int, int]]]:
    """The whole hours or days of a window, and what of it is beside them."""
    first, last = -(-window[0] // unit_us) * unit_us, window[1] // unit_us * unit_us
    if first >= last:
        return None, [window]
    return (first, last), [edge for edge in ((window[0], first), (last, window[1])) if edge[0] < edge[1]]


def _tuples(rows: pa.Table) -> list[tuple[Any, ...]]:
    return list(zip(*(column.to_pylist() for column in rows.columns), strict=True))
