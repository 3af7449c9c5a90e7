"""Money: whole pico-units (1e-12 of the currency) inside, Decimal and text with twelve decimals at the edges.

A cost of one event fits int64. A sum does not, so sums are 128-bit integers: in Arrow a `MONEY` column, in numpy two
columns, the *limbs* `high` (int64) and `low` (uint64) with value = high * 2^64 + low. No float holds money anywhere;
where `bincount` adds in float64, the addends are split so small that every partial sum is an exact integer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from meterhouse.streams.ledger import MONEY

Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Limbs = tuple[Ints, Words]

DECIMALS: Final = 12
PICO: Final = 10**DECIMALS
PICO_PER_MICRO: Final = 10**6
MAX_PRICE_PER_MILLION: Final = 1_000_000
"""One unit of currency per token: ten thousand times the dearest price known; more is a slip of the decimal point."""
EXACT_FLOAT: Final = 2**53
"""Integers up to here are exact in float64."""

_PRICE: Final = re.compile(r"(\d{1,18})(?:\.(\d+))?", re.ASCII)
_AMOUNT: Final = re.compile(r"(-?)(\d{1,26})(?:\.(\d{1,12}))?", re.ASCII)
_HALF_MASK: Final = np.uint64(0xFFFFFFFF)
_32: Final = np.uint64(32)


def price_per_million(text: str) -> int:
    """A price per million tokens as text → pico-units per token, exactly: price * 1e12 / 1e6.

    Raises ValueError that says what to write instead: on more than six decimals, a negative or too large price, or
    text that is not a plain decimal number.
    """
    stripped = text.strip()
    if stripped.startswith("-"):
        raise ValueError(f"price {text!r} is negative: a price is 0 or more; a refund is a correction, not a price")
    match = _PRICE.fullmatch(stripped)
    if match is None:
        raise ValueError(f'price {text!r} is not a plain decimal number: write the price per million as "2.50"')
    whole, fraction = match[1], (match[2] or "").rstrip("0")
    if len(fraction) > 6:
        raise ValueError(
            f"price {text!r} has more than six decimals: a token's price must be a whole number of pico-units, "
            f"so a price per million ends at 0.000001; round it to {whole}.{fraction[:6]} or the next step up"
        )
    pico = int(whole) * PICO_PER_MICRO + int(fraction.ljust(6, "0"))
    if pico > MAX_PRICE_PER_MILLION * PICO_PER_MICRO:
        raise ValueError(
            f"price {text!r} is over {MAX_PRICE_PER_MILLION} per million tokens: check the decimal point "
            "and that the price is per million, not per billion"
        )
    return pico


def price_text(pico_per_token: int) -> str:
    """The inverse of `price_per_million`: at least two decimals, at most six."""
    whole, fraction = divmod(pico_per_token, PICO_PER_MICRO)
    return f"{whole}.{f'{fraction:06d}'.rstrip('0'):0<2}"


def to_text(pico: int) -> str:
    """Twelve decimals, always: 123450000 → '0.000123450000'."""
    whole, fraction = divmod(abs(pico), PICO)
    return f"{'-' if pico < 0 else ''}{whole}.{fraction:012d}"


def from_text(text: str) -> int:
    """An amount of at most twelve decimals → pico-units. Raises ValueError where it would have to round."""
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f'amount {text!r} is not a decimal number with at most twelve decimals: write it as "250.00"')
    pico = int(match[2]) * PICO + int((match[3] or "").ljust(DECIMALS, "0"))
    return -pico if match[1] else pico


def to_decimal(pico: int) -> Decimal:
    """Exact, with exponent -12, whatever the decimal context's precision."""
    return Decimal(to_text(pico))


def to_pico(amount: Decimal) -> int:
    """Exact; ValueError on an amount that is not a whole number of pico-units."""
    if not amount.is_finite() or amount.adjusted() > 25:
        raise ValueError(f"amount {amount} is not a sum of money: at most 26 digits before the point")
    if amount.adjusted() < -DECIMALS and amount:
        raise ValueError(f"amount {amount} is less than a pico-unit (1e-12): round it first")
    numerator, denominator = amount.as_integer_ratio()
    pico, rest = divmod(numerator * PICO, denominator)
    if rest:
        raise ValueError(f"amount {amount} has more than twelve decimals: round it to whole pico-units (1e-12) first")
    return pico


