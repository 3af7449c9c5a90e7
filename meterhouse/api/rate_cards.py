"""The rate card as JSON, by model: what is in force, what comes next, what was, and who approved it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from operator import attrgetter
from typing import Any, Final

from meterhouse.streams.control import RateCard, Snapshot
from meterhouse.streams.money import price_text
from meterhouse.streams.rate_card import in_force
from meterhouse.warehouse.reports.to_json import rfc3339

Json = dict[str, Any]
_IN_FORCE: Final = "in_force"


def rate_cards_json(every: Snapshot, in_use: Collection[int], at_us: int) -> Json:
    """`every`: control data with replaced cards too; `in_use`: ids of those that are not.

    Of each model the list price in force, the next change of any price, and all cards: the list's first, then those of
    tenants by name, each the newest first. State of a card: `in_force`, `ahead`, `over`, `interrupted` (by a later one
    that ends before it), or `replaced` (another took its place before it was in force: nothing was priced by it).
    """
    by_model: defaultdict[tuple[str, str], list[RateCard]] = defaultdict(list)
    for card in every.rate_cards:
        by_model[card.provider, card.model].append(card)
    return {
        "currency": every.currency,
        "at": rfc3339(at_us),
        "control_version": every.version,
        "models": [
            {"provider": provider, "model": model, **_of_model(cards, in_use, at_us)}
            for (provider, model), cards in sorted(by_model.items())
        ],
    }


def _of_model(cards: Sequence[RateCard], in_use: Collection[int], at_us: int) -> Json:
    lines = [
        line
        for tenant in sorted({card.tenant for card in cards}, key=lambda name: (name is not None, name))
        for line in _of_owner([card for card in cards if card.tenant == tenant], in_use, at_us)
    ]
    in_force = [line for line in lines if line["state"] == _IN_FORCE]
    ahead = [line["valid_from"] for line in lines if line["state"] == "ahead"]
    ends = [line["until"] for line in in_force if line["until"] is not None]
    return {
        "list_price": next((line for line in in_force if line["tenant"] is None), None),
        "negotiated": [line["tenant"] for line in in_force if line["tenant"] is not None],
        "next_change": min([*ahead, *ends], default=None),
        "cards": lines,
    }


def _of_owner(cards: Sequence[RateCard], in_use: Collection[int], at_us: int) -> Iterator[Json]:
    """Cards of the list, or of one tenant, the newest first."""
    used = [card for card in cards if card.id in in_use]
    for card in sorted(cards, key=attrgetter("valid_from_us", "id"), reverse=True):
        state = _state(card, used, at_us) if card.id in in_use else "replaced"
        # What is in force is ended by the next to begin; what was, by the one that followed it.
        since_us = max(at_us, card.valid_from_us) if state == _IN_FORCE else card.valid_from_us
        ends_us = [other.valid_from_us for other in used if other.valid_from_us > since_us]
        until_us = min(ends_us + ([] if card.valid_to_us is None else [card.valid_to_us]), default=None)
        yield {
            "id": card.id,
            "tenant": card.tenant,
            "per_million": {kind: price_text(pico) for kind, pico in card.pico_per_token.items()},
            "valid_from": rfc3339(card.valid_from_us),
            "until": None if until_us is None else rfc3339(until_us),
            "state": state,
            "approved_by": card.approved_by,
        }


def _state(card: RateCard, used: Sequence[RateCard], at_us: int) -> str:
    """`used`: cards of the same owner, each of which follows the rule of prices."""
    if card.valid_from_us > at_us:
        return "ahead"
    prices = in_force(used, card.provider, card.model, card.tenant or "", at_us)
    if prices is card:
        return _IN_FORCE
    if prices is None or prices.valid_to_us is None:
        return "over"
    next_one = in_force(used, card.provider, card.model, card.tenant or "", prices.valid_to_us)
    return "interrupted" if next_one is card else "over"
