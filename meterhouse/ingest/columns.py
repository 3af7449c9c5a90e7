"""The fast lane: many events at a time, JSON text → columns.

Accepts only what `validate.judge` accepts, with the same values. Whatever it is not sure of it marks as not good, and
the slow lane decides.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from meterhouse.ingest.batch import KEY, NAME, TIME
from meterhouse.ingest.event import (
    EVENT_TYPES,
    INFERENCE_TYPE,
    MAX_COUNT,
    MAX_TEXT,
    REQUEST_TYPE,
    STATUSES,
    TOKEN_KINDS,
    WIRE_TOKEN_COUNTS,
)
from meterhouse.ingest.fields import HTTP_STATUSES, INFERENCE_FIELDS, REQUEST_FIELDS, Field
from meterhouse.ingest.validate import canonical_labels, pair_digest, parse_json, text_fault

Mask = NDArray[np.bool_]
pc: Final[Any] = pyarrow.compute
"""Without types: the stubs know few of the kernels."""
Column = Any
"""An Arrow array. The stubs do not know what its kernels return (an array for an array)."""

# JSON, not VARCHAR, where the text must be told from a number: as VARCHAR 1.0 and "1.0" are the same.
_ENVELOPE: Final = {
    "specversion": "JSON",
    "id": "JSON",
    "source": "VARCHAR",
    "type": "VARCHAR",
    "subject": "VARCHAR",
    "time": "VARCHAR",
}
_REQUEST_NAMES: Final = frozenset(field.name for field in REQUEST_FIELDS)
_SHARED: Final = {field.name: field for field in INFERENCE_FIELDS if field.name in _REQUEST_NAMES}
"""Fields of both types; as a node's event has them."""
_NODE_FIELDS: Final = tuple(field for field in INFERENCE_FIELDS if field.name not in _REQUEST_NAMES)


def _structure(fields: Iterable[Field]) -> dict[str, str]:
    return {field.name: "VARCHAR" if field.kind in ("name", "status") else "JSON" for field in fields}


_REQUEST_STRUCTURE: Final = {**_ENVELOPE, "data": _structure(REQUEST_FIELDS)}
_NODE_STRUCTURE: Final = {"data": _structure(_NODE_FIELDS)}

_LOOKS_LIKE_JSON: Final = re.compile(r"-?[0-9][0-9.eE+-]*|true|false|[\[{].*", re.DOTALL)
_WHOLE: Final = r"^-?[0-9]{1,18}$"
_DAY: Final = "((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
_SURE_TIME: Final = (
    "^(1[7-9]|2[01])[0-9]{2}-" + _DAY + r"T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?"
    r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)


@dataclass(frozen=True, slots=True)
class Columns:
    """One row per event; a row means something only where `good`.

    `values`: the columns of EVENT_SCHEMA that come from the event. `time_us`: the time again, for comparisons.
    """

    good: Mask
    values: dict[str, Column]
    time_us: NDArray[np.int64]


class ColumnReader:
    """Holds a DuckDB connection of one thread, used as a library of vectorised functions. Not shared."""

    def __init__(self) -> None:
        self._duckdb = duckdb.connect(":memory:", config={"threads": 1})

    def close(self) -> None:
        self._duckdb.close()

    def read(self, events: Column) -> Columns:
        """Reads a string array of strict JSON, an event a row."""
        return _Chunk(self, events).read()

    def transform(self, events: Column, structure: dict[str, Any]) -> pa.Table:
        """JSON → the columns of `structure`, null where absent. Text as VARCHAR, raw JSON text as JSON."""
        # Structures are built from constants of this module, nothing of an event is in them.
        sql = f"SELECT unnest(json_transform(event, '{json.dumps(structure)}'), recursive := true) FROM event_text"
        self._duckdb.register("event_text", pa.table({"event": events}))
        try:
            table = self._duckdb.sql(sql).to_arrow_table().combine_chunks()
        finally:
            self._duckdb.unregister("event_text")
        if table.num_rows != len(events):
            raise AssertionError(f"{len(events)} events became {table.num_rows} rows")
        return table

    def keys(self, pairs: Column, ids: Column) -> Column:
        """MD5(pair id) per row."""
        self._duckdb.register("event_id", pa.table({"pair": pairs, "id": ids}))
        try:
            sql = "SELECT md5_number(pair || encode(id)) AS key FROM event_id"
            numbers = _single(self._duckdb.sql(sql).to_arrow_table().column(0))
        finally:
            self._duckdb.unregister("event_id")
        # A 128-bit number crosses to Arrow as its 16 bytes, and they are the digest's.
        digests = numbers.buffers()[1]
        return pa.Array.from_buffers(KEY, len(numbers), [None, digests], offset=numbers.offset)


