"""Rating against exact fractions and the plain rule of what is in force, one event at a time."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from meterhouse.ingest.event import BILLED_STATUSES, MAX_COUNT, STATUSES, TOKEN_KINDS
from meterhouse.streams.control import RateCard, Snapshot
from meterhouse.streams.money import price_per_million, price_text
from meterhouse.streams.rate_card import NO_CARD, compile_rates, in_force
from meterhouse.streams.rating import MAX_COST_PICO, rate
from tests.builders import T0_US, events

KINDS = [kind.name for kind in TOKEN_KINDS]
TENANTS, PROVIDERS, MODELS = ["acme", "globex", "initech"], ["atlas", "borealis"], ["large", "small"]
TIMES = st.integers(T0_US, T0_US + 6)
PICO_PRICES = st.integers(0, 20_000_000) | st.integers(0, 10**12) | st.just(0)


@dataclass(frozen=True)
class House:
    cards: tuple[RateCard, ...]
    rows: list[dict[str, Any]]


@st.composite
def rate_cards(draw: st.DrawFn) -> tuple[RateCard, ...]:
    cards = []
    for id_ in draw(st.lists(st.integers(1, 2**31 - 1), max_size=8, unique=True)):
        since = draw(TIMES | st.just(0))
        cards.append(
            RateCard(
                id_,
                draw(st.sampled_from(PROVIDERS)),
                draw(st.sampled_from(MODELS)),
                draw(st.sampled_from([None, None, *TENANTS[:2]])),
                since,
                draw(st.none() | st.integers(since + 1, T0_US + 7)) if since else None,
                draw(st.dictionaries(st.sampled_from(KINDS), PICO_PRICES)),
            )
        )
    return tuple(cards)


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "tenant": st.sampled_from(TENANTS),
            "provider": st.sampled_from(PROVIDERS),
            "model": st.sampled_from(MODELS),
            "status": st.sampled_from(["ok", *STATUSES]),
            "time": TIMES,
            **{kind.tokens: st.sampled_from([0, 0, 1]) | st.integers(0, MAX_COUNT) for kind in TOKEN_KINDS},
        }
    ),
    max_size=12,
)


def expected(row: dict[str, Any], cards: tuple[RateCard, ...]) -> tuple[str, int, list[int], int]:
    """(disposition, cost, cost by kind, card), with a price per million as a fraction."""
    nothing = [0] * len(KINDS)
    if row["status"] not in BILLED_STATUSES:
        return "unbilled", 0, nothing, NO_CARD
    card = in_force(cards, row["provider"], row["model"], row["tenant"], row["time"])
    if card is None or any(row[kind.tokens] and kind.name not in card.pico_per_token for kind in TOKEN_KINDS):
        return "unpriced", 0, nothing, NO_CARD
    costs = []
    for kind in TOKEN_KINDS:
        per_million = Fraction(price_text(card.pico_per_token.get(kind.name, 0)))
        cost = row[kind.tokens] * per_million / 10**6 * 10**12
        assert cost.denominator == 1
        costs.append(int(cost))
    if sum(costs) > MAX_COST_PICO:
        return "unpriced", 0, nothing, NO_CARD
    return "billed", sum(costs), costs, card.id


@settings(max_examples=150, deadline=None)
@given(cards=rate_cards(), rows=ROWS)
def test_rating_equals_exact_fractions(cards: tuple[RateCard, ...], rows: list[dict[str, Any]]) -> None:
    rated = rate(events(rows), compile_rates(Snapshot(version=1, currency="USD", rate_cards=cards)))
    dispositions = rated.columns()["disposition"].to_pylist()
    got = list(zip(dispositions, rated.cost_pico.tolist(), rated.kind_costs.tolist(), rated.card.tolist(), strict=True))
    assert got == [expected(row, cards) for row in rows]


@settings(max_examples=100, deadline=None)
@given(cards=rate_cards())
def test_compiled_cards_are_those_in_force_at_any_instant(cards: tuple[RateCard, ...]) -> None:
    rates = compile_rates(Snapshot(version=1, currency="USD", rate_cards=cards))
    times = np.array([0, 1, *range(T0_US - 1, T0_US + 9)])
    for tenant in TENANTS:
        for provider in PROVIDERS:
            for model in MODELS:
                series = rates.series_of(rates.negotiated.get(tenant, 0), provider, model)
                got = [NO_CARD] * len(times) if series is None else rates.card_ids[series.at(times)].tolist()
                found = [in_force(cards, provider, model, tenant, t) for t in times.tolist()]
                assert got == [NO_CARD if card is None else card.id for card in found]


@given(pico=st.integers(0, 10**12))
def test_a_price_survives_being_written_and_read(pico: int) -> None:
    assert price_per_million(price_text(pico)) == pico
