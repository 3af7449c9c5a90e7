"""What a range would have cost, against a lake in which it did cost that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest

from meterhouse.streams.control import RateCard, Snapshot
from meterhouse.streams.money import to_pico
from meterhouse.warehouse.books import SeenBooks
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.reports.chargeback import chargeback
from meterhouse.warehouse.reports.errors import ReportError
from meterhouse.warehouse.reports.groups import Selection
from meterhouse.warehouse.reports.what_if import LINE_GROUPS, Repricing, list_price, what_if, without_cache
from meterhouse.warehouse.view import EVERYTHING, Grant, View
from tests.builders import DAY_US, HOUR_US, T0_US
from tests.warehouse.filled import SNAPSHOT, card, fill

LATER_US = T0_US + 5 * DAY_US
DATED = replace(
    SNAPSHOT,
    rate_cards=(
        *SNAPSHOT.rate_cards,
        replace(card(4, "atlas-large", input=2_000_000), valid_from_us=LATER_US),  # a lower list price from then on
    ),
)
ROWS = [
    {
        "tenant": ("acme", "bolt", "cork")[i % 3],
        "model": ("atlas-large", "atlas-small", "unpriced-model")[i % 7 % 3],
        "application": ("assistant", "search")[i % 5 % 2],
        "status": ("ok", "ok", "error", "aborted")[i % 13 % 4],
        "time": T0_US + i * 12_345_678_917 % (10 * DAY_US),
        "input_tokens": i * 37 % 1000,
        "cache_read_tokens": i * 11 % 64,
        "cache_write_tokens": i * 5 % 16,
        "output_tokens": i * 7 % 500,
    }
    for i in range(300)
]
WHOLE = Selection(T0_US, T0_US + 10 * DAY_US)
CUT = Selection(T0_US + 3 * HOUR_US + 1, T0_US + 7 * DAY_US + 123_456_789, {"application": ["assistant"]})
NEW = {"input": "1.25", "output": "0.000001"}


@pytest.fixture(scope="module")
def lakes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Lake]]:
    """The same requests, rated by the cards as they are, at another list price, and as if there were no cache."""
    folder = tmp_path_factory.mktemp("lakes")
    filled = {
        "charged": (ROWS, DATED),
        "repriced": (ROWS, priced(DATED)),
        "uncached": (list(map(uncached, ROWS)), DATED),
    }
    with ExitStack() as closing:
        lakes = {}
        for name, (rows, snapshot) in filled.items():
            config = LakeConfig(folder / f"{name}.sqlite", folder / name, threads=1)
            lakes[name] = closing.enter_context(Lake.open(config))
            fill(lakes[name], rows, snapshot=snapshot)
        yield lakes


def books(lake: Lake, view: View = EVERYTHING) -> SeenBooks:
    return SeenBooks(lake, view)


def uncached(row: dict[str, Any]) -> dict[str, Any]:
    kinds = ("input_tokens", "cache_read_tokens", "cache_write_tokens")
    return {**row, **dict.fromkeys(kinds, 0), "input_tokens": sum(row[kind] for kind in kinds)}


def priced(snapshot: Snapshot) -> Snapshot:
    def changed(each: RateCard) -> RateCard:
        if (each.model, each.tenant) != ("atlas-large", None):
            return each
        return replace(each, pico_per_token={**each.pico_per_token, "input": 1_250_000, "output": 1})

    return replace(snapshot, rate_cards=tuple(map(changed, snapshot.rate_cards)))


@pytest.mark.parametrize("selection", [WHOLE, CUT], ids=["whole days", "cut and filtered"])
@pytest.mark.parametrize(
    ("lake", "snapshot", "repricing"),
    [("repriced", priced(DATED), list_price("atlas", "atlas-large", NEW)), ("uncached", DATED, without_cache)],
    ids=["another list price", "no cache"],
)
def test_what_would_have_been_is_what_is_where_it_was_so(
    lakes: dict[str, Lake], selection: Selection, lake: str, snapshot: Snapshot, repricing: Repricing
) -> None:
    report = what_if(books(lakes["charged"]), DATED, selection, repricing)
    was, would = (
        chargeback(books(lakes["charged"]), DATED, selection, LINE_GROUPS),
        chargeback(books(lakes[lake]), snapshot, selection, LINE_GROUPS),
    )
    billed = [line for line in was.lines if line.figures.billed_requests]
    assert [line.groups for line in report.lines] == [line.groups for line in billed]
    assert [(line.requests, line.tokens, line.charged_pico) for line in report.lines] == [
        (line.figures.billed_requests, line.figures.tokens, to_pico(line.figures.cost)) for line in billed
    ]
    there = {tuple(line.groups.values()): to_pico(line.figures.cost) for line in would.lines}
    assert [line.would_pico for line in report.lines] == [there[tuple(line.groups.values())] for line in report.lines]
    assert (report.charged_pico, report.would_pico) == (to_pico(was.total.cost), to_pico(would.total.cost))
    assert report.difference_pico == sum(line.difference_pico for line in report.lines) != 0


def test_at_the_same_prices_nothing_changes(lakes: dict[str, Lake]) -> None:
    report = what_if(books(lakes["charged"]), DATED, WHOLE, lambda rated: rated.pico_per_token)
    assert [line.difference_pico for line in report.lines] == [0] * len(report.lines)


def test_who_has_a_price_of_their_own_keeps_it(lakes: dict[str, Lake]) -> None:
    report = what_if(books(lakes["charged"]), DATED, WHOLE, list_price("atlas", "atlas-large", NEW))
    changed = {line.groups["tenant"] for line in report.lines if line.difference_pico}
    assert changed == {"acme", "cork"}  # bolt has one


def test_it_is_cut_to_what_is_seen(lakes: dict[str, Lake]) -> None:
    view = View((Grant("acme", "assistant"),))
    seen = what_if(books(lakes["charged"], view), view.cut(DATED), WHOLE, without_cache)
    assert {(line.groups["tenant"], line.groups["application"]) for line in seen.lines} == {("acme", "assistant")}


@pytest.mark.parametrize(
    ("prices", "said"), [({"inputs": "1.00"}, "no token kinds inputs"), ({"input": "0.0000001"}, "six decimals")]
)
def test_a_price_that_cannot_be_is_refused(prices: dict[str, str], said: str) -> None:
    with pytest.raises(ReportError, match=said):
        list_price("atlas", "atlas-large", prices)


def test_a_range_without_requests_costs_nothing_either_way(lakes: dict[str, Lake]) -> None:
    report = what_if(books(lakes["charged"]), DATED, Selection(T0_US - DAY_US, T0_US), without_cache)
    assert (report.lines, report.charged_pico, report.would_pico) == ((), 0, 0)
