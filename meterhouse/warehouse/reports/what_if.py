"""What a range would have cost at other prices: each charge rated again, by another price list, and nothing stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.streams.control import RateCard, Snapshot
from meterhouse.streams.money import price_per_million, to_pico
from meterhouse.warehouse.books import Books
from meterhouse.warehouse.lake import Cursor
from meterhouse.warehouse.reports.as_of import AsOf, Freshness, as_of
from meterhouse.warehouse.reports.chargeback import billed_total
from meterhouse.warehouse.reports.errors import BooksError, ReportError
from meterhouse.warehouse.reports.groups import Selection, charges_where, check_lines, check_range
from meterhouse.warehouse.reports.query import Condition, Query, between

Prices = Mapping[str, int]
"""Pico-units of the currency per token, by token kind."""
Repricing = Callable[[RateCard], Prices]
"""The prices that a charge is rated by again, from the card that rated it."""

LINE_GROUPS: Final = ("tenant", "application", "provider", "model")
_BILLED: Final = Condition("disposition = 'billed'")


@dataclass(frozen=True, slots=True)
class WhatIfLine:
    """Billed requests of one tenant, application and model. Amounts in pico-units of the currency."""

    groups: Mapping[str, str | None]  # by LINE_GROUPS
    requests: int
    tokens: Mapping[str, int]  # by kind
    charged_pico: int
    would_pico: int

    @property
    def difference_pico(self) -> int:
        return self.would_pico - self.charged_pico


@dataclass(frozen=True, slots=True)
class WhatIf:
    currency: str
    from_us: int
    to_us: int
    lines: tuple[WhatIfLine, ...]  # in the order of their groups, absent values first
    charged_pico: int
    would_pico: int
    as_of: AsOf

    @property
    def difference_pico(self) -> int:
        return self.would_pico - self.charged_pico


def list_price(provider: str, model: str, per_million: Mapping[str, str]) -> Repricing:
    """Another list price of a model: text per million tokens, by token kind; a kind that is not named keeps its price.
    Who has a price of their own keeps it.

    Raises ReportError on an unknown kind or a price that cannot be.
    """
    known = {kind.name for kind in TOKEN_KINDS}
    if unknown := per_million.keys() - known:
        raise ReportError(f"there are no token kinds {', '.join(sorted(unknown))}: use any of {', '.join(known)}")
    try:
        prices = {kind: price_per_million(text) for kind, text in per_million.items()}
    except ValueError as wrong:
        raise ReportError(str(wrong)) from wrong

    def repriced(card: RateCard) -> Prices:
        is_meant = (card.provider, card.model, card.tenant) == (provider, model, None)
        return {**card.pico_per_token, **prices} if is_meant else card.pico_per_token

    return repriced


def without_cache(card: RateCard) -> Prices:
    """As if nothing had been read from a cache or written to one: all of it input. What a cache saved is what a range
    would have cost more."""
    price = card.pico_per_token.get("input")
    cached = {kind: price for kind in ("cache_read", "cache_write") if price is not None}
    return {**card.pico_per_token, **cached}


def what_if(
    books: Books,
    snapshot: Snapshot,
    selection: Selection,
    repricing: Repricing,
    freshness: Freshness | None = None,
) -> WhatIf:
    """Billed requests of the selection as they were charged, and as they would have been.

    `snapshot` has all rate cards there ever were: a charge may name any. Requests without a price stay without one. It
    reads charges, not roll-ups, so it takes as long as an export. Raises ReportError as `chargeback` does; BooksError
    when the lines do not add up to it.
    """
    check_range(selection.from_us, selection.to_us)
    with books.read() as cursor:
        lines = _lines(cursor, snapshot, selection, repricing)
        billed = to_pico(billed_total(cursor, snapshot, selection).cost)
        figures_as_of = as_of(books, cursor, freshness)
    charged = sum(line.charged_pico for line in lines)
    if charged != billed:
        raise BooksError(
            f"charges rated again come to {charged} pico-units, the chargeback to {billed}: run `meterhouse verify`"
        )
    would = sum(line.would_pico for line in lines)
    return WhatIf(snapshot.currency, selection.from_us, selection.to_us, lines, charged, would, figures_as_of)


def what_if_query(snapshot: Snapshot, selection: Selection) -> Query:
    """Rows: LINE_GROUPS, card, requests, tokens per kind; in the order of the groups."""
    where = between(selection.from_us, selection.to_us) & _BILLED & charges_where(selection, snapshot)
    groups = ", ".join(LINE_GROUPS)
    counts = ", ".join(f"sum({kind.tokens})" for kind in TOKEN_KINDS)
    order = ", ".join(f"{name} NULLS FIRST" for name in LINE_GROUPS)
    sql = (
        f"SELECT {groups}, card, count(*), {counts} FROM charges WHERE {where.sql}"
        f" GROUP BY {groups}, card ORDER BY {order}, card"
    )
    return Query(sql, where.params)


def _lines(cursor: Cursor, snapshot: Snapshot, selection: Selection, repricing: Repricing) -> tuple[WhatIfLine, ...]:
    """Charges of one group that different cards rated are one line."""
    cards = {card.id: card for card in snapshot.rate_cards}
    lines: dict[tuple[Any, ...], WhatIfLine] = {}
    for row in what_if_query(snapshot, selection).rows(cursor):
        key, (card_id, requests, *counts) = row[: len(LINE_GROUPS)], row[len(LINE_GROUPS) :]
        tokens = {kind.name: int(count) for kind, count in zip(TOKEN_KINDS, counts, strict=True)}
        card = cards[card_id]
        before = lines.get(key)
        lines[key] = WhatIfLine(
            dict(zip(LINE_GROUPS, key, strict=True)),
            int(requests) + (before.requests if before else 0),
            {kind: count + (before.tokens[kind] if before else 0) for kind, count in tokens.items()},
            _cost(tokens, card.pico_per_token) + (before.charged_pico if before else 0),
            _cost(tokens, repricing(card)) + (before.would_pico if before else 0),
        )
    check_lines(len(lines))
    return tuple(lines.values())


def _cost(tokens: Mapping[str, int], prices: Prices) -> int:
    return sum(count * prices[kind] for kind, count in tokens.items() if count)
