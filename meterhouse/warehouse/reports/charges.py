"""Charges: the events behind a chargeback's line, each with all that explains what it cost, in the order of time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.streams.control import RateCard, Snapshot
from meterhouse.warehouse.books import Books
from meterhouse.warehouse.lake_schema import columns_sql
from meterhouse.warehouse.reports.as_of import AsOf, Freshness
from meterhouse.warehouse.reports.chargeback import Figures, chargeback
from meterhouse.warehouse.reports.errors import BooksError, ReportError
from meterhouse.warehouse.reports.groups import Selection, charges_where, check_range
from meterhouse.warehouse.reports.query import Condition, Query, between
from meterhouse.warehouse.reports.removed import Removed, removed_charges

KINDS: Final = tuple(kind.name for kind in TOKEN_KINDS)
_TEXTS: Final = (
    "source", "tenant", "application", "environment", "model", "provider", "operation", "status", "disposition",
    "request_id",
)  # fmt: skip


class ChargePlace(NamedTuple):
    """Where a charge stands in the order of pages."""

    time_us: int
    partition: int
    offset: int
    index: int  # type: ignore[assignment]  # a place has an index; nobody searches in one


@dataclass(frozen=True, slots=True)
class Charge:
    """One request and what it cost. Money is in pico-units."""

    place: ChargePlace
    key: UUID  # of (tenant, source, id): what makes it the same event when it comes twice
    arrived_us: int
    texts: Mapping[str, str | None]  # each of _TEXTS
    http_status: int | None
    tokens: Mapping[str, int]  # by kind, as the event told; all kinds, or the one that was asked for
    card: int | None  # of the rate card that priced it; None: unpriced or unbilled
    pico_per_token: Mapping[str, int | None]  # the card's prices by kind; None: no price
    costs_pico: Mapping[str, int | None]  # by kind, adding up to the cost; None: unpriced
    cost_pico: int | None
    control_version: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which charges, and what of them. With `kind` their tokens and cost are that kind's alone."""

    selection: Selection
    kind: str | None = None
    after: ChargePlace | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Charges:
    currency: str
    from_us: int
    to_us: int
    kind: str | None
    lines: tuple[Charge, ...]
    total: Figures  # of the whole range: what the lines of all pages add up to
    next: ChargePlace | None  # where the next page begins after; None: this is the last
    as_of: AsOf
    removed: Removed | None  # charges of these days that retention removed, and that the total still counts


def charges(books: Books, snapshot: Snapshot, wanted: Wanted, freshness: Freshness | None = None) -> Charges:
    """A page of charges. The total is the chargeback's of the same range and filters, summed from roll-ups.

    `snapshot` has every rate card that charges may name. Raises ReportError on an unknown filter or kind or an empty
    range; BooksError when a charge's cost is not its tokens times the prices of its card.
    """
    selection, kind = wanted.selection, wanted.kind
    check_range(selection.from_us, selection.to_us)
    if kind is not None and kind not in KINDS:
        raise ReportError(f"there is no token kind {kind!r}: use one of {', '.join(KINDS)}")
    bill = chargeback(books, snapshot, selection, ("kind",) if kind else (), freshness)
    with books.read() as cursor:
        rows = charges_query(snapshot, wanted).rows(cursor)
        removed = removed_charges(cursor, snapshot, selection)
    cards = {card.id: card for card in snapshot.rate_cards}
    lines = tuple(_charge(row, cards, kind) for row in rows[: wanted.limit])
    return Charges(
        bill.currency,
        selection.from_us,
        selection.to_us,
        kind,
        lines,
        next((line.figures for line in bill.lines if line.groups["kind"] == kind), bill.total),
        lines[-1].place if len(rows) > wanted.limit else None,
        bill.as_of,
        removed,
    )


def charge_at(books: Books, snapshot: Snapshot, partition: int, offset: int, index: int) -> Charge | None:
    """The charge of the event at this place in the log; None: there is none, or it is not seen."""
    place = Condition(
        '"partition" = $partition::INTEGER AND "offset" = $offset::BIGINT AND "index" = $index::INTEGER',
        {"partition": partition, "offset": offset, "index": index},
    )
    with books.read() as cursor:
        rows = Query(f"{_SELECT} WHERE {place.sql}", place.params).rows(cursor)
    return _charge(rows[0], {card.id: card for card in snapshot.rate_cards}, None) if rows else None


_COLUMNS: Final = columns_sql((*_TEXTS, *(kind.tokens for kind in TOKEN_KINDS)))
_SELECT: Final = (
    'SELECT epoch_us("time"), "partition", "offset", "index", "key", epoch_us(arrived), http_status, card, cost_pico,'
    f" control_version, {_COLUMNS} FROM charges"
)


def charges_query(snapshot: Snapshot, wanted: Wanted) -> Query:
    """One row more than the page has, to know whether there is another."""
    selection = wanted.selection
    condition = between(selection.from_us, selection.to_us) & charges_where(selection, snapshot)
    if wanted.after is not None:
        condition &= Condition(  # the time alone as well: by it files are left out
            '"time" >= make_timestamptz($after_time_us::BIGINT)'
            ' AND (epoch_us("time"), "partition", "offset", "index")'
            " > ($after_time_us::BIGINT, $after_partition::INTEGER, $after_offset::BIGINT, $after_index::INTEGER)",
            {f"after_{name}": value for name, value in wanted.after._asdict().items()},
        )
    return Query(
        f'{_SELECT} WHERE {condition.sql} ORDER BY "time", "partition", "offset", "index" LIMIT $page::BIGINT',
        {**condition.params, "page": wanted.limit + 1},
    )


def _charge(row: Sequence[Any], cards: Mapping[int, RateCard], kind: str | None) -> Charge:
    time_us, partition, offset, index, key, arrived_us, http_status, card, cost_pico, version, *rest = row
    texts = dict(zip(_TEXTS, rest[: len(_TEXTS)], strict=True))
    tokens = dict(zip(KINDS, rest[len(_TEXTS) :], strict=True))
    prices = _prices(cards, card)
    costs: Mapping[str, int | None] = {
        name: None if cost_pico is None else count * (prices[name] or 0) for name, count in tokens.items()
    }
    if cost_pico is not None and sum(cost or 0 for cost in costs.values()) != cost_pico:
        raise BooksError(
            f"the charge at {partition}/{offset}/{index} cost {cost_pico} pico-units, which are not its tokens at the"
            f" prices of rate card {card}: run `meterhouse verify`"
        )
    shown = KINDS if kind is None else (kind,)
    return Charge(
        ChargePlace(time_us, partition, offset, index),
        key,
        arrived_us,
        texts,
        http_status,
        {name: tokens[name] for name in shown},
        card,
        {name: prices[name] for name in shown},
        {name: costs[name] for name in shown},
        cost_pico if kind is None else costs[kind],
        version,
    )


def _prices(cards: Mapping[int, RateCard], card: int | None) -> Mapping[str, int | None]:
    if card is None:
        return dict.fromkeys(KINDS)
    if card not in cards:
        raise BooksError(f"a charge names rate card {card}, which is not among control data: restore its database")
    return {kind: cards[card].pico_per_token.get(kind) for kind in KINDS}
