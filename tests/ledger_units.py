"""Units of a ledger's commit, made with numpy and a seed; sums are made apart from the product's own roll-up.

Tenants of one partition stay in it, keys are random, and every tenth charge is unbilled, every eleventh unpriced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from meterhouse.ingest.batch import KEY, Reason, Reject
from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.streams.ledger import (
    CHARGE_SCHEMA,
    LATENCY_KEYS,
    LATENCY_SCHEMA,
    MONEY,
    NODE_EVENT_SCHEMA,
    ROLLUP_KEYS,
    ROLLUP_SCHEMA,
    Counts,
    Position,
    Processed,
)

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US
START_US = 1_767_225_600_000_000
"""2026-01-01T00:00:00Z."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a unit looks like."""

    charges: int = 20
    node_events: int = 3
    rejects: int = 2
    seed: int = 1
    start_us: int = START_US
    span_us: int = 3 * HOUR_US  # the charges' times are spread over it, ascending
    tenants: int = 4
    models: int = 3
    partition: int = 0


def unit(shape: Shape, before: Position | None = None) -> Processed:
    """One partition's unit that starts at `before` (default: 0). One event a record."""
    before = before or Position()
    random = np.random.default_rng(shape.seed)
    columns = _charge_columns(shape, before.next_offset, random)
    charges = _table(CHARGE_SCHEMA, columns)
    node_events = _node_events(shape, before.next_offset + shape.charges, random)
    rejects = _rejects(shape, before.next_offset + shape.charges + shape.node_events)
    return Processed(
        charges=charges,
        node_events=node_events,
        minutes=_rollup(columns, MINUTE_US),
        hours=_rollup(columns, HOUR_US),
        latency=_latency(columns),
        rejects=rejects,
        before={shape.partition: before},
        after={shape.partition: _after(shape, before, columns)},
    )


def joined(units: Sequence[Processed]) -> Processed:
    """Units of different partitions as one commit."""
    names = ("charges", "node_events", "minutes", "hours", "latency")
    tables = {name: pa.concat_tables([getattr(each, name) for each in units]) for name in names}
    return Processed(
        **tables,
        rejects=[reject for each in units for reject in each.rejects],
        before={p: position for each in units for p, position in each.before.items()},
        after={p: position for each in units for p, position in each.after.items()},
    )


def empty(before: Position, next_offset: int, partition: int = 0) -> Processed:
    """A unit that only moves a position: records that held nothing but duplicates."""
    made = unit(Shape(charges=0, node_events=0, rejects=0, partition=partition), before)
    duplicates = Counts(read=next_offset - before.next_offset, duplicates=next_offset - before.next_offset)
    after = replace(made.after[partition], next_offset=next_offset, counts=before.counts + duplicates)
    return replace(made, after={partition: after})


def _charge_columns(shape: Shape, first_offset: int, random: np.random.Generator) -> dict[str, object]:
    n = shape.charges
    number = np.arange(n)
    times = shape.start_us + np.sort(random.integers(0, max(shape.span_us, 1), n))
    disposition = np.where(number % 10 == 9, "unbilled", np.where(number % 11 == 10, "unpriced", "billed"))
    tokens = {kind.tokens: random.lognormal(5, 1, n).astype(np.int64) for kind in TOKEN_KINDS}
    tokens["cache_write_tokens"][:] = 0
    prices = {
        kind.tokens: price for kind, price in zip(TOKEN_KINDS, (2_500_000, 250_000, 0, 10_000_000, 7), strict=True)
    }
    costs = {
        kind.cost: np.where(disposition == "billed", tokens[kind.tokens] * prices[kind.tokens], 0)
        for kind in TOKEN_KINDS
    }
    model = random.integers(0, shape.models, n)
    total: Ints = sum(costs.values(), np.zeros(n, np.int64))
    return {
        "key": _keys(n, random),
        "partition": np.full(n, shape.partition, np.int32),
        "offset": first_offset + number,
        "index": np.zeros(n, np.int32),
        "arrived": times + 1_500_000,
        "time": times,
        "tenant": _names(f"tenant-{shape.partition}-", random.integers(0, shape.tenants, n)),
        "source": _names("/gateway/", random.integers(0, 3, n)),
        "application": _names("app-", random.integers(0, 3, n)),
        "environment": pa.array(np.where(number % 5 == 0, "test", "prod"), mask=number % 7 == 0),
        "model": _names("model-", model),
        "provider": _names("provider-", model % 2),
        "operation": _names("chat-", np.zeros(n, np.int64)),
        "status": np.where(disposition == "unbilled", "error", "ok"),
        "http_status": np.where(disposition == "unbilled", 503, 200).astype(np.int16),
        "streamed": number % 2 == 0,
        **tokens,
        **costs,
        "duration_us": random.lognormal(13, 1, n).astype(np.int64),
        "time_to_first_token_us": random.lognormal(11, 1, n).astype(np.int64),
        "disposition": disposition,
        "cost_pico": pa.array(total, mask=disposition == "unpriced"),
        "card": pa.array(model.astype(np.int32), mask=disposition != "billed"),
        "control_version": np.ones(n, np.int32),
    }


