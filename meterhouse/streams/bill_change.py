"""Why a bill changed: the difference between two periods, split into what brought it about, exact to the pico-unit.

The cost of a tenant is V × Σ over models of s × Σ over token kinds of (t × c) × p, where V is all its tokens, s a
model's share of them, t the share of a *side* of the model's tokens (input, output, reasoning), c the share of a kind
in its side (how much of the input came from the cache), and p the average price of a token of the kind.

From the earlier period's factors to the later one's, one is put in place of the other at a time, in this order: volume
(V), model mix (s), output share (t), cache share (c), price (p). A part is the difference that its step makes. The
steps tell the whole way, so parts add up to the difference, with no rest. Models that only one period has cannot be
compared: what they cost is a part of its own (new, gone), and they are left out of V and s.

This is a price-volume-mix analysis by successive substitution. The order is a choice: of the 5! there are, each gives
other parts (Dietzenbacher and Los, "Structural decomposition techniques: sense and sensitivity", Economic Systems
Research 10, 1998). Prices come last, so that a new price is weighed with the tokens that are paid at it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from meterhouse.ingest.event import TOKEN_KINDS

PARTS: Final = ("price", "volume", "model_mix", "output_share", "cache_share", "new_models", "gone_models")

SIDES: Final = {kind.name: "input" if kind.name.startswith(("input", "cache_")) else kind.name for kind in TOKEN_KINDS}
"""Side by token kind: what is read from and written to the cache is input."""

Parts = Mapping[str, int]
"""Pico-units by name of PARTS."""
ModelKey = tuple[str, str]
"""Provider and model."""


@dataclass(frozen=True, slots=True)
class ModelUse:
    """What a tenant was billed for one model in a period."""

    tokens: Mapping[str, int]  # by kind
    pico: Mapping[str, int]  # cost by kind; none where there are no tokens

    @property
    def all_tokens(self) -> int:
        return sum(self.tokens.values())

    @property
    def all_pico(self) -> int:
        return sum(self.pico.values())


@dataclass(frozen=True, slots=True)
class ModelChange:
    """A model's share of the difference. The parts add up to now − before."""

    model: ModelKey
    before_pico: int
    now_pico: int
    parts: Parts


def explained(before: Mapping[ModelKey, ModelUse], now: Mapping[ModelKey, ModelUse]) -> list[ModelChange]:
    """One tenant's models of both periods, in order of their names.

    Each model's parts are rounded to whole pico-units by largest remainder, so that they add up to its difference, and
    those of all models to the tenant's. With the periods exchanged the differences change their sign, new and gone
    change places; the other parts change their sign only together, since each is then weighed by the other period.
    """
    old, new = ({key: use for key, use in period.items() if use.all_tokens} for period in (before, now))
    both = old.keys() & new.keys()
    volumes = tuple(sum(period[key].all_tokens for key in both) for period in (old, new))
    changes = []
    for key in sorted(old.keys() | new.keys()):
        if key in both:
            changes.append(_change(key, old[key], new[key], volumes))
        elif key in new:
            changes.append(ModelChange(key, 0, new[key].all_pico, _parts({"new_models": new[key].all_pico})))
        else:
            changes.append(ModelChange(key, old[key].all_pico, 0, _parts({"gone_models": -old[key].all_pico})))
    return changes


def _change(key: ModelKey, old: ModelUse, new: ModelUse, volumes: Sequence[int]) -> ModelChange:
    old_price, _ = _both(_prices(old), _prices(new))
    old_cache, new_cache = _both(_within_side(old), _within_side(new))
    old_side, new_side = _side_shares(old), _side_shares(new)
    old_share, new_share = Fraction(old.all_tokens, volumes[0]), Fraction(new.all_tokens, volumes[1])
    course = (
        Fraction(old.all_pico),
        volumes[1] * old_share * _unit_cost(old_side, old_cache, old_price),
        volumes[1] * new_share * _unit_cost(old_side, old_cache, old_price),
        volumes[1] * new_share * _unit_cost(new_side, old_cache, old_price),
        volumes[1] * new_share * _unit_cost(new_side, new_cache, old_price),
        Fraction(new.all_pico),
    )
    steps = ("volume", "model_mix", "output_share", "cache_share", "price")
    exact = {name: course[n + 1] - course[n] for n, name in enumerate(steps)}
    return ModelChange(key, old.all_pico, new.all_pico, _parts(_rounded(exact)))


Shares = Mapping[str, Fraction]


def _unit_cost(sides: Shares, within: Shares, prices: Shares) -> Fraction:
    """Pico-units of a model's average token."""
    return sum((sides[SIDES[kind]] * within[kind] * prices[kind] for kind in within if kind in prices), Fraction(0))


def _prices(use: ModelUse) -> dict[str, Fraction]:
    return {kind: Fraction(use.pico.get(kind, 0), count) for kind, count in use.tokens.items() if count}


def _side_tokens(use: ModelUse) -> dict[str, int]:
    sides = dict.fromkeys(SIDES.values(), 0)
    for kind, count in use.tokens.items():
        sides[SIDES[kind]] += count
    return sides


def _side_shares(use: ModelUse) -> dict[str, Fraction]:
    return {side: Fraction(count, use.all_tokens) for side, count in _side_tokens(use).items()}


def _within_side(use: ModelUse) -> dict[str, Fraction]:
    """Share of each kind in its side, of the sides that have tokens."""
    sides = _side_tokens(use)
    return {kind: Fraction(use.tokens.get(kind, 0), sides[side]) for kind, side in SIDES.items() if sides[side]}


def _both(old: Shares, new: Shares) -> tuple[Shares, Shares]:
    """What one period has no figure for, it has as the other: a kind that is used for the first time is not dearer."""
    return {**new, **old}, {**old, **new}


def _rounded(exact: Mapping[str, Fraction]) -> dict[str, int]:
    """Whole numbers with the same sum, which is whole: largest remainder, earlier ones first among equals."""
    floors = {name: value.numerator // value.denominator for name, value in exact.items()}
    missing = int(sum(exact.values())) - sum(floors.values())
    for name in sorted(exact, key=lambda name: floors[name] - exact[name])[:missing]:
        floors[name] += 1
    return floors


def _parts(known: Mapping[str, int]) -> Parts:
    return {name: known.get(name, 0) for name in PARTS}
