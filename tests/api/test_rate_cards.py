"""The rate card by model: what is in force is what prices, and the past and the future are told apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from meterhouse.api.rate_cards import rate_cards_json
from meterhouse.streams.control import EMPTY, RateCard
from meterhouse.streams.rate_card import in_force


def card(id_: int, begins: int, ends: int | None = None, tenant: str | None = None) -> RateCard:
    return RateCard(
        id_, "atlas", "large", tenant, begins * 10**6, None if ends is None else ends * 10**6, {"input": id_}
    )


def of(*cards: RateCard, at: int, replaced: int | None = None) -> dict[str, Any]:
    in_use = {each.id for each in cards} - {replaced}
    [model] = rate_cards_json(replace(EMPTY, rate_cards=cards), in_use, at * 10**6)["models"]
    return model  # type: ignore[no-any-return]


def test_a_history_says_what_was_is_and_comes() -> None:
    found = of(card(1, 0), card(2, 10), card(3, 30), card(4, 40), card(5, 20, 50, "acme"), at=25, replaced=3)
    assert [(each["id"], each["tenant"], each["state"]) for each in found["cards"]] == [
        (4, None, "ahead"), (3, None, "replaced"), (2, None, "in_force"), (1, None, "over"), (5, "acme", "in_force")
    ]  # fmt: skip
    assert [each["until"] for each in found["cards"]][2:] == [
        "1970-01-01T00:00:40Z", "1970-01-01T00:00:10Z", "1970-01-01T00:00:50Z"
    ]  # fmt: skip
    assert found["list_price"]["id"] == 2
    assert [each["state"] for each in of(card(1, 0), card(2, 10, 20), at=15)["cards"]] == ["in_force", "interrupted"]
    assert (found["negotiated"], found["next_change"]) == (["acme"], "1970-01-01T00:00:40Z")


_ENDS = st.none() | st.integers(1, 30)


@given(
    st.lists(st.tuples(st.integers(0, 20), _ENDS), min_size=1, max_size=6, unique_by=lambda each: each[0]),
    st.integers(0, 60),
)
def test_the_list_price_in_force_is_the_one_that_prices(spans: list[tuple[int, int | None]], at: int) -> None:
    # As control data has them: a card with an end of its own ends by the time the next one begins.
    begins = sorted(start for start, _ in spans)
    after = dict(zip(begins, [*begins[1:], None], strict=True))
    cards = []
    for number, (start, lasts) in enumerate(spans):
        end = None if lasts is None else start + lasts
        cards.append(card(number, start, end if end is None or after[start] is None else min(end, after[start])))
    expected = in_force(cards, "atlas", "large", "", at * 10**6)
    found = of(*cards, at=at)["list_price"]
    assert (None if found is None else found["id"]) == (None if expected is None else expected.id)
