"""The forms a report has over HTTP, and which of them an `Accept` header asks for.

A report is JSON. Its lines are a table too: as CSV the very text of the command line, as Parquet and Arrow with types
that come from the shape (`schemas`) that the route declares. There is no table of columns per report.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from meterhouse.api import tables
from meterhouse.api.schemas.common import Column
from meterhouse.ingest.log import ARROW_STREAM

Json = Mapping[str, Any]


class Form(StrEnum):
    """A media type that a report is answered as; the first is what is sent to whoever does not say."""

    json = "application/json"
    csv = "text/csv"
    parquet = "application/vnd.apache.parquet"
    arrow = ARROW_STREAM

    @property
    def is_file(self) -> bool:
        """Whether it is what people save and pass on, rather than what programs read."""
        return self is not Form.json


_SUFFIX: Final = {Form.csv: "csv", Form.parquet: "parquet", Form.arrow: "arrows"}


def negotiated(accept: str | None, offered: Sequence[str]) -> str | None:
    """The media type that this `Accept` header likes best (RFC 9110, 12.5.1); of equals the first. None: none.

    Of several ranges that match a type the most specific one says how much it is liked. A range that does not parse
    counts for nothing.
    """
    if accept is None or not accept.strip():
        return offered[0]
    ranges = [found for text in accept.split(",") if (found := _range(text)) is not None]
    liked = {media: max((each.rank_of(media) for each in ranges), default=(0, 0.0))[1] for media in offered}
    best = max(offered, key=lambda media: liked[media])
    return best if liked[best] > 0 else None


@dataclass(frozen=True, slots=True)
class _Range:
    media: str
    quality: float  # 0 .. 1: how much it is liked, which is no money

    def rank_of(self, media: str) -> tuple[int, float]:
        """(how specific it is about this type, 0: not at all; how much it likes it)."""
        matching = (self.media == media, self.media == f"{media.split('/', maxsplit=1)[0]}/*", self.media == "*/*")
        return (3 - matching.index(True), self.quality) if any(matching) else (0, 0.0)


def _range(text: str) -> _Range | None:
    media, *parameters = (part.strip().lower() for part in text.split(";"))
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = float(value.strip())
            except ValueError:
                return None
    return _Range(media, quality) if 0 <= quality <= 1 else None


def file_name(name: str, form: Form) -> str:
    return f"{name}.{_SUFFIX[form]}"


def written(report: Json, shape: type[BaseModel], form: Form) -> bytes:
    """A report's lines in a file's form. `shape` is the report's model: of its members one is a list of models, whose
    items are the lines; the others become the schema's metadata (JSON texts) in Parquet and Arrow."""
    name, line = lines_of(shape)
    items: Sequence[Json] = report[name]
    if form is Form.csv:
        return tables.to_csv(items).encode()
    table = _arrow(items, line, report.get("group_by", ()))
    about = {key: json.dumps(value, ensure_ascii=False) for key, value in report.items() if key != name}
    table = table.replace_schema_metadata(about)
    sink = io.BytesIO()
    if form is Form.parquet:
        pq.write_table(table, sink, compression="zstd")
    else:
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    return sink.getvalue()


def _fields(shape: type[BaseModel]) -> dict[str, FieldInfo]:
    """By the names that JSON has."""
    return {field.alias or name: field for name, field in shape.model_fields.items()}


def lines_of(shape: type[BaseModel]) -> tuple[str, type[BaseModel]]:
    """The member of a report's model that holds its lines, and their model."""
    [found] = [
        (name, item)
        for name, field in _fields(shape).items()
        for item in get_args(field.annotation)
        if get_origin(field.annotation) is list and isinstance(item, type) and issubclass(item, BaseModel)
    ]
    return found


def _arrow(items: Sequence[Json], line: type[BaseModel], group_by: Sequence[str]) -> pa.Table:
    flat = [tables.flatten(item) for item in items]
    # Without lines the columns are those that each line must have: a program that reads them finds them all the same.
    names = tables.columns_of(flat) or [*group_by, *_required(line)]
    kinds = [_kind(line, name) for name in names]
    arrays = [
        pa.array([_value(item.get(name), kind) for item in flat], kind) for name, kind in zip(names, kinds, strict=True)
    ]
    return pa.table(dict(zip(names, arrays, strict=True)))


def _required(line: type[BaseModel]) -> list[str]:
    names = []
    for name, field in _fields(line).items():
        annotation = _plain(field.annotation)[0]
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            names += [f"{name}.{part}" for part in _fields(annotation)]
        elif field.is_required() and get_origin(annotation) is not dict:
            names.append(name)
    return names


MONEY: Final = pa.decimal128(38, 12)
TIME: Final = pa.timestamp("us", tz="UTC")
_OF_COLUMN: Final[Mapping[Column, pa.DataType]] = {Column.amount: MONEY, Column.day: pa.date32(), Column.time: TIME}
_OF_TYPE: Final[Mapping[Any, pa.DataType]] = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    datetime: TIME,
    date: pa.date32(),
}


def _kind(line: type[BaseModel], column: str) -> pa.DataType:
    """The Arrow type of a dotted column of this model."""
    name, _, rest = column.partition(".")
    field = _fields(line)[name]
    annotation, marks = _plain(field.annotation)
    if rest and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _kind(annotation, rest)
    if get_origin(annotation) is dict:
        annotation, marks = _plain(get_args(annotation)[1])
    for mark in (*field.metadata, *marks):
        if isinstance(mark, Column):
            return _OF_COLUMN[mark]
    return _OF_TYPE.get(annotation, pa.string())


def _plain(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type without `None` and `Annotated`, and what it was annotated with."""
    if get_origin(annotation) is Annotated:
        inner, *marks = get_args(annotation)
        plain, more = _plain(inner)
        return plain, (*marks, *more)
    if get_origin(annotation) in (Union, UnionType):
        [one] = [each for each in get_args(annotation) if each is not type(None)]
        return _plain(one)
    return (str if get_origin(annotation) is Literal else annotation), ()


def _value(value: Any, kind: pa.DataType) -> Any:
    """A value of JSON as Arrow takes it."""
    if value is None or not isinstance(value, str):
        return value
    if kind == MONEY:
        return Decimal(value)
    if kind == TIME:
        return datetime.fromisoformat(value)
    return date.fromisoformat(value) if kind == pa.date32() else value
