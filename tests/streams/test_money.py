from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np
import pyarrow as pa
import pytest

from meterhouse.streams import money
from meterhouse.streams.ledger import MONEY


@pytest.mark.parametrize(
    ("text", "pico_per_token"),
    [
        ("2.50", 2_500_000),
        ("0", 0),
        ("0.000001", 1),
        ("10", 10_000_000),
        ("3.1250000000", 3_125_000),
        (" 1000000 ", 1_000_000_000_000),
    ],
)
def test_a_price_per_million_is_a_whole_number_of_pico_units_per_token(text: str, pico_per_token: int) -> None:
    assert money.price_per_million(text) == pico_per_token


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0.0000001", "more than six decimals.*round it to 0.000000"),
        ("-1", "negative.*a refund is a correction"),
        ("1000000.000001", "over 1000000 per million.*check the decimal point"),
        ("1e3", 'plain decimal number: write the price per million as "2.50"'),
        ("", "plain decimal number"),
        ("NaN", "plain decimal number"),
        ("1_000", "plain decimal number"),
        (".5", "plain decimal number"),
        ("٣", "plain decimal number"),
    ],
)
def test_a_price_that_cannot_be_exact_is_refused_and_says_what_to_write(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        money.price_per_million(text)


@pytest.mark.parametrize(
    ("pico", "text"),
    [
        (0, "0.000000000000"),
        (123_450_000, "0.000123450000"),
        (-1, "-0.000000000001"),
        (10**38 - 1, "99999999999999999999999999.999999999999"),
    ],
)
def test_an_amount_is_shown_with_twelve_decimals(pico: int, text: str) -> None:
    assert money.to_text(pico) == text
    assert money.from_text(text) == pico


def test_a_price_is_shown_with_at_least_two_decimals() -> None:
    assert [money.price_text(pico) for pico in (0, 2_500_000, 3_125_000, 1)] == ["0.00", "2.50", "3.125", "0.000001"]


@pytest.mark.parametrize("text", ["0.0000000000001", "1e3", "", "1,5", "NaN", "--1"])
def test_an_amount_that_would_have_to_be_rounded_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="at most twelve decimals"):
        money.from_text(text)


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "1E+26", "1E-13", "1.0000000000001", "1E-999999"])
def test_a_decimal_that_is_no_whole_number_of_pico_units_is_refused(amount: str) -> None:
    with pytest.raises(ValueError):
        money.to_pico(Decimal(amount))


def test_decimals_are_exact_whatever_the_context_says() -> None:
    with localcontext() as context:
        context.prec = 3
        assert str(money.to_decimal(-123_456_789_012_345_678)) == "-123456.789012345678"
        assert money.to_pico(Decimal("-123456.789012345678")) == -123_456_789_012_345_678


def test_a_statements_lines_add_up_to_its_total() -> None:
    third = 10**12 // 3
    lines, total = money.rounded_lines([third, third, third + 1])
    assert (list(map(str, lines)), str(total)) == (["0.33", "0.33", "0.34"], "1.00")


def test_a_statements_total_is_rounded_half_even() -> None:
    half_cent = 5 * 10**9
    assert [str(money.rounded_lines([n * half_cent])[1]) for n in (1, 3, 5, -1)] == ["0.00", "0.02", "0.02", "0.00"]


def test_an_empty_statement_is_zero() -> None:
    assert money.rounded_lines([]) == ([], Decimal("0.00"))


def test_a_money_column_reads_as_the_decimals_it_was_built_from() -> None:
    picos = [0, 1, 2**64 - 1, 2**64, 10**38 - 1, -1, -(10**38) + 1]
    high = np.array([pico >> 64 for pico in picos], dtype=np.int64)
    low = np.array([pico & (2**64 - 1) for pico in picos], dtype=np.uint64)
    column = money.money_array((high, low))
    assert column.type == MONEY
    assert column.to_pylist() == [money.to_decimal(pico) for pico in picos]
    chunked = pa.chunked_array([column[1:3], column[3:3], column[4:]])
    assert [limb.tolist() for limb in money.limbs_of(chunked)] == [
        high[[1, 2, 4, 5, 6]].tolist(),
        low[[1, 2, 4, 5, 6]].tolist(),
    ]
    assert money.pico_sum(column) == sum(picos)


def test_only_money_without_nulls_has_limbs() -> None:
    with pytest.raises(ValueError, match="MONEY column without nulls"):
        money.limbs_of(pa.array([Decimal(1), None], MONEY))
    with pytest.raises(ValueError, match="MONEY column"):
        money.limbs_of(pa.array([1.5]))


@pytest.mark.parametrize(
    "values",
    [
        [2**53 - 1] * 3,  # float64 would round 3 * 2^53 - 3
        [2**63 - 1, 2**63 - 1, 2**33 - 1],  # the halves carry into bit 64
        [2**63 - 1] * 5,
    ],
)
def test_sums_are_exact_where_floats_and_words_end(values: list[int]) -> None:
    limbs = money.group_sums(np.zeros(len(values), dtype=np.int32), 1, np.array(values))
    assert money.money_array(limbs).to_pylist() == [money.to_decimal(sum(values))]
    twice = money.group_sums_of_limbs(np.zeros(1, dtype=np.int32), 1, limbs)
    assert [limb.tolist() for limb in twice] == [limb.tolist() for limb in limbs]


def test_a_batch_too_long_for_exact_sums_is_refused() -> None:
    rows = 2**21 + 1
    with pytest.raises(ValueError, match="cut the batch"):
        money.group_sums(np.zeros(rows, dtype=np.int8), 1, np.ones(rows, dtype=np.int64))
