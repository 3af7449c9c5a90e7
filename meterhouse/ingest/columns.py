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
from numpy.typing import NDArray

from meterhouse.ingest.arrow_text import Column, Mask, pc, plain_text, present, times
from meterhouse.ingest.batch import KEY, NAME, TIME
from meterhouse.ingest.event import (
    EVENT_TYPES,
    INFERENCE_TYPE,
    MAX_COUNT,
    REQUEST_TYPE,
    STATUSES,
    TOKEN_KINDS,
    WIRE_TOKEN_COUNTS,
)
from meterhouse.ingest.fields import HTTP_STATUSES, INFERENCE_FIELDS, REQUEST_FIELDS, Field
from meterhouse.ingest.validate import canonical_labels, pair_digest, parse_json, text_fault

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
        # There is nothing to optimise in these queries, and planning is most of the cost of a small run.
        self._duckdb.execute("PRAGMA disable_optimizer")

    def close(self) -> None:
        self._duckdb.close()

    def read(self, events: Column) -> Columns:
        """Reads a string array of strict JSON, an event a row."""
        try:
            return Chunk(self, events, self.transform(events, _REQUEST_STRUCTURE)).read()
        except duckdb.InvalidInputException:
            # DuckDB's parser refuses a text that ours took: no such text is known, and none may stop a meter.
            valid = self._valid(events)
        events = pc.if_else(valid, events, "{}")
        columns = Chunk(self, events, self.transform(events, _REQUEST_STRUCTURE)).read()
        columns.good[~valid.to_numpy(zero_copy_only=False)] = False
        return columns

    def _valid(self, events: Column) -> Column:
        self._duckdb.register("event_text", pa.table({"event": events}))
        try:
            sql = "SELECT json_valid(event) FROM event_text"
            return _single(self._duckdb.sql(sql).to_arrow_table().column(0))
        finally:
            self._duckdb.unregister("event_text")

    def transform(self, events: Column, structure: dict[str, Any]) -> dict[str, Column]:
        """JSON → a column per name in `structure`, null where absent. Text as VARCHAR, raw JSON text as JSON."""
        # Structures are built from constants of this module, nothing of an event is in them.
        sql = f"SELECT json_transform(event, '{json.dumps(structure)}') FROM event_text"
        self._duckdb.register("event_text", pa.table({"event": events}))
        try:
            read = _single(self._duckdb.sql(sql).to_arrow_table().column(0))
        finally:
            self._duckdb.unregister("event_text")
        columns = dict(zip(structure, read.flatten(), strict=True))
        if "data" in columns:
            columns.update(zip(structure["data"], columns.pop("data").flatten(), strict=True))
        return columns

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


class Chunk:
    """One run of events on its way to columns. Every step takes rows that it is not sure of out of `_good`.

    `columns`: what was read of the events by name, here as JSON text; `arrow_columns.py` reads another form.
    """

    node_names: Final = tuple(field.name for field in _NODE_FIELDS)

    def __init__(self, reader: ColumnReader, events: Column, columns: dict[str, Column]) -> None:
        self._reader = reader
        self._events = events
        self._columns = columns
        self._good = np.ones(len(events), dtype=np.bool_)
        self._values: dict[str, Column] = {}
        # Columns that hold, as VARCHAR, what may have been a number or an object → the rows.
        self._doubtful: dict[str, Mask] = {}
        self._ids: Column = None

    def read(self) -> Columns:
        kinds = self._name("type", self._columns["type"], EVENT_TYPES.__contains__)
        requests = _equal(kinds, REQUEST_TYPE)
        nodes = _equal(kinds, INFERENCE_TYPE)
        time_us = self._envelope()
        counts = self._fields(requests, nodes)
        self._node_fields(nodes)
        self._tokens(counts)
        self._settle_doubts()
        self._key()
        return Columns(self._good, self._values, time_us)

    def _envelope(self) -> NDArray[np.int64]:
        self._version()
        for name in ("type", "source", "subject"):
            self._good &= present(self._columns[name])
        self._name("source", self._columns["source"], _is_name)
        self._values["tenant"] = self._name("subject", self._columns["subject"], _is_name)
        del self._values["subject"]
        self._good &= present(self._columns["id"])
        self._ids = self._text(self._columns["id"])
        time_us, sure = self._times(self._columns["time"])
        self._good &= sure
        self._values["time"] = pa.array(time_us).cast(TIME)
        return time_us

    def _version(self) -> None:
        self._good &= _equal(self._columns["specversion"].dictionary_encode(), '"1.0"')

    def _times(self, column: Column) -> tuple[NDArray[np.int64], Mask]:
        return times(column)

    def _fields(self, requests: Mask, nodes: Mask) -> dict[str, NDArray[np.int64]]:
        """The fields of `data`; returns the inclusive token counts."""
        mixed = bool(nodes.any())
        counts: dict[str, NDArray[np.int64]] = {}
        for field in REQUEST_FIELDS:
            column = self._columns[field.name]
            shared = _SHARED.get(field.name)
            if mixed and shared is None:
                column = only(requests, column)
            if field.required or (shared is not None and shared.required):
                required_of = nodes if not field.required else requests if shared is None else None
                absent = ~present(column)
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
        columns = self._node_columns(rows)
        for field in _NODE_FIELDS:
            column = columns[field.name]
            if field.required:
                self._good &= present(column) | ~nodes
            self._field(field, column, {})

    def _node_columns(self, rows: NDArray[np.int64]) -> dict[str, Column]:
        """The columns that only these rows have, null in all others."""
        columns = self._reader.transform(self._events.take(pa.array(rows)), _NODE_STRUCTURE)
        places = np.full(len(self._events), -1, dtype=np.int64)
        places[rows] = np.arange(len(rows))
        back = pa.array(places, mask=places < 0)
        return {name: column.take(back) for name, column in columns.items()}

    def _field(self, field: Field, column: Column, counts: dict[str, NDArray[np.int64]]) -> None:
        match field.kind:
            case "name":
                self._name(field.name, column, _is_name)
            case "status":
                self._name(field.name, column, STATUSES.__contains__)
            case "text":
                self._values[field.name] = self._text(column)
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
        columns = self._reader.transform(self._events.take(pa.array(rows)), structure)
        for name, doubtful in self._doubtful.items():
            quoted = pc.starts_with(columns[name], '"').fill_null(False).to_numpy(zero_copy_only=False)
            self._good[rows] &= quoted | ~doubtful[rows]

    def _text(self, column: Column) -> Column:
        self._good &= plain_text(column)
        return column if column.null_count == len(column) else pc.utf8_slice_codeunits(column, 1, -1)

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

    def _numbers(self, column: Column) -> Column:
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid:
            whole = pc.match_substring_regex(column, _WHOLE)
            self._good &= whole.fill_null(True).to_numpy(zero_copy_only=False)
            return pc.if_else(whole, column, pa.scalar(None, column.type)).cast(pa.int64())

    def _whole(self, column: Column, least: int, most: int) -> Column:
        """Counts → int64, null where absent; rows of another type or range are not good."""
        if column.null_count == len(column):
            return pa.nulls(len(column), pa.int64())
        numbers = self._numbers(column)
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
        self._values["key"] = self._reader.keys(pairs, self._ids)


def only(rows: Mask, column: Column) -> Column:
    """The column with nulls outside of `rows`."""
    if pa.types.is_dictionary(column.type):
        return pa.DictionaryArray.from_arrays(only(rows, column.indices), column.dictionary)
    return pc.if_else(pa.array(rows), column, pa.scalar(None, column.type))


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
