"""Rating: requests → what each costs, in whole pico-units, exactly.

A request is *billed* when its status is one of BILLED_STATUSES and every token kind it used has a price in force at its
time; *unpriced* when it would be billed but a price is missing, or when the cost would not fit 64 bits; *unbilled* by
its status. Only a billed request has a card, and only a billed one costs anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from meterhouse.ingest.batch import NAME
from meterhouse.ingest.event import BILLED_STATUSES, TOKEN_KINDS
from meterhouse.streams.columns import Coded, codes_of, distinct, int64s, names_of, times_us
from meterhouse.streams.rate_card import NO_CARD, Rates

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

DISPOSITIONS: Final = ("billed", "unpriced", "unbilled")
BILLED, UNPRICED, UNBILLED = (np.int32(code) for code in range(3))
MAX_COST_PICO: Final = int(np.iinfo(np.int64).max)
"""9.2 million units of currency for one request."""


@dataclass(frozen=True, slots=True)
class Rated:
    """What each of n requests came to."""

    disposition: npt.NDArray[np.int32]  # (n,): index into DISPOSITIONS
    cost_pico: Ints  # (n,): the sum over kinds; 0 unless billed
    kind_costs: Ints  # (n, kinds): in the order of TOKEN_KINDS; 0 unless billed
    card: npt.NDArray[np.int32]  # (n,): the card's id, -1 unless billed

    def columns(self) -> dict[str, pa.Array[Any]]:
        """The columns `disposition`, `cost_pico` and `card` of CHARGE_SCHEMA, with its nulls."""
        return {
            "disposition": pa.DictionaryArray.from_arrays(self.disposition, pa.array(DISPOSITIONS, NAME.value_type)),
            "cost_pico": pa.array(self.cost_pico, mask=self.disposition == UNPRICED),
            "card": pa.array(self.card, mask=self.card == NO_CARD),
        }


def rate(requests: pa.Table, rates: Rates) -> Rated:
    """Rates request rows (EVENT_SCHEMA, dictionaries unified) by the cards in force at each one's time."""
    row = _card_rows(requests, rates)
    tokens = [int64s(requests[kind.tokens]) for kind in TOKEN_KINDS]
    billable = _billable(requests)
    billed = billable & (row != NO_CARD)
    prices = []
    for column, count in enumerate(tokens):
        price = rates.prices[:, column][row]
        billed &= (price >= 0) | (count == 0)
        prices.append(price)
    if not _surely_fits(tokens, rates):
        billed &= _fits(tokens, prices)
    n = len(billed)
    kind_costs = np.empty((len(TOKEN_KINDS), n), dtype=np.int64)
    for kind, (count, price) in enumerate(zip(tokens, prices, strict=True)):
        np.multiply(count, price, out=kind_costs[kind])
    kind_costs *= billed
    disposition = np.where(billed, BILLED, np.where(billable, UNPRICED, UNBILLED))
    return Rated(
        disposition=disposition,
        cost_pico=kind_costs.sum(axis=0),
        kind_costs=kind_costs.T,
        card=np.where(billed, rates.card_ids[row], np.int32(NO_CARD)),
    )


def _billable(requests: pa.Table) -> Mask:
    statuses = names_of(requests["status"])
    lookup = np.array([*(status in BILLED_STATUSES for status in statuses), False])
    billable: Mask = lookup[codes_of(requests["status"])]
    return billable


def _card_rows(requests: pa.Table, rates: Rates) -> npt.NDArray[np.int32]:
    """The row of `rates.prices` in force for each request; NO_CARD where there is none.

    Requests of the same tenant class, provider and model between the same two price changes have one card: it is
    looked up once for each such group, of which a batch has few.
    """
    tenants, providers, models = (names_of(requests[name]) for name in ("tenant", "provider", "model"))
    times = times_us(requests["time"])
    if not len(times):
        return np.empty(0, dtype=np.int32)
    class_of_tenant = np.array([rates.negotiated.get(tenant, 0) for tenant in tenants], dtype=np.int32)
    tenant_class = class_of_tenant[codes_of(requests["tenant"])]
    provider, model = codes_of(requests["provider"]), codes_of(requests["model"])
    first, last = np.searchsorted(rates.changes_us, (times.min(), times.max()), side="right")
    changes = rates.changes_us[first:last]
    columns: list[Coded] = [
        (tenant_class, len(rates.negotiated) + 1),
        (provider, len(providers)),
        (model, len(models)),
    ]
    if len(changes):
        columns.append((np.searchsorted(changes, times, side="right"), len(changes) + 1))
    one_of_group, group = distinct(columns)
    cards = np.full(len(one_of_group), NO_CARD, dtype=np.int32)
    for number, request in enumerate(one_of_group.tolist()):
        series = rates.series_of(int(tenant_class[request]), providers[provider[request]], models[model[request]])
        if series is not None:
            cards[number] = series.at(times[request : request + 1])[0]
    rows: npt.NDArray[np.int32] = cards[group]
    return rows


def _surely_fits(tokens: list[Ints], rates: Rates) -> bool:
    """Whether even the largest counts at the highest prices stay within MAX_COST_PICO: nearly always."""
    highest = rates.prices.max(axis=0)
    bounds = (int(count.max(initial=0)) * max(int(price), 0) for count, price in zip(tokens, highest, strict=True))
    return sum(bounds) <= MAX_COST_PICO


def _fits(tokens: list[Ints], prices: list[Ints]) -> Mask:
    """Whether each request's cost is at most MAX_COST_PICO: what is left of it after each kind, never below 0."""
    left = np.full(len(tokens[0]), MAX_COST_PICO, dtype=np.int64)
    fits = np.ones(len(left), dtype=np.bool_)
    for count, price in zip(tokens, prices, strict=True):
        at_least_one = np.maximum(price, 1)
        fits &= (price <= 0) | (count <= left // at_least_one)
        left -= np.where(fits & (price > 0), count * at_least_one, 0)
    return fits