def _node_events(shape: Shape, first_offset: int, random: np.random.Generator) -> pa.Table:
    n = shape.node_events
    times = shape.start_us + np.sort(random.integers(0, max(shape.span_us, 1), n))
    return _table(
        NODE_EVENT_SCHEMA,
        {
            "key": _keys(n, random),
            "partition": np.full(n, shape.partition, np.int32),
            "offset": first_offset + np.arange(n),
            "index": np.zeros(n, np.int32),
            "arrived": times + 1_500_000,
            "time": times,
            "tenant": _names(f"tenant-{shape.partition}-", random.integers(0, shape.tenants, n)),
            "source": _names("/node/", random.integers(0, 3, n)),
            "model": _names("model-", random.integers(0, shape.models, n)),
            "provider": _names("provider-", np.zeros(n, np.int64)),
            "request_id": _names("request-", np.arange(n)),
            **{kind.tokens: random.integers(0, 1000, n) for kind in TOKEN_KINDS},
            "node": _names("node-", random.integers(0, 2, n)),
            "accelerator_us": random.integers(0, 10**6, n),
        },
    )


def _rejects(shape: Shape, first_offset: int) -> list[Reject]:
    return [
        Reject(
            topic="usage.events",
            partition=shape.partition,
            offset=first_offset + i,
            index=i - 1,
            arrived_us=shape.start_us + i,
            reason=Reason.NOT_JSON,
            detail="These bytes are not JSON: send a CloudEvent",
            tenant=None if i % 2 else "tenant-x",
            payload=bytes([0, 255, i]),
        )
        for i in range(shape.rejects)
    ]


def _after(shape: Shape, before: Position, columns: dict[str, object]) -> Position:
    disposition = list(np.asarray(columns["disposition"]))
    counts = Counts(
        read=shape.charges + shape.node_events + shape.rejects,
        billed=disposition.count("billed"),
        unpriced=disposition.count("unpriced"),
        unbilled=disposition.count("unbilled"),
        informational=shape.node_events,
        rejected=shape.rejects,
    )
    arrived = np.asarray(columns["arrived"])
    newest = max(before.arrived_us or 0, int(arrived[-1]) if len(arrived) else 0)
    return Position(before.next_offset + counts.read, before.counts + counts, newest or None)


def _rollup(columns: dict[str, object], step_us: int) -> pa.Table:
    keyed = pa.table(
        {
            **{name: columns[name] for name in ROLLUP_KEYS if name != "time"},
            "time": np.asarray(columns["time"]) // step_us * step_us,
            **{kind.tokens: columns[kind.tokens] for kind in TOKEN_KINDS},
            **{kind.cost: columns[kind.cost] for kind in TOKEN_KINDS},
        }
    )
    sums = [(name, "sum") for kind in TOKEN_KINDS for name in (kind.tokens, kind.cost)]
    grouped = keyed.group_by(list(ROLLUP_KEYS)).aggregate([([], "count_all"), *sums])
    renamed = {name: grouped[name] for name in ROLLUP_KEYS}
    renamed |= {"requests": grouped["count_all"]}
    renamed |= {kind.tokens: grouped[f"{kind.tokens}_sum"] for kind in TOKEN_KINDS}
    renamed |= {kind.cost: _money(grouped[f"{kind.cost}_sum"].to_numpy()) for kind in TOKEN_KINDS}
    return _table(ROLLUP_SCHEMA, renamed)


def _latency(columns: dict[str, object]) -> pa.Table:
    ok = np.asarray(columns["status"]) == "ok"
    keyed = pa.table(
        {
            "partition": columns["partition"],
            "time": np.asarray(columns["time"]) // HOUR_US * HOUR_US,
            **{name: columns[name] for name in ("tenant", "application", "model", "provider")},
            "bucket": np.log2(np.asarray(columns["duration_us"]) + 1).astype(np.int32),
        }
    ).filter(pa.array(ok))
    keyed = keyed.append_column("metric", pa.array(["duration"] * keyed.num_rows, pa.string()))
    grouped = keyed.group_by(list(LATENCY_KEYS)).aggregate([([], "count_all")])
    return _table(LATENCY_SCHEMA, {**{name: grouped[name] for name in LATENCY_KEYS}, "requests": grouped["count_all"]})


def _table(schema: pa.Schema, columns: dict[str, object]) -> pa.Table:
    """Columns in the schema's types; one that is not given is null."""
    arrays = []
    rows = len(columns["partition"])  # type: ignore[arg-type]
    for field in schema:
        values = columns.get(field.name)
        if values is None:
            arrays.append(pa.nulls(rows, field.type))
            continue
        array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
        if pa.types.is_dictionary(field.type):
            array = pc.cast(array, pa.string()).dictionary_encode()
        arrays.append(pc.cast(array, field.type) if array.type != field.type else array)
    return pa.Table.from_arrays(arrays, schema=schema)


def _keys(n: int, random: np.random.Generator) -> pa.Array:
    return pa.FixedSizeBinaryArray.from_buffers(KEY, n, [None, pa.py_buffer(random.bytes(16 * n))])


def _names(prefix: str, numbers: npt.NDArray[np.integer]) -> pa.Array:
    return pa.array([f"{prefix}{number}" for number in numbers.tolist()], pa.string())


def _money(pico: Ints) -> pa.Array:
    """int64 pico-units as MONEY: the same integers, sign-extended to 128 bits."""
    halves = np.empty((len(pico), 2), np.int64)
    halves[:, 0], halves[:, 1] = pico, pico >> 63
    return pa.Decimal128Array.from_buffers(MONEY, len(pico), [None, pa.py_buffer(halves.tobytes())])
