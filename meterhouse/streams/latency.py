"""Latency histogram: buckets of microseconds whose representative is at most 1 % from every value in them.

All integers, so that every reader of a bucket agrees. Bucket k holds the whole microseconds from `LOWER_US[k]` to
`UPPER_US[k]`, both included; bucket 0 holds 0 alone, and below 100 us each value has its own. From a lower bound l the
representative is m = floor(1.01 l) and the upper bound floor(m / 0.99), the largest value of which m is still within
1 %: the same guarantee as DDSketch with alpha = 0.01 (gamma = 1.01/0.99; Masson et al., VLDB 2019, section 2.2),
without a logarithm whose last digit differs between machines. Histograms are added up; percentiles never are.
"""

from __future__ import annotations

from bisect import bisect_left
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from meterhouse.ingest.event import MAX_COUNT

_CELL_BITS: Final = 7
"""Of the mantissa: a cell is at most 0.8 % wide, so it holds at most one bound of a bucket."""
_CELL_SHIFT: Final = 52 - _CELL_BITS


def _tables() -> tuple[tuple[int, ...], tuple[int, ...]]:
    upper, value = [0], [0]
    while upper[-1] < MAX_COUNT:
        lower = upper[-1] + 1
        middle = lower * 101 // 100
        value.append(middle)
        upper.append(middle * 100 // 99)
    return tuple(upper), tuple(value)


UPPER_US, VALUE_US = _tables()
"""Per bucket: the largest value in it, and its representative. The last ends above 2^40, the largest duration."""
LOWER_US: Final = (0, *(upper + 1 for upper in UPPER_US[:-1]))
BUCKETS: Final = len(UPPER_US)

_UPPER: Final = np.array(UPPER_US, dtype=np.int64)
_VALUE: Final = np.array(VALUE_US, dtype=np.int64)


def _cell(us: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Exponent and first mantissa bits of the value as float64 (exact below 2^53): ascending with the value."""
    return us.astype(np.float64).view(np.int64) >> _CELL_SHIFT


def _first_bucket_of_cells() -> tuple[int, npt.NDArray[np.int32]]:
    """Number of the cell of 1 us, and from there on the bucket of each cell's smallest value."""
    first, last = (int(cell) for cell in _cell(np.array([1, UPPER_US[-1]])))
    cells = np.arange(first, last + 1, dtype=np.int64)
    smallest = np.ceil((cells << _CELL_SHIFT).view(np.float64)).astype(np.int64)
    return first, np.searchsorted(_UPPER, smallest).astype(np.int32)


_FIRST_CELL, _FIRST_BUCKET = _first_bucket_of_cells()


def buckets(us: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Durations (n,) of 0 .. 2^40 microseconds → bucket numbers (n,). ValueError outside that range."""
    if not len(us):
        return np.empty(0, dtype=np.int32)
    if int(us.min()) < 0 or int(us.max()) > UPPER_US[-1]:
        raise ValueError(f"durations must be 0 to {MAX_COUNT} us, not {us.min()} to {us.max()}")
    # The cell's first bucket, or the next one: a table and a comparison instead of eleven steps of binary search.
    bucket = _FIRST_BUCKET[np.maximum(_cell(us) - _FIRST_CELL, 0)]
    bucket += us > _UPPER[bucket]
    bucket[us == 0] = 0
    return bucket


def bucket_of(us: int) -> int:
    """The scalar twin of `buckets`."""
    if not 0 <= us <= UPPER_US[-1]:
        raise ValueError(f"a duration must be 0 to {MAX_COUNT} us, not {us}")
    return bisect_left(UPPER_US, us)


def value(bucket: int) -> int:
    """The bucket's representative in microseconds: within 1 % of every value in the bucket."""
    return VALUE_US[bucket]


def values(bucket_numbers: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """Vectorised `value`."""
    representatives: npt.NDArray[np.int64] = _VALUE[bucket_numbers]
    return representatives


def quantile(
    bucket_numbers: npt.NDArray[np.integer[Any]], counts: npt.NDArray[np.int64], q: float | Decimal | Fraction
) -> int | None:
    """The nearest-rank quantile of a histogram, in microseconds; None when it is empty.

    `bucket_numbers` and `counts` (n,) in any order, a bucket may repeat; 0 < q <= 1, taken as it is written (0.99 is
    99/100). Differs by at most 1 % from the value of rank ceil(q * total), counted from 1, among the values themselves.
    """
    share = Fraction(str(q))
    if not 0 < share <= 1:
        raise ValueError(f"a quantile is over 0 and at most 1, not {q}: the median is 0.5")
    total = int(counts.sum())
    if not total:
        return None
    rank = -(-share.numerator * total // share.denominator)
    order = np.argsort(bucket_numbers, kind="stable")
    place = np.searchsorted(np.cumsum(counts[order]), rank)
    return VALUE_US[int(bucket_numbers[order[place]])]
