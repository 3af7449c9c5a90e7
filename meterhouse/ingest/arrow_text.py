"""Checks of many texts at a time, on the bytes of an Arrow string array."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from meterhouse.ingest.event import MAX_TEXT

Mask = NDArray[np.bool_]
pc: Final[Any] = pyarrow.compute
"""Without types: the stubs know few of the kernels."""
Column = Any
"""An Arrow array. The stubs do not know what its kernels return (an array for an array)."""

_DAY: Final = "((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
_SURE_TIME: Final = (
    "^(1[7-9]|2[01])[0-9]{2}-" + _DAY + r"T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?"
    r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)


def present(column: Column) -> Mask:
    """Where a column is not null."""
    if column.null_count == 0:
        return np.ones(len(column), dtype=np.bool_)
    present: Mask = column.is_valid().to_numpy(zero_copy_only=False)
    return present


def text_buffers(column: Column) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """(offsets into the bytes, one more than there are rows; the bytes) of a string array."""
    _, offsets, data = column.buffers()
    starts = np.frombuffer(offsets, dtype=np.int32)[column.offset : column.offset + len(column) + 1]
    text = np.frombuffer(data, dtype=np.uint8) if data is not None else np.zeros(0, dtype=np.uint8)
    return starts, text


def plain_text(column: Column) -> Mask:
    """Of JSON texts: absent, or a string of 1 to MAX_TEXT bytes without escapes or control characters."""
    if column.null_count == len(column):
        return np.ones(len(column), dtype=np.bool_)
    offsets, text = text_buffers(column)
    text = text[: offsets[-1]]
    length = np.diff(offsets)
    first = text[np.minimum(offsets[:-1], max(len(text) - 1, 0))]
    plain = (first == ord('"')) & (length >= 3) & (length <= MAX_TEXT + 2)
    # Escaped control characters have a backslash; DEL is the one that JSON leaves bare.
    odd = (text == ord("\\")) | (text == 0x7F)
    if odd.any():
        plain[np.searchsorted(offsets, np.flatnonzero(odd), side="right") - 1] = False
    if column.null_count:
        plain |= ~present(column)
    result: Mask = plain
    return result


def bare_text(column: Column) -> Mask:
    """Of texts: absent, or 1 to MAX_TEXT bytes without control characters."""
    if column.null_count == len(column):
        return np.ones(len(column), dtype=np.bool_)
    offsets, text = text_buffers(column)
    first, last = int(offsets[0]), int(offsets[-1])
    length = np.diff(offsets)
    bare = (length >= 1) & (length <= MAX_TEXT)
    odd = (text[first:last] < 0x20) | (text[first:last] == 0x7F)
    if odd.any():
        bare[np.searchsorted(offsets, np.flatnonzero(odd) + first, side="right") - 1] = False
    if column.null_count:
        bare |= ~present(column)
    result: Mask = bare
    return result


def times(column: Column) -> tuple[NDArray[np.int64], Mask]:
    """RFC 3339 texts → (microseconds since 1970 UTC, floored; where that is sure)."""
    sure = _time_shape(column)
    texts = column if sure.all() else pc.if_else(pa.array(sure), column, pa.scalar(None, column.type))
    nanoseconds = pa.timestamp("ns", "UTC")
    try:
        moments = texts.cast(nanoseconds)
    except pa.ArrowInvalid:
        in_range = pc.match_substring_regex(texts, _SURE_TIME).fill_null(False)
        sure &= in_range.to_numpy(zero_copy_only=False)
        moments = pc.if_else(in_range, texts, pa.scalar(None, texts.type)).cast(nanoseconds)
    return moments.cast(pa.int64()).fill_null(0).to_numpy() // 1_000, sure


def _time_shape(column: Column) -> Mask:
    """Whether a text has RFC 3339's separators where they must be; Arrow's reader also takes other ISO 8601 forms."""
    offsets, text = text_buffers(column)
    length = np.diff(offsets)
    sure = present(column) & (length >= 20) & (length <= 35)
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
