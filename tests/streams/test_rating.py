from __future__ import annotations

from typing import Any

import pytest

from meterhouse.ingest.event import STATUSES
from meterhouse.streams.control import RateCard, Snapshot
from meterhouse.streams.rate_card import compile_rates
from meterhouse.streams.rating import DISPOSITIONS, MAX_COST_PICO, rate
from tests.builders import DAY_US, T0_US, events

ALL_KINDS = {"input": 2, "cache_read": 3, "cache_write": 5, "output": 7, "reasoning": 11}


def card(id_: int, prices: dict[str, int], since_us: int = 0, tenant: str | None = None) -> RateCard:
    return RateCard(id_, "atlas", "atlas-large", tenant, since_us, None, prices)


def rated(rows: list[dict[str, Any]], *cards: RateCard) -> list[tuple[str, int | None, int | None, list[int]]]:
    """(disposition, cost_pico, card, costs by kind) per row, as the lake will hold them."""
    result = rate(events(rows), compile_rates(Snapshot(version=1, currency="USD", rate_cards=cards)))
    columns = result.columns()
    return list(
        zip(
            columns["disposition"].to_pylist(),
            columns["cost_pico"].to_pylist(),
            columns["card"].to_pylist(),
            result.kind_costs.tolist(),
            strict=True,
        )
    )


def test_a_request_costs_its_tokens_times_their_prices_kind_by_kind() -> None:
    tokens = {f"{kind}_tokens": 10**n for n, kind in enumerate(ALL_KINDS)}
    assert rated([tokens], card(9, ALL_KINDS)) == [("billed", 117_532, 9, [2, 30, 500, 7_000, 110_000])]


def test_only_ok_and_aborted_requests_are_billed() -> None:
    rows = [{"status": status, "input_tokens": 1} for status in STATUSES]
    assert {row["status"]: got[:3] for row, got in zip(rows, rated(rows, card(9, ALL_KINDS)), strict=True)} == {
        "ok": ("billed", 2, 9),
        "aborted": ("billed", 2, 9),
        "error": ("unbilled", 0, None),
        "throttled": ("unbilled", 0, None),
        "blocked": ("unbilled", 0, None),
    }


def test_a_model_without_a_card_is_unpriced_even_without_tokens_and_an_error_of_it_is_unbilled() -> None:
    rows = [
        {"model": "unheard-of", "input_tokens": 1},
        {"model": "unheard-of"},
        {"model": "unheard-of", "status": "error"},
    ]
    nothing = [0] * 5
    assert rated(rows, card(9, ALL_KINDS)) == [
        ("unpriced", None, None, nothing),
        ("unpriced", None, None, nothing),
        ("unbilled", 0, None, nothing),
    ]


def test_a_kind_without_a_price_makes_only_requests_that_use_it_unpriced() -> None:
    rows = [{"input_tokens": 4}, {"input_tokens": 4, "reasoning_tokens": 1}]
    prices = {kind: price for kind, price in ALL_KINDS.items() if kind != "reasoning"}
    assert rated(rows, card(9, prices)) == [("billed", 8, 9, [8, 0, 0, 0, 0]), ("unpriced", None, None, [0] * 5)]


def test_a_price_of_zero_is_a_price() -> None:
    assert rated([{"input_tokens": 4}], card(9, {"input": 0})) == [("billed", 0, 9, [0] * 5)]


def test_the_price_is_the_one_in_force_at_the_events_time_to_the_microsecond() -> None:
    rows = [{"input_tokens": 1, "time": T0_US + d} for d in (-1, 0)]
    assert [got[1:3] for got in rated(rows, card(1, {"input": 5}), card(2, {"input": 6}, since_us=T0_US))] == [
        (5, 1),
        (6, 2),
    ]


def test_a_time_before_the_first_card_is_unpriced() -> None:
    assert rated([{"input_tokens": 1}], card(1, {"input": 5}, since_us=T0_US + DAY_US))[0][0] == "unpriced"


def test_a_tenants_own_price_wins_from_its_first_instant() -> None:
    cards = [card(1, {"input": 5}), card(2, {"input": 3}, since_us=T0_US, tenant="acme")]
    rows = [{"input_tokens": 1, "tenant": tenant, "time": T0_US + d} for tenant in ("acme", "globex") for d in (-1, 0)]
    assert [got[1:3] for got in rated(rows, *cards)] == [(5, 1), (3, 2), (5, 1), (5, 1)]


@pytest.mark.parametrize(
    ("row", "disposition"),
    [
        ({"input_tokens": MAX_COST_PICO}, "billed"),
        ({"input_tokens": MAX_COST_PICO, "output_tokens": 1}, "unpriced"),
        ({"output_tokens": MAX_COST_PICO // 7}, "billed"),
        ({"output_tokens": MAX_COST_PICO // 7 + 1}, "unpriced"),
        ({"output_tokens": 2**40, "reasoning_tokens": 2**62}, "unpriced"),
    ],
)
def test_a_cost_beyond_64_bits_is_kept_unpriced_and_never_wraps(row: dict[str, int], disposition: str) -> None:
    prices = {"input": 1, "output": 7, "reasoning": 10**12}
    neighbour = {"input_tokens": 5}
    got = rated([neighbour, row], card(9, prices))
    assert got[0] == ("billed", 5, 9, [5, 0, 0, 0, 0])
    exact = sum(row.get(f"{kind}_tokens", 0) * price for kind, price in prices.items())
    assert got[1][:2] == (disposition, exact if disposition == "billed" else None)


def test_no_requests_have_no_charges() -> None:
    assert rated([], card(9, ALL_KINDS)) == []
    assert DISPOSITIONS == ("billed", "unpriced", "unbilled")
