"""The lines of a FOCUS file as SQL: charges added up per hour, tenant, application, model, token kind and price.

They are read from the charges, which alone say which rate card priced them. A charge made before a price was recorded
for its time keeps the card that it had, so the card cannot be told from the time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np

from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.streams.control import RateCard, Snapshot, Tenant
from meterhouse.streams.rate_card import BEGINNING_US, NO_CARD, compile_rates
from meterhouse.warehouse.control_fields import time_text
from meterhouse.warehouse.reports.groups import Selection, charges_where, floor_sql, org_path
from meterhouse.warehouse.reports.query import HOUR_US, Query, between

END_US: Final = int(np.iinfo(np.int64).max)


@dataclass(frozen=True, slots=True)
class BillingAccount:
    """Who bills the tenants."""

    id: str
    name: str


class ListPrice(NamedTuple):
    """What a rate card is compared with in [from_us, to_us): the list price then, itself where it is one."""

    of_card: int
    list_card: int
    from_us: int
    to_us: int


def list_prices(control: Snapshot, cards: Sequence[RateCard]) -> list[ListPrice]:
    """The list price beside each of `cards`, over time. Spans of one card do not overlap; where there was no list price
    there is none."""
    listed = replace(control, rate_cards=tuple(card for card in control.rate_cards if card.tenant is None))
    rates = compile_rates(listed)
    found = [ListPrice(card.id, card.id, BEGINNING_US, END_US) for card in cards if card.tenant is None]
    for card in cards:
        series = rates.series_of(0, card.provider, card.model)
        if card.tenant is None or series is None:
            continue
        starts = [int(start_us) for start_us in series.starts_us]
        ids = [int(rates.card_ids[number]) for number in series.cards]
        spans = zip(ids, starts, [*starts[1:], END_US], strict=True)
        found += [ListPrice(card.id, list_id, *span) for list_id, *span in spans if list_id != NO_CARD]
    return found


def meter_name(kind: str) -> str:
    """What FOCUS calls a token kind: `Cache Read Input Tokens`."""
    names = {"cache_read": "Cache Read Input", "cache_write": "Cache Write Input", "reasoning": "Reasoning Output"}
    return f"{names.get(kind) or kind.replace('_', ' ').title()} Tokens"


_PRICES: Final = (
    "(SELECT unnest($price_card::INTEGER[]) AS price_card, unnest($price_kind::VARCHAR[]) AS price_kind,"
    " unnest($price_place::INTEGER[]) AS place, unnest($price_meter::VARCHAR[]) AS meter,"
    " unnest($price_pico::BIGINT[]) AS pico, unnest($price_details::VARCHAR[]) AS details)"
)
_LISTS: Final = (
    "(SELECT unnest($of_cards::INTEGER[]) AS of_card, unnest($list_cards::INTEGER[]) AS list_card,"
    " unnest($list_froms::BIGINT[]) AS list_from_us, unnest($list_tos::BIGINT[]) AS list_to_us)"
)
_TENANTS: Final = (
    "(SELECT unnest($tenants::VARCHAR[]) AS known_tenant, unnest($tenant_names::VARCHAR[]) AS tenant_name,"
    " unnest($tenant_tags::VARCHAR[]) AS tags)"
)


@dataclass(frozen=True)
class FocusQuery:
    """What is asked for, and the control data that names it. `cards` are all there ever were: a charge may name any."""

    control: Snapshot
    cards: Sequence[RateCard]
    account: BillingAccount
    selection: Selection

    def of(self, from_us: int, to_us: int, columns: str) -> Query:
        """The lines of [from_us, to_us), a part of the selection's range that ends on its own or on an hour of UTC, as
        `columns`: in order of hour, tenant, application, provider, model, token kind and price."""
        span = between(from_us, to_us, "_of_part")
        params = {**self._params, **span.params}
        where = span & charges_where(self.selection, self.control)
        counts = ", ".join(f"sum({kind.tokens}) AS {kind.tokens}" for kind in TOKEN_KINDS)
        of_kind = " ".join(f"WHEN '{kind.name}' THEN {kind.tokens}" for kind in TOKEN_KINDS)
        sql = f"""WITH priced AS (
            SELECT {floor_sql(HOUR_US)} AS hour_us, tenant, application, provider, model, card, list_card, {counts}
            FROM charges LEFT JOIN {_LISTS} AS lists
              ON of_card = card AND epoch_us("time") >= list_from_us AND epoch_us("time") < list_to_us
            WHERE {where.sql} AND disposition = 'billed'
            GROUP BY ALL
        ), parts AS (
            SELECT greatest(hour_us, $from_us_of_part) AS start_us,
                least(hour_us + {HOUR_US}, $to_us_of_part) AS end_us, tenant_name, tags, tenant, application,
                provider, model, card, list_card, own.price_kind AS kind, own.place, own.meter, own.details,
                own.pico AS own_pico, coalesce(listed.pico, own.pico) AS list_pico,
                listed.pico IS NOT NULL AS has_list_price, CASE own.price_kind {of_kind} END AS tokens
            FROM priced JOIN {_PRICES} AS own ON own.price_card = card
            LEFT JOIN {_PRICES} AS listed ON listed.price_card = list_card AND listed.price_kind = own.price_kind
            LEFT JOIN {_TENANTS} AS known ON known_tenant = tenant
        )
        SELECT {columns} FROM parts WHERE tokens > 0
        ORDER BY start_us, tenant, application, provider, model, place, card, list_card"""
        return Query(sql, {**params, **where.params})

    @cached_property
    def _params(self) -> dict[str, Any]:
        rows = list(_prices(self.cards))
        prices = {name: [getattr(row, name) for row in rows] for name in _Price._fields}
        lists = list_prices(self.control, self.cards)
        return {
            "account_id": self.account.id,
            "account_name": self.account.name,
            "currency": self.control.currency,
            **{f"price_{name}": values for name, values in prices.items()},
            "of_cards": [each.of_card for each in lists],
            "list_cards": [each.list_card for each in lists],
            "list_froms": [each.from_us for each in lists],
            "list_tos": [each.to_us for each in lists],
            "tenants": [tenant.id for tenant in self.control.tenants],
            "tenant_names": [tenant.name for tenant in self.control.tenants],
            "tenant_tags": [_tags(tenant) for tenant in self.control.tenants],
        }


class _Price(NamedTuple):
    """What one card asks for one token kind."""

    card: int
    kind: str
    place: int
    meter: str
    pico: int
    details: str


def _prices(cards: Sequence[RateCard]) -> Iterator[_Price]:
    for card in cards:
        for place, kind in enumerate(TOKEN_KINDS):
            pico = card.pico_per_token.get(kind.name)
            if pico is not None:
                yield _Price(card.id, kind.name, place, meter_name(kind.name), pico, _details(card, kind.name))


def _details(card: RateCard, kind: str) -> str:
    """What never changes of a price, so that all lines with its id say the same."""
    return _object(
        {"x_Negotiated": card.tenant is not None, "x_TokenKind": kind, "x_ValidFrom": time_text(card.valid_from_us)}
    )


def _tags(tenant: Tenant) -> str:
    tags = {"meterhouse/cost_center": tenant.cost_center, "meterhouse/org_unit": org_path(tenant)}
    return _object({name: value for name, value in tags.items() if value is not None})


def _object(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))
