"""Latencies as histograms: whole hours as the lake keeps them, the edges of a range from charges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

import numpy as np

from meterhouse.ingest.event import REFUSED_STATUSES
from meterhouse.streams import latency
from meterhouse.warehouse.lake import Cursor
from meterhouse.warehouse.reports.query import Condition, Query, between, pieces

METRICS: Final = ("duration", "time_to_first_token")
QUANTILES: Final[Mapping[str, Decimal]] = {"p50": Decimal("0.50"), "p95": Decimal("0.95"), "p99": Decimal("0.99")}
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
    parts = pieces(*window, "rollup_hour")
    whole = [(part.from_us, part.to_us) for part in parts if part.table == "rollup_hour"]
    edges = [(part.from_us, part.to_us) for part in parts if part.table != "rollup_hour"]
    rows = _stored(whole[0], where, keys).rows(cursor) if whole else []
    raw = _edges(edges, where, keys).rows(cursor) if edges else []
    rows += [
        (*row[: len(keys)], metric, latency.bucket_of(row[len(keys) + number]), row[-1])
        for row in raw
        for number, metric in enumerate(METRICS)
        if row[len(keys) + number] is not None
    ]
    return rows


def percentiles(rows: Sequence[tuple[Any, ...]]) -> Percentiles:
    """Of rows that end in metric, latency bucket, requests: what their sum comes to. Percentiles are never averaged."""
    found = {}
    for metric in METRICS:
        of_metric = [row[-2:] for row in rows if row[-3] == metric]
        buckets = np.array([bucket for bucket, _ in of_metric], dtype=np.int32)
        counts = np.array([int(requests) for _, requests in of_metric], dtype=np.int64)
        found[metric] = {name: latency.quantile(buckets, counts, share) for name, share in QUANTILES.items()}
    return found


def _stored(window: tuple[int, int], where: Condition, keys: Sequence[str]) -> Query:
    condition = between(*window) & where
    columns = ", ".join([*keys, "metric", "bucket", "sum(requests)"])
    return Query(f"SELECT {columns} FROM latency_hour WHERE {condition.sql} GROUP BY ALL", condition.params)


def _edges(edges: Sequence[tuple[int, int]], where: Condition, keys: Sequence[str]) -> Query:
    spans = [between(*edge, f"_{number}") for number, edge in enumerate(edges)]
    inside = Condition(
        f"({' OR '.join(f'({span.sql})' for span in spans)})",
        {name: value for span in spans for name, value in span.params.items()},
    )
    condition = inside & NOT_REFUSED & where
    columns = ", ".join([*keys, *(f"{metric}_us" for metric in METRICS), "count(*)"])
    return Query(f"SELECT {columns} FROM charges WHERE {condition.sql} GROUP BY ALL", condition.params)
