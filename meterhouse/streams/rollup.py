"""Roll-ups: rated requests → sums by minute, by hour, and latency histograms by hour.

Every result is a *delta*: rows of equal key are added up by whoever reads them. Sums are exact (`money.group_sums`).
Token counts are those of all requests of a key, whatever became of them; costs are those of billed ones, 0 elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from meterhouse.ingest.batch import NAME, TIME
from meterhouse.ingest.event import REFUSED_STATUSES, TOKEN_KINDS
from meterhouse.streams.columns import (
    Coded,
    chunk,
    codes_of,
    distinct,
    int32s,
    int64s,
    names_of,
    one_chunk,
    times_us,
)
from meterhouse.streams.latency import BUCKETS, buckets
from meterhouse.streams.ledger import LATENCY_SCHEMA, ROLLUP_KEYS, ROLLUP_SCHEMA
from meterhouse.streams.money import group_sums, group_sums_of_limbs, limbs_of, money_array
from meterhouse.streams.rating import Rated

Ints = npt.NDArray[np.int64]
Groups = npt.NDArray[np.int32]

MINUTE_US: Final = 60_000_000
HOUR_US: Final = 60 * MINUTE_US
METRICS: Final = ("duration", "time_to_first_token")

_LATENCY_GROUP: Final = ("partition", "time", "tenant", "application", "model", "provider")
LATENCY_COLUMNS: Final = (*_LATENCY_GROUP, "status", *(f"{metric}_us" for metric in METRICS))
"""What `latency` needs of its rows."""


def minutes(requests: pa.Table, rated: Rated) -> pa.Table:
    """Request rows (EVENT_SCHEMA, one chunk) and what they came to → ROLLUP_SCHEMA by minute."""
    keyed = _with_time(requests, MINUTE_US).append_column("disposition", rated.columns()["disposition"])
    keys, group = _grouped(keyed.select(ROLLUP_KEYS))
    n = len(keys)
    tokens = [_int64_sums(group, n, int64s(requests[kind.tokens])) for kind in TOKEN_KINDS]
    costs = [money_array(group_sums(group, n, column)) for column in rated.kind_costs.T]
    return _table(ROLLUP_SCHEMA, keys, [_counts(group, n), *tokens, *costs])


def hours(by_minute: pa.Table) -> pa.Table:
    """ROLLUP_SCHEMA by minute → ROLLUP_SCHEMA by hour."""
    return merge_rollups([_with_time(one_chunk(by_minute), HOUR_US)])


def latency(requests: pa.Table) -> pa.Table:
    """Request rows (LATENCY_COLUMNS of EVENT_SCHEMA or CHARGE_SCHEMA, one chunk) → LATENCY_SCHEMA by hour.

    Requests of a refused status never reached a model and are left out, as is a request without the metric.
    """
    served = np.array([*(status not in REFUSED_STATUSES for status in names_of(requests["status"])), False])
    reached = served[codes_of(requests["status"])]
    keys, group = _grouped(_with_time(requests, HOUR_US).select(_LATENCY_GROUP))
    packed = []
    for metric, name in enumerate(METRICS):
        durations_us = int64s(requests[f"{name}_us"].fill_null(-1))  # type: ignore[arg-type]  # a plain number will do
        taken = np.flatnonzero(reached & (durations_us >= 0))
        packed.append((group[taken].astype(np.int64) * len(METRICS) + metric) * BUCKETS + buckets(durations_us[taken]))
    cells, counts = _runs(np.concatenate(packed))
    groups, bucket = np.divmod(cells, BUCKETS)
    groups, metrics = np.divmod(groups, len(METRICS))
    metric_names = pa.DictionaryArray.from_arrays(metrics.astype(np.int32), pa.array(METRICS, NAME.value_type))
    arrays = [*(chunk(column) for column in keys.take(groups).columns), metric_names]
    return pa.Table.from_arrays([*arrays, pa.array(bucket.astype(np.int32)), pa.array(counts)], schema=LATENCY_SCHEMA)


def merge_rollups(tables: Sequence[pa.Table]) -> pa.Table:
    """Deltas → the same sums with one row per key. At least one table."""
    table = one_chunk(pa.concat_tables(tables))
    keys, group = _grouped(table.select(ROLLUP_KEYS))
    n = len(keys)
    if n == len(table):  # nothing to add up
        return table
    counted = ("requests", *(kind.tokens for kind in TOKEN_KINDS))
    sums = [_int64_sums(group, n, int64s(table[name])) for name in counted]
    costs = [money_array(group_sums_of_limbs(group, n, limbs_of(table[kind.cost]))) for kind in TOKEN_KINDS]
    return _table(ROLLUP_SCHEMA, keys, [*sums, *costs])


def _with_time(table: pa.Table, span_us: int) -> pa.Table:
    """The table with `time` set back to the start of its minute or hour."""
    times = times_us(table["time"])
    place = table.schema.get_field_index("time")
    starts = pa.array(times - times % span_us).view(TIME)
    return table.set_column(place, pa.field("time", TIME, nullable=False), starts)


def _grouped(keys: pa.Table) -> tuple[pa.Table, Groups]:
    """The distinct rows of `keys`, and for each row its place among them."""
    rows, group = distinct([_coded(column) for column in keys.columns])
    return keys.take(rows), group


def _coded(column: pa.ChunkedArray[Any]) -> Coded:
    """A key column as numbers from 0 and their bound. A time is a whole minute."""
    if column.type == NAME:
        size = len(chunk(column).dictionary)
        codes = codes_of(column)
        return (codes + 1, size + 1) if column.null_count else (codes, max(size, 1))
    values = times_us(column) // MINUTE_US if column.type == TIME else int32s(column).astype(np.int64)
    if not len(values):
        return values, 1
    lowest = int(values.min())
    return values - lowest, int(values.max()) - lowest + 1


def _runs(values: Ints) -> tuple[Ints, Ints]:
    """Distinct values, ascending, and how often each occurs."""
    values.sort()
    first = np.ones(len(values), dtype=np.bool_)
    np.not_equal(values[1:], values[:-1], out=first[1:])
    starts = np.flatnonzero(first)
    return values[starts], np.diff(starts, append=len(values))


def _counts(group: Groups, groups: int) -> pa.Array[Any]:
    return pa.array(np.bincount(group, minlength=groups).astype(np.int64))


def _int64_sums(group: Groups, groups: int, values: Ints) -> pa.Array[Any]:
    high, low = group_sums(group, groups, values)
    sums = low.view(np.int64)
    if high.any() or (sums < 0).any():
        raise OverflowError("a sum of tokens is over 2^63: a batch cannot hold that many, its counts are damaged")
    return pa.array(sums)


def _table(schema: pa.Schema, keys: pa.Table, sums: Sequence[pa.Array[Any]]) -> pa.Table:
    return pa.Table.from_arrays([*(chunk(column) for column in keys.columns), *sums], schema=schema)