class _Chunk:
    """One run of events on its way to columns. Every step takes rows that it is not sure of out of `_good`."""

    def __init__(self, reader: ColumnReader, events: Column) -> None:
        self._reader = reader
        self._events = events
        self._table = reader.transform(events, _REQUEST_STRUCTURE)
        self._good = np.ones(len(events), dtype=np.bool_)
        self._values: dict[str, Column] = {}
        # Columns that hold, as VARCHAR, what may have been a number or an object → the rows.
        self._doubtful: dict[str, Mask] = {}

    def read(self) -> Columns:
        kinds = self._name("type", self._column("type"), EVENT_TYPES.__contains__)
        requests = _equal(kinds, REQUEST_TYPE)
        nodes = _equal(kinds, INFERENCE_TYPE)
        time_us = self._envelope()
        counts = self._fields(requests, nodes)
        self._node_fields(nodes)
        self._tokens(counts)
        self._settle_doubts()
        self._key()
        return Columns(self._good, self._values, time_us)

    def _column(self, name: str) -> Column:
        return _single(self._table.column(name))

    def _envelope(self) -> NDArray[np.int64]:
        versions = self._column("specversion").dictionary_encode()
        self._good &= _equal(versions, '"1.0"')
        for name in ("type", "source", "subject"):
            self._good &= _present(self._column(name))
        self._name("source", self._column("source"), _is_name)
        self._values["tenant"] = self._name("subject", self._column("subject"), _is_name)
        del self._values["subject"]
        self._good &= _plain_text(self._column("id")) & _present(self._column("id"))
        time_us, sure = _times(self._column("time"))
        self._good &= sure
        self._values["time"] = pa.array(time_us).cast(TIME)
        return time_us

    def _fields(self, requests: Mask, nodes: Mask) -> dict[str, NDArray[np.int64]]:
        """The fields of `data`; returns the inclusive token counts."""
        mixed = bool(nodes.any())
        counts: dict[str, NDArray[np.int64]] = {}
        for field in REQUEST_FIELDS:
            column = self._column(field.name)
            shared = _SHARED.get(field.name)
            if mixed and shared is None:
                column = pc.if_else(pa.array(requests), column, pa.scalar(None, column.type))
            if field.required or (shared is not None and shared.required):
                required_of = nodes if not field.required else requests if shared is None else None
                absent = ~_present(column)
                self._good &= ~(absent if required_of is None else absent & required_of)
            self._field(field, column, counts)
        return counts

    def _node_fields(self, nodes: Mask) -> None:
        """The fields that only a node's event has: read from those rows alone."""
        rows = np.flatnonzero(nodes)
        size = len(self._events)
        if not len(rows):
            for field in _NODE_FIELDS:
                self._values[field.name] = pa.nulls(size, NAME if field.kind == "name" else pa.int64())
            return
        table = self._reader.transform(self._events.take(pa.array(rows)), _NODE_STRUCTURE)
        places = np.full(size, -1, dtype=np.int64)
        places[rows] = np.arange(len(rows))
        back = pa.array(places, mask=places < 0)
        for field in _NODE_FIELDS:
            column = _single(table.column(field.name)).take(back)
            if field.required:
                self._good &= _present(column) | ~nodes
            self._field(field, column, {})

    def _field(self, field: Field, column: Column, counts: dict[str, NDArray[np.int64]]) -> None:
        match field.kind:
            case "name":
                self._name(field.name, column, _is_name)
            case "status":
                self._name(field.name, column, STATUSES.__contains__)
            case "text":
                self._good &= _plain_text(column)
                empty = column.null_count == len(column)
                self._values[field.name] = column if empty else pc.utf8_slice_codeunits(column, 1, -1)
            case "flag":
                self._flag(field.name, column)
            case "labels":
                self._labels(column)
            case "http_status":
                numbers = self._whole(column, HTTP_STATUSES.start, HTTP_STATUSES.stop - 1)
                self._values[field.name] = numbers.cast(pa.int16(), safe=False)
            case "count":
                numbers = self._whole(column, 0, MAX_COUNT)
                if field.name in WIRE_TOKEN_COUNTS:
                    counts[field.name] = _or_zero(numbers)
                else:
                    self._values[field.name] = numbers

    def _name(self, name: str, column: Column, fits: Callable[[str], bool]) -> Column:
        """Dictionary-encodes a column and judges its few values. Returns it, also into `_values`."""
        encoded = column.dictionary_encode()
        words = encoded.dictionary.to_pylist()
        unfit = [code for code, word in enumerate(words) if not fits(word)]
        doubtful = [code for code, word in enumerate(words) if _LOOKS_LIKE_JSON.fullmatch(word)]
        if unfit:
            self._good &= ~np.isin(_codes(encoded), unfit)
        if doubtful:
            self._doubtful[name] = np.isin(_codes(encoded), doubtful)
        self._values[name] = encoded
        return encoded

    def _settle_doubts(self) -> None:
        """Reads the rows with a name such as "12" or "true" again, as JSON, to see whether it stood in quotes."""
        if not self._doubtful:
            return
        rows = np.flatnonzero(np.logical_or.reduce(list(self._doubtful.values())) & self._good)
        if not len(rows):
            return
        envelope = dict.fromkeys((name for name in self._doubtful if name in _ENVELOPE), "JSON")
        data = dict.fromkeys((name for name in self._doubtful if name not in _ENVELOPE), "JSON")
        structure = {**envelope, **({"data": data} if data else {})}
        table = self._reader.transform(self._events.take(pa.array(rows)), structure)
        for name, doubtful in self._doubtful.items():
            quoted = pc.starts_with(_single(table.column(name)), '"').fill_null(False).to_numpy(zero_copy_only=False)
            self._good[rows] &= quoted | ~doubtful[rows]

    def _flag(self, name: str, column: Column) -> None:
        if column.null_count == len(column):
            self._values[name] = pa.nulls(len(column), pa.bool_())
            return
        true = pc.equal(column, "true")
        flag = pc.or_(true, pc.equal(column, "false"))
        self._good &= flag.fill_null(True).to_numpy(zero_copy_only=False)
        self._values[name] = true

    def _labels(self, column: Column) -> None:
        encoded = column.dictionary_encode()
        canonical: list[str | None] = []
        unfit: list[int] = []
        for code, text in enumerate(encoded.dictionary.to_pylist()):
            try:
                canonical.append(canonical_labels(parse_json(text)))
            except (ValueError, RecursionError):
                canonical.append(None)
                unfit.append(code)
        if unfit:
            self._good &= ~np.isin(_codes(encoded), unfit)
        self._values["labels"] = pa.array(canonical, pa.string()).take(encoded.indices)

    def _whole(self, column: Column, least: int, most: int) -> Column:
        """JSON texts → int64, null where absent; rows of another type or range are not good."""
        if column.null_count == len(column):
            return pa.nulls(len(column), pa.int64())
        try:
            numbers = column.cast(pa.int64())
        except pa.ArrowInvalid:
            whole = pc.match_substring_regex(column, _WHOLE)
            self._good &= whole.fill_null(True).to_numpy(zero_copy_only=False)
            numbers = pc.if_else(whole, column, pa.scalar(None, column.type)).cast(pa.int64())
        extremes = pc.min_max(numbers).as_py()
        if extremes["min"] is not None and (extremes["min"] < least or extremes["max"] > most):
            values = numbers.fill_null(least).to_numpy()
            self._good &= (values >= least) & (values <= most)
        return numbers

    def _tokens(self, counts: dict[str, NDArray[np.int64]]) -> None:
        """Inclusive counts → disjoint kinds. Counts out of range are not good already, so a wrap is never kept."""
        for kind in TOKEN_KINDS:
            rest = counts[kind.counted_in]
            for name in kind.less:
                rest = rest - counts[name]
            if kind.less:
                self._good &= rest >= 0
            self._values[kind.tokens] = pa.array(rest)

    def _key(self) -> None:
        """MD5(MD5(tenant, source) id): the inner digest once per distinct pair."""
        tenants, sources = self._values["tenant"], self._values["source"]
        tenant_words = tenants.dictionary.to_pylist() or [""]
        source_words = sources.dictionary.to_pylist() or [""]
        # A row without tenant or source takes any: it is not good, its key is never used.
        tenant_codes = np.maximum(_codes(tenants), 0).astype(np.int64)
        packed = pa.array(tenant_codes * len(source_words) + np.maximum(_codes(sources), 0)).dictionary_encode()
        seen: NDArray[np.int64] = packed.dictionary.to_numpy()
        places = zip(*np.divmod(seen, len(source_words)), strict=True)
        digests = [pair_digest(tenant_words[tenant], source_words[source]) for tenant, source in places]
        pairs = pa.array(digests, pa.binary(16)).take(packed.indices)
        ids = pc.utf8_slice_codeunits(self._column("id"), 1, -1)
        self._values["key"] = self._reader.keys(pairs, ids)


