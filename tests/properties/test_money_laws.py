from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from meterhouse.streams import money

AMOUNTS = st.integers(-(10**38) + 1, 10**38 - 1)
WIDE = Context(prec=60, rounding=ROUND_HALF_EVEN)


@given(pico=AMOUNTS)
def test_an_amount_survives_text_and_decimal(pico: int) -> None:
    assert money.from_text(money.to_text(pico)) == pico
    assert money.to_pico(money.to_decimal(pico)) == pico
    assert money.to_decimal(pico) == WIDE.divide(Decimal(pico), Decimal(10**12))


@given(
    lines=st.lists(st.integers(-(10**20), 10**20) | st.integers(-3, 3).map(lambda n: n * 5 * 10**9), max_size=30),
    decimals=st.integers(0, 12),
)
def test_shown_lines_add_up_to_the_shown_total_and_none_is_a_step_off(lines: list[int], decimals: int) -> None:
    shown, total = money.rounded_lines(lines, decimals)
    step = Decimal(1).scaleb(-decimals)
    assert sum(shown, Decimal(0)) == total
    assert total == WIDE.quantize(money.to_decimal(sum(lines)), step)
    for line, pico in zip(shown, lines, strict=True):
        assert line.as_tuple().exponent == -decimals
        assert abs(line - money.to_decimal(pico)) < step
        assert line == money.to_decimal(pico) or pico % (10 ** (12 - decimals))


ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2**63 - 1) | st.integers(0, 100)), max_size=40)


@settings(deadline=None)
@given(rows=ROWS)
def test_group_sums_are_exact(rows: list[tuple[int, int]]) -> None:
    group = np.array([g for g, _ in rows], dtype=np.int32)
    values = np.array([v for _, v in rows], dtype=np.int64)
    limbs = money.group_sums(group, 4, values)
    exact = [sum(v for g, v in rows if g == n) for n in range(4)]
    assert money.money_array(limbs).to_pylist() == [money.to_decimal(pico) for pico in exact]
    assert money.pico_sum(money.money_array(limbs)) == sum(exact)


@settings(deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 10**36) | st.integers(0, 2**64)), max_size=40))
def test_group_sums_of_sums_are_exact(rows: list[tuple[int, int]]) -> None:
    group = np.array([g for g, _ in rows], dtype=np.int32)
    high = np.array([v >> 64 for _, v in rows], dtype=np.int64)
    low = np.array([v & (2**64 - 1) for _, v in rows], dtype=np.uint64)
    exact = [sum(v for g, v in rows if g == n) for n in range(4)]
    got = money.money_array(money.group_sums_of_limbs(group, 4, (high, low)))
    assert got.to_pylist() == [money.to_decimal(pico) for pico in exact]
