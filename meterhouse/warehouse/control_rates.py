"""The rate card is append-only: what a file may do to the prices that are stored.

A card is known by provider, model, tenant and valid_from. Absent from the file, it stays. In force, its end may be set
or moved while both ends, old and new, lie ahead; nothing else of it changes. Not yet in force, it may be replaced, by a
card of a new id: an id that a charge may carry means one set of prices for ever.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from meterhouse.streams.control import RateCard
from meterhouse.warehouse.control_fields import Located, Problem, time_text
from meterhouse.warehouse.control_file import KINDS

Key = tuple[str, str, str | None, int]


def card_key(card: RateCard) -> Key:
    return (card.provider, card.model, card.tenant, card.valid_from_us)


def card_name(card: RateCard) -> str:
    """A card as people are told of it."""
    tenant = f" for {card.tenant}" if card.tenant else ""
    return f"{card.provider}/{card.model}{tenant} from {time_text(card.valid_from_us)}"


@dataclass(slots=True)
class MergedCards:
    """Cards by key as they will be (not yet in order), with what is to be said about them."""

    cards: dict[Key, RateCard]
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)


def merge_cards(stored: Sequence[RateCard], listed: Sequence[Located[RateCard]], now_us: int) -> MergedCards:
    """What the stored cards become under a file's sound cards."""
    merged = MergedCards({card_key(card): card for card in stored})
    ids = itertools.count(1 + max((card.id for card in stored), default=0))
    for entry in listed:
        if not entry.sound:
            continue
        old = merged.cards.get(card_key(entry.value))
        if old is None:
            merged.cards[card_key(entry.value)] = replace(entry.value, id=next(ids))
            merged.warnings.extend(_warnings(entry, now_us if stored else None))
        elif replace(entry.value, id=old.id) != old:
            if old.valid_from_us > now_us:
                merged.cards[card_key(old)] = replace(entry.value, id=next(ids))
                merged.warnings.extend(_warnings(entry, now_us if stored else None))
            elif refusal := _refusal(old, entry.value, now_us):
                merged.problems.append(entry.problem(refusal))
            else:
                merged.cards[card_key(old)] = replace(old, valid_to_us=entry.value.valid_to_us)
    merged.problems.extend(_overlaps(merged.cards, listed))
    in_file = {card_key(entry.value) for entry in listed}
    merged.warnings.extend(
        Problem(
            "rate_card", f"leaves out {card_name(card)}, which is not yet in force: it stays; to undo it, replace it"
        )
        for card in stored
        if card.valid_from_us > now_us and card_key(card) not in in_file
    )
    return merged


def _warnings(entry: Located[RateCard], now_us: int | None) -> list[Problem]:
    """`now_us` None: these are the first cards ever, so nothing is rated yet."""
    warnings = []
    if now_us is not None and entry.value.valid_from_us <= now_us:
        message = (
            "begins in the past: rows rated already keep their charge, only what is rated from now on gets this price"
        )
        warnings.append(entry.problem(message, "valid_from"))
    if missing := [kind for kind in KINDS if kind not in entry.value.pico_per_token]:
        message = f"has no price for {', '.join(missing)}: an event with such tokens stays unpriced (0 makes them free)"
        warnings.append(entry.problem(message, "per_million"))
    return warnings


def _refusal(old: RateCard, new: RateCard, now_us: int) -> str | None:
    """Why a card in force cannot become `new`; None: only its end moves, from the future into the future."""
    since = f"is in force since {time_text(old.valid_from_us)}"
    if dict(new.pico_per_token) != dict(old.pico_per_token) or new.approved_by != old.approved_by:
        what = "price" if dict(new.pico_per_token) != dict(old.pico_per_token) else "approval"
        return (
            f"{since}, and the file changes its {what}: leave this entry as it was and add a new one with a later "
            "valid_from"
        )
    if old.valid_to_us is not None and old.valid_to_us <= now_us:
        return f"ended at {time_text(old.valid_to_us)}: leave its valid_to as it was and add a new entry instead"
    if new.valid_to_us is not None and new.valid_to_us <= now_us:
        return f"{since}, and its new valid_to lies in the past: a price in force can only end in the future"
    return None


def _overlaps(cards: dict[Key, RateCard], listed: Sequence[Located[RateCard]]) -> list[Problem]:
    """A card with an end of its own must end by the time the next of its kind begins."""
    places = {card_key(entry.value): entry for entry in listed if entry.sound}
    problems = []
    in_order = sorted(
        cards.values(), key=lambda card: (card.provider, card.model, card.tenant or "", card.valid_from_us)
    )
    for card, following in itertools.pairwise(in_order):
        if card_key(card)[:3] != card_key(following)[:3]:
            continue
        if card.valid_to_us is None or card.valid_to_us <= following.valid_from_us:
            continue
        begins, ends = time_text(following.valid_from_us), time_text(card.valid_to_us)
        if entry := places.get(card_key(card)):
            message = (
                f"ends at {ends}, after the next price of its kind begins ({begins}): end it by then, or leave "
                "valid_to out and it ends where the next one begins"
            )
            problems.append(entry.problem(message, "valid_to"))
        elif entry := places.get(card_key(following)):
            message = (
                f"begins at {begins}, while {card_name(card)} holds to {ends}: begin then, or give that one an earlier "
                "valid_to in this file"
            )
            problems.append(entry.problem(message, "valid_from"))
    return problems
