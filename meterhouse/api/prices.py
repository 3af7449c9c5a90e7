"""Prices in force now, at hand: an admission asks for one and may not wait for the control database."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, Self

import structlog

from meterhouse.streams.control import RateCard, Snapshot
from meterhouse.streams.rate_card import in_force
from meterhouse.warehouse.control import ControlUnavailable

FOLLOW_S: Final = 1.0
"""A price that is applied is in force here so much later at most; a look costs one small read."""

_log = structlog.get_logger("meterhouse.prices")


class SeveralProviders(Exception):
    """A model is priced for more than one provider."""


class PriceList:
    """The rate cards of one snapshot, found without looking through all of them."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.version, self.currency = snapshot.version, snapshot.currency
        self.models = snapshot.models
        self._providers: defaultdict[str, list[str]] = defaultdict(list)
        self._cards: defaultdict[tuple[str, str, str | None], list[RateCard]] = defaultdict(list)
        for provider, model in self.models:
            self._providers[model].append(provider)
        for card in snapshot.rate_cards:
            self._cards[card.provider, card.model, card.tenant].append(card)

    def card(self, provider: str, model: str, tenant: str | None, time_us: int) -> RateCard | None:
        """The card in force for a tenant (None: the list price)."""
        owners = [None] if tenant is None else [tenant, None]
        cards = [card for owner in owners for card in self._cards.get((provider, model, owner), ())]
        return in_force(cards, provider, model, tenant or "", time_us)

    def card_of_model(self, model: str, tenant: str, time_us: int) -> RateCard | None:
        """The card in force where one provider alone has a price for the model. Raises SeveralProviders."""
        cards = [self.card(provider, model, tenant, time_us) for provider in self._providers.get(model, ())]
        found = [card for card in cards if card is not None]
        if len(found) > 1:
            names = ", ".join(card.provider for card in found)
            raise SeveralProviders(f"{model} has prices of several providers ({names}): say `provider`")
        return found[0] if found else None

    def in_force(self, tenant: str | None, provider: str | None, model: str | None, time_us: int) -> Iterator[RateCard]:
        """The cards in force, in the control file's order of models."""
        for each_provider, each_model in self.models:
            if provider in (None, each_provider) and model in (None, each_model):
                card = self.card(each_provider, each_model, tenant, time_us)
                if card is not None:
                    yield card


class PriceBook:
    """Follows control data in a thread of its own. `current` never waits."""

    def __init__(self, snapshots: Callable[[], Snapshot]) -> None:
        self._snapshots = snapshots
        self._stop = threading.Event()
        self._current: PriceList | None = None
        self._thread = threading.Thread(target=self._run, name="meterhouse-prices", daemon=True)

    @property
    def current(self) -> PriceList:
        """Raises ControlUnavailable: control data was never to be had so far."""
        if self._current is None:
            raise ControlUnavailable("prices are not known yet")
        return self._current

    def _look(self) -> None:
        try:
            snapshot = self._snapshots()
        except ControlUnavailable as away:
            _log.warning("prices are not to be had", reason=str(away))
            return
        if self._current is None or self._current.version != snapshot.version:
            self._current = PriceList(snapshot)

    def _run(self) -> None:
        while not self._stop.wait(FOLLOW_S):
            self._look()

    def __enter__(self) -> Self:
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
