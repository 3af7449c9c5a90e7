"""Rate cards: which price is in force, as a plain rule and compiled for vectorised rating.

*In force* at t: the tenant's own card (a negotiated price) if one is valid at t, else the list price valid at t. Valid
is valid_from <= t < valid_to; of several valid ones the latest by valid_from, then by id, so a card without an end is
ended by the next.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

import numpy as np
import numpy.typing as npt

from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.streams.control import RateCard, Snapshot

NO_PRICE: Final = -1
"""In a price matrix: the card does not price this token kind."""
NO_CARD: Final = -1
"""As a row of the price matrix (its last): no card in force."""
BEGINNING_US: Final = int(np.iinfo(np.int64).min)

Ints = npt.NDArray[np.int64]


def in_force(cards: Iterable[RateCard], provider: str, model: str, tenant: str, time_us: int) -> RateCard | None:
    """The card that prices a tenant's event at an instant: the rule itself, one event at a time."""
    valid = [
        card
        for card in cards
        if (card.provider, card.model) == (provider, model)
        and card.tenant in (None, tenant)
        and card.valid_from_us <= time_us
        and (card.valid_to_us is None or time_us < card.valid_to_us)
    ]
    return max(valid, key=lambda card: (card.tenant is not None, card.valid_from_us, card.id), default=None)


@dataclass(frozen=True, slots=True)
class Series:
    """The cards in force over time for one (provider, model) and one tenant, or all tenants without own cards.

    From `starts_us[i]` (ascending, the first is `BEGINNING_US`) until the next start, card number `cards[i]` is in
    force: a row of `Rates.prices`, or NO_CARD.
    """

    starts_us: Ints
    cards: npt.NDArray[np.int32]

    def at(self, times_us: Ints) -> npt.NDArray[np.int32]:
        """Card numbers (n,) in force at `times_us` (n,)."""
        numbers: npt.NDArray[np.int32] = self.cards[np.searchsorted(self.starts_us, times_us, side="right") - 1]
        return numbers


@dataclass(frozen=True, slots=True)
class Rates:
    """The rate cards of one control version, compiled for `rating.rate`."""

    version: int
    negotiated: Mapping[str, int]  # tenants with any card of their own → 1, 2, ...; all others share class 0
    series: Mapping[tuple[int, str, str], Series]  # (tenant class, provider, model); without an entry: see `series_of`
    changes_us: Ints  # ascending: every instant at which some series changes
    prices: Ints  # (cards + 1, kinds): pico-units per token, NO_PRICE; the last row, all NO_PRICE, stands for NO_CARD
    card_ids: npt.NDArray[np.int32]  # (cards + 1,): what a charge stores; the last is -1

    def series_of(self, tenant_class: int, provider: str, model: str) -> Series | None:
        """The prices of a model for a class of tenants; None when it never had any."""
        own = self.series.get((tenant_class, provider, model))
        return own if own is not None else self.series.get((0, provider, model))


def compile_rates(snapshot: Snapshot) -> Rates:
    """Compiles a snapshot's rate cards: once per control version."""
    cards = snapshot.rate_cards
    numbers = {card.id: number for number, card in enumerate(cards)}
    if len(numbers) != len(cards):
        raise ValueError("two rate cards have one id: an id names one card version for ever")
    by_owner: defaultdict[tuple[str, str, str | None], list[RateCard]] = defaultdict(list)
    for card in cards:
        by_owner[card.provider, card.model, card.tenant].append(card)
    owners = dict.fromkeys(card.tenant for card in cards if card.tenant is not None)
    classes = {tenant: number for number, tenant in enumerate(owners, start=1)}
    series = {}
    for provider, model, tenant in by_owner:
        list_price = by_owner.get((provider, model, None), [])
        own = [] if tenant is None else by_owner[provider, model, tenant]
        tenant_class = 0 if tenant is None else classes[tenant]
        series[tenant_class, provider, model] = _series(own, list_price, numbers)
    starts = [one.starts_us[1:] for one in series.values()]
    return Rates(
        version=snapshot.version,
        negotiated=classes,
        series=series,
        changes_us=np.unique(np.concatenate(starts)) if starts else np.empty(0, dtype=np.int64),
        prices=_price_matrix(cards),
        card_ids=np.array([*(card.id for card in cards), NO_CARD], dtype=np.int32),
    )


def _price_matrix(cards: Sequence[RateCard]) -> Ints:
    prices = np.full((len(cards) + 1, len(TOKEN_KINDS)), NO_PRICE, dtype=np.int64)
    for number, card in enumerate(cards):
        for column, kind in enumerate(TOKEN_KINDS):
            prices[number, column] = card.pico_per_token.get(kind.name, NO_PRICE)
    return prices


def _series(own: Sequence[RateCard], list_price: Sequence[RateCard], numbers: Mapping[int, int]) -> Series:
    """A walk over every instant at which a card starts or ends."""
    instants = sorted(
        {t for card in (*own, *list_price) for t in (card.valid_from_us, card.valid_to_us) if t is not None}
    )
    walks = (_Walk(own), _Walk(list_price))
    starts, in_force_numbers = [BEGINNING_US], [NO_CARD]
    for instant in instants:
        valid = [walk.to(instant) for walk in walks]
        card = next((card for card in valid if card is not None), None)
        number = NO_CARD if card is None else numbers[card.id]
        if number != in_force_numbers[-1]:
            starts.append(instant)
            in_force_numbers.append(number)
    return Series(np.array(starts, dtype=np.int64), np.array(in_force_numbers, dtype=np.int32))


class _Walk:
    """The latest valid card while time goes on."""

    def __init__(self, cards: Sequence[RateCard]) -> None:
        self._ahead = sorted(cards, key=attrgetter("valid_from_us", "id"), reverse=True)
        self._begun: list[RateCard] = []

    def to(self, time_us: int) -> RateCard | None:
        while self._ahead and self._ahead[-1].valid_from_us <= time_us:
            self._begun.append(self._ahead.pop())
        while self._begun and _ended(self._begun[-1], time_us):
            self._begun.pop()
        return self._begun[-1] if self._begun else None


def _ended(card: RateCard, time_us: int) -> bool:
    return card.valid_to_us is not None and card.valid_to_us <= time_us