def rounded_lines(lines_pico: Sequence[int], decimals: int = 2) -> tuple[list[Decimal], Decimal]:
    """Lines and total as a statement shows them: (shown lines, shown total), with sum(shown lines) == shown total.

    The total is the exact sum rounded half-even; each line is rounded down, then the steps still missing go to the
    lines with the largest remainders, earlier lines first among equals (Hamilton's method). Each shown line is less
    than one step from its exact value. `decimals`: 0 to 12.
    """
    if not 0 <= decimals <= DECIMALS:
        raise ValueError(f"decimals must be 0 to {DECIMALS}, not {decimals}")
    step = 10 ** (DECIMALS - decimals)
    total = round_half_even(sum(lines_pico), step)
    floors = [pico // step for pico in lines_pico]
    missing = total - sum(floors)
    by_remainder = sorted(range(len(lines_pico)), key=lambda i: -(lines_pico[i] % step))
    for i in by_remainder[:missing]:
        floors[i] += 1
    return [_steps(n, decimals) for n in floors], _steps(total, decimals)


def round_half_even(pico: int, step: int) -> int:
    """`pico / step` rounded to an integer, a half to the even neighbour."""
    quotient, rest = divmod(pico, step)
    up = 2 * rest > step or (2 * rest == step and quotient % 2 == 1)
    return quotient + up


def _steps(count: int, decimals: int) -> Decimal:
    digits = tuple(map(int, str(abs(count))))
    return Decimal((int(count < 0), digits, -decimals))


def money_array(limbs: Limbs) -> pa.Array[Any]:
    """Limbs (n,) of pico-units → a MONEY array without nulls. The caller vouches for |value| < 10^38."""
    high, low = limbs
    pairs = np.empty((len(high), 2), dtype="<u8")
    pairs[:, 0] = low
    pairs[:, 1] = high.view(np.uint64)
    buffer = pa.py_buffer(pairs)  # type: ignore[arg-type]  # any object with a buffer will do
    return pa.Array.from_buffers(MONEY, len(pairs), [None, buffer])


def limbs_of(column: pa.Array[Any] | pa.ChunkedArray[Any]) -> Limbs:
    """The inverse of `money_array`. The column must be MONEY without nulls."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    if column.type != MONEY or column.null_count:
        raise ValueError(f"a MONEY column without nulls is needed, not {column.type} with {column.null_count} nulls")
    parts = [_pairs(chunk) for chunk in chunks] or [np.empty((0, 2), dtype="<u8")]
    pairs = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return pairs[:, 1].astype(np.uint64).view(np.int64), pairs[:, 0].astype(np.uint64)


def _pairs(chunk: pa.Array[Any]) -> Words:
    data = chunk.buffers()[1]
    if data is None or not len(chunk):
        return np.empty((0, 2), dtype="<u8")
    words: Words = np.frombuffer(data, dtype="<u8")  # type: ignore[call-overload]  # any buffer
    return words[2 * chunk.offset : 2 * (chunk.offset + len(chunk))].reshape(-1, 2)


def pico_sum(column: pa.Array[Any] | pa.ChunkedArray[Any]) -> int:
    """The exact sum of a MONEY column, in pico-units."""
    high, low = limbs_of(column)
    return (int(high.sum()) << 64) + (int((low >> _32).sum()) << 32) + int((low & _HALF_MASK).sum())


def group_sums(group: npt.NDArray[np.integer[Any]], groups: int, values: Ints) -> Limbs:
    """Exact sums of int64 `values` >= 0 by group number (0 <= group < groups), as limbs (groups,).

    Up to 2^21 rows, so that sums of 32-bit halves stay exact in bincount's float64.
    """
    if len(values) > EXACT_FLOAT >> 32:
        raise ValueError(f"{len(values)} rows in one sum: cut the batch to at most {EXACT_FLOAT >> 32}")
    if not len(values) or int(values.max()) * len(values) < EXACT_FLOAT:
        low = np.bincount(group, weights=values, minlength=groups).astype(np.uint64)
        return np.zeros(groups, dtype=np.int64), low
    top = np.bincount(group, weights=values >> 32, minlength=groups).astype(np.uint64)
    bottom = np.bincount(group, weights=values & 0xFFFFFFFF, minlength=groups).astype(np.uint64)
    return _carried(np.zeros(groups, dtype=np.uint64), top, bottom)


def group_sums_of_limbs(group: npt.NDArray[np.integer[Any]], groups: int, limbs: Limbs) -> Limbs:
    """As `group_sums`, of values that are limbs, themselves >= 0."""
    high, low = limbs
    top_high, top = group_sums(group, groups, high)
    if top_high.any():
        raise OverflowError("a sum of money is over 10^38: no ledger of one currency holds that")
    if not int(low.max(initial=np.uint64(0))) * max(len(low), 1) < EXACT_FLOAT:
        middle_high, middle = group_sums(group, groups, (low >> _32).astype(np.int64))
        _, bottom = group_sums(group, groups, (low & _HALF_MASK).astype(np.int64))
        assert not middle_high.any()  # halves of at most 2^21 rows
        return _carried(top, middle, bottom)
    return top.view(np.int64), group_sums(group, groups, low.astype(np.int64))[1]


def _carried(high: Words, middle: Words, low: Words) -> Limbs:
    """high * 2^64 + middle * 2^32 + low, each below 2^63, as limbs."""
    shifted = middle << _32
    bottom = shifted + low
    top = high + (middle >> _32) + (bottom < shifted).astype(np.uint64)
    return top.view(np.int64), bottom
