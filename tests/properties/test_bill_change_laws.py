"""Laws of the explanation of a bill's change: parts add up exactly, and one cause alone is one part alone."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from meterhouse.streams.bill_change import PARTS, ModelChange, ModelKey, ModelUse, explained
from tests.oracle.bill_change import parts as oracle_parts

KINDS = ("input", "cache_read", "cache_write", "output", "reasoning")
KEYS = [("atlas", "large"), ("atlas", "small"), ("borea", "swift")]
COUNTS = st.one_of(st.just(0), st.integers(1, 20), st.integers(0, 10**9))
TOKENS = st.fixed_dictionaries(dict.fromkeys(KINDS, COUNTS))
PRICES = st.fixed_dictionaries(dict.fromkeys(KINDS, st.integers(0, 10**7)))
Bill = Mapping[ModelKey, ModelUse]
Tokens = Mapping[ModelKey, Mapping[str, int]]
Prices = Mapping[ModelKey, Mapping[str, int]]


def bill(tokens: Tokens, prices: Prices) -> dict[ModelKey, ModelUse]:
    return {key: ModelUse(of, {k: n * prices[key][k] for k, n in of.items()}) for key, of in tokens.items()}


def cost(of: Bill) -> int:
    return sum(use.all_pico for use in of.values())


def total(changes: list[ModelChange]) -> dict[str, int]:
    return {name: sum(change.parts[name] for change in changes) for name in PARTS}


def only(name: str, pico: int) -> dict[str, int]:
    return {**dict.fromkeys(PARTS, 0), name: pico}


MODELS = st.dictionaries(st.sampled_from(KEYS), TOKENS)
EVERY_PRICE = st.fixed_dictionaries(dict.fromkeys(KEYS, PRICES))
BILLS = st.builds(bill, MODELS, EVERY_PRICE)


@given(BILLS, BILLS)
def test_parts_add_up_to_the_difference_in_each_model_and_all_together(before: Bill, now: Bill) -> None:
    changes = explained(before, now)
    for change in changes:
        assert sum(change.parts.values()) == change.now_pico - change.before_pico
    assert sum(total(changes).values()) == cost(now) - cost(before)


@given(BILLS, BILLS)
def test_parts_are_those_of_the_oracle_to_less_than_a_pico_unit_a_model(before: Bill, now: Bill) -> None:
    def plain(of: Bill) -> dict[ModelKey, dict[str, tuple[int, int]]]:
        return {key: {k: (n, use.pico[k]) for k, n in use.tokens.items() if n} for key, use in of.items()}

    expected = oracle_parts(plain(before), plain(now))
    changes = explained(before, now)
    for name, pico in total(changes).items():
        assert abs(pico - expected[name]) < max(1, len(changes))


@given(BILLS, BILLS)
def test_exchanged_periods_exchange_new_and_gone_and_the_sign_of_each_difference(before: Bill, now: Bill) -> None:
    there, back = explained(before, now), explained(now, before)
    assert [(c.model, c.before_pico, c.now_pico) for c in there] == [(c.model, c.now_pico, c.before_pico) for c in back]
    assert total(there)["new_models"] == -total(back)["gone_models"]
    assert total(there)["gone_models"] == -total(back)["new_models"]


@given(BILLS)
def test_nothing_changed_is_no_part_at_all(same: Bill) -> None:
    assert total(explained(same, same)) == dict.fromkeys(PARTS, 0)


@given(MODELS, EVERY_PRICE, EVERY_PRICE)
def test_new_prices_alone_are_all_price(tokens: Tokens, old: Prices, new: Prices) -> None:
    before, now = bill(tokens, old), bill(tokens, new)
    assert total(explained(before, now)) == only("price", cost(now) - cost(before))


@given(MODELS, EVERY_PRICE, st.integers(1, 9), st.integers(1, 9))
def test_more_or_less_of_the_same_alone_is_all_volume(tokens: Tokens, prices: Prices, old: int, new: int) -> None:
    def times(factor: int) -> Bill:
        return bill({key: {k: n * factor for k, n in of.items()} for key, of in tokens.items()}, prices)

    assert total(explained(times(old), times(new))) == only("volume", cost(times(new)) - cost(times(old)))


@given(TOKENS, TOKENS, EVERY_PRICE, st.integers(1, 99), st.integers(1, 99))
def test_tokens_that_move_to_another_model_alone_are_all_model_mix(
    one: Mapping[str, int], other: Mapping[str, int], prices: Prices, old: int, new: int
) -> None:
    # Both models' tokens come in lots of the same size; only how many lots are of which model changes.
    size_one, size_other = sum(one.values()), sum(other.values())

    def mixed(lots: int) -> Bill:
        tokens = {
            KEYS[0]: {k: n * lots * size_other for k, n in one.items()},
            KEYS[1]: {k: n * (100 - lots) * size_one for k, n in other.items()},
        }
        return bill(tokens, prices)

    before, now = mixed(old), mixed(new)
    assert total(explained(before, now)) == only("model_mix", cost(now) - cost(before))


@given(EVERY_PRICE, TOKENS, st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_input_that_comes_from_the_cache_instead_alone_is_all_cache_share(
    prices: Prices, rest: Mapping[str, int], old_read: int, new_read: int, old_write: int, new_write: int
) -> None:
    def cached(read: int, write: int) -> Bill:
        tokens = {**rest, "input": 100 - read - write, "cache_read": read, "cache_write": write}
        return bill({KEYS[0]: tokens, KEYS[1]: rest}, prices)

    before, now = cached(old_read, old_write), cached(new_read, new_write)
    assert total(explained(before, now)) == only("cache_share", cost(now) - cost(before))


@given(EVERY_PRICE, st.integers(1, 99), st.integers(1, 99))
def test_longer_answers_to_shorter_questions_alone_are_all_output_share(prices: Prices, old: int, new: int) -> None:
    def answered(output: int) -> Bill:
        kinds = {"input": 2 * (100 - output), "cache_read": 3 * (100 - output), "cache_write": 0}
        return bill({KEYS[0]: {**kinds, "output": 5 * output, "reasoning": 0}}, prices)

    before, now = answered(old), answered(new)
    assert total(explained(before, now)) == only("output_share", cost(now) - cost(before))


def test_a_worked_example_in_whole_numbers() -> None:
    # 100 input tokens at 2, 100 output at 10: 1200. Then twice as many, a tenth of the input cached at 1, output at 12.
    before = bill({KEYS[0]: {"input": 100, "output": 100}}, {KEYS[0]: {"input": 2, "output": 10}})
    now = bill(
        {KEYS[0]: {"input": 180, "cache_read": 20, "output": 200}, KEYS[2]: {"output": 3}},
        {KEYS[0]: {"input": 2, "cache_read": 1, "output": 12}, KEYS[2]: {"output": 7}},
    )
    expected = {**dict.fromkeys(PARTS, 0), "volume": 1200, "cache_share": -20, "price": 400, "new_models": 21}
    assert total(explained(before, now)) == expected
    assert Fraction(sum(expected.values())) == cost(now) - cost(before)
