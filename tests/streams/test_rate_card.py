from __future__ import annotations

import pytest

from meterhouse.streams.control import RateCard, Snapshot
from meterhouse.streams.rate_card import NO_CARD, compile_rates, in_force


def card(id_: int, valid_from_us: int, valid_to_us: int | None = None, tenant: str | None = None) -> RateCard:
    return RateCard(id_, "atlas", "large", tenant, valid_from_us, valid_to_us, {"input": id_})


def at(cards: list[RateCard], tenant: str, time_us: int) -> int | None:
    found = in_force(cards, "atlas", "large", tenant, time_us)
    return found and found.id


def test_a_card_is_in_force_from_its_first_instant_to_before_its_last() -> None:
    cards = [card(1, 10, 20)]
    assert [at(cards, "acme", t) for t in (9, 10, 19, 20)] == [None, 1, 1, None]


def test_a_card_without_an_end_is_ended_by_the_next() -> None:
    cards = [card(1, 10), card(2, 20)]
    assert [at(cards, "acme", t) for t in (19, 20)] == [1, 2]


def test_a_card_shadowed_by_a_shorter_one_comes_back_when_that_ends() -> None:
    cards = [card(1, 10), card(2, 20, 30)]
    assert [at(cards, "acme", t) for t in (19, 20, 30)] == [1, 2, 1]


def test_a_negotiated_price_wins_only_for_its_tenant_and_only_while_in_force() -> None:
    cards = [card(1, 10), card(2, 20, 30, tenant="acme"), card(3, 25)]
    assert [at(cards, "acme", t) for t in (19, 20, 29, 30)] == [1, 2, 2, 3]
    assert at(cards, "globex", 20) == 1


def test_another_provider_or_model_has_no_card() -> None:
    assert in_force([card(1, 10)], "atlas", "small", "acme", 10) is None
    assert in_force([card(1, 10)], "borealis", "large", "acme", 10) is None


def test_two_cards_of_one_id_cannot_be_compiled() -> None:
    with pytest.raises(ValueError, match="two rate cards have one id"):
        compile_rates(Snapshot(version=1, currency="USD", rate_cards=(card(1, 0), card(1, 5))))


def test_no_cards_compile_to_rates_that_price_nothing() -> None:
    rates = compile_rates(Snapshot(version=4, currency="USD"))
    assert (rates.version, rates.prices.tolist(), rates.card_ids.tolist()) == (4, [[-1] * 5], [NO_CARD])
    assert rates.series_of(0, "atlas", "large") is None