def _is_name(word: str) -> bool:
    return text_fault(word) is None


def _single(column: Column) -> Column:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _codes(encoded: Column) -> NDArray[np.int32]:
    indices = encoded.indices
    codes: NDArray[np.int32] = (indices.fill_null(-1) if indices.null_count else indices).to_numpy()
    return codes


def _equal(encoded: Column, word: str) -> Mask:
    code = encoded.dictionary.index(word).as_py()
    if code < 0:
        return np.zeros(len(encoded), dtype=np.bool_)
    equal: Mask = _codes(encoded) == code
    return equal


def _or_zero(numbers: Column) -> NDArray[np.int64]:
    if numbers.null_count == len(numbers):
        return np.zeros(len(numbers), dtype=np.int64)
    values: NDArray[np.int64] = (numbers.fill_null(0) if numbers.null_count else numbers).to_numpy()
    return values


def _present(column: Column) -> Mask:
    if column.null_count == 0:
        return np.ones(len(column), dtype=np.bool_)
    present: Mask = column.is_valid().to_numpy(zero_copy_only=False)
    return present


def _text_buffers(column: Column) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """(offsets, bytes) of a string array; one byte more than the text, so that an offset at the end is readable."""
    _, offsets, data = column.buffers()
    starts = np.frombuffer(offsets, dtype=np.int32)[column.offset : column.offset + len(column) + 1]
    text = np.frombuffer(data, dtype=np.uint8) if data is not None else np.zeros(0, dtype=np.uint8)
    return starts, text


def _plain_text(column: Column) -> Mask:
    """Of JSON texts: absent, or a string of 1 to MAX_TEXT bytes without escapes or control characters."""
    if column.null_count == len(column):
        return np.ones(len(column), dtype=np.bool_)
    offsets, text = _text_buffers(column)
    text = text[: offsets[-1]]
    length = np.diff(offsets)
    first = text[np.minimum(offsets[:-1], max(len(text) - 1, 0))]
    plain = (first == ord('"')) & (length >= 3) & (length <= MAX_TEXT + 2)
    # Escaped control characters have a backslash; DEL is the one that JSON leaves bare.
    odd = (text == ord("\\")) | (text == 0x7F)
    if odd.any():
        plain[np.searchsorted(offsets, np.flatnonzero(odd), side="right") - 1] = False
    if column.null_count:
        plain |= ~_present(column)
    result: Mask = plain
    return result


def _times(column: Column) -> tuple[NDArray[np.int64], Mask]:
    """RFC 3339 texts → (microseconds since 1970 UTC, floored; where that is sure)."""
    sure = _time_shape(column)
    texts = column if sure.all() else pc.if_else(pa.array(sure), column, pa.scalar(None, column.type))
    nanoseconds = pa.timestamp("ns", "UTC")
    try:
        times = texts.cast(nanoseconds)
    except pa.ArrowInvalid:
        in_range = pc.match_substring_regex(texts, _SURE_TIME).fill_null(False)
        sure &= in_range.to_numpy(zero_copy_only=False)
        times = pc.if_else(in_range, texts, pa.scalar(None, texts.type)).cast(nanoseconds)
    return times.cast(pa.int64()).fill_null(0).to_numpy() // 1_000, sure


def _time_shape(column: Column) -> Mask:
    """Whether a text has RFC 3339's separators where they must be; Arrow's reader also takes other ISO 8601 forms."""
    offsets, text = _text_buffers(column)
    length = np.diff(offsets)
    sure = _present(column) & (length >= 20) & (length <= 35)
    if not sure.any():
        return sure
    start = np.where(sure, offsets[:-1], offsets[:-1][sure][0])
    end = np.where(sure, offsets[1:], offsets[1:][sure][0])
    for place, separator in ((4, "-"), (7, "-"), (10, "T"), (13, ":"), (16, ":")):
        sure &= text[start + place] == ord(separator)
    utc = text[end - 1] == ord("Z")
    sign = text[end - 6]
    offset = ((sign == ord("+")) | (sign == ord("-"))) & (text[end - 3] == ord(":"))
    digits = np.where(utc, end - 1, end - 6) - start
    after_seconds = text[start + 19]
    fraction = (digits >= 21) & (after_seconds == ord("."))
    sure &= (utc | offset) & ((digits == 19) | fraction)
    return sure
