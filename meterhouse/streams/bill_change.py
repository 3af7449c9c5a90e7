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
    """The course of the model's cost, one factor after the other put in place. Most of a product cancels out (a share
    of tokens, times all tokens), so a step is worked out with one division where the formula has many."""
    course = (
        Fraction(old.all_pico),
        Fraction(old.all_pico * volumes[1], volumes[0]),  # V
        Fraction(old.all_pico * new.all_tokens, old.all_tokens),  # V, s
        _sides_at_old_shares(old, new),  # V, s, t
        sum((_at_old_price(old, new, kind) for kind in SIDES), Fraction(0)),  # V, s, t, c
        Fraction(new.all_pico),
    )
    steps = ("volume", "model_mix", "output_share", "cache_share", "price")
    exact = {name: course[n + 1] - course[n] for n, name in enumerate(steps)}
    return ModelChange(key, old.all_pico, new.all_pico, _parts(_rounded(exact)))


def _sides_at_old_shares(old: ModelUse, new: ModelUse) -> Fraction:
    """What the new tokens of each side cost at what an average token of the side cost before; of a side that is used
    for the first time, at their own."""
    before, after = _by_side(old), _by_side(new)
    at_old = (
        Fraction(after[side][0] * pico, tokens) if tokens else Fraction(after[side][1])
        for side, (tokens, pico) in before.items()
    )
    return sum(at_old, Fraction(0))


def _by_side(use: ModelUse) -> dict[str, tuple[int, int]]:
    """Tokens and pico-units of each side."""
    sides = dict.fromkeys(SIDES.values(), (0, 0))
    for kind, count in use.tokens.items():
        tokens, pico = sides[SIDES[kind]]
        sides[SIDES[kind]] = tokens + count, pico + use.pico.get(kind, 0)
    return sides


def _at_old_price(old: ModelUse, new: ModelUse, kind: str) -> Fraction:
    """What the new tokens of a kind cost at its price before; of a kind that is used for the first time, at its own."""
    before = old.tokens.get(kind, 0)
    pico = old.pico.get(kind, 0) if before else new.pico.get(kind, 0)
    return Fraction(new.tokens.get(kind, 0) * pico, before) if before else Fraction(pico)


def _rounded(exact: Mapping[str, Fraction]) -> dict[str, int]:
    """Whole numbers with the same sum, which is whole: largest remainder, earlier ones first among equals."""
    floors = {name: value.numerator // value.denominator for name, value in exact.items()}
    missing = int(sum(exact.values())) - sum(floors.values())
    for name in sorted(exact, key=lambda name: floors[name] - exact[name])[:missing]:
        floors[name] += 1
    return floors


def _parts(known: Mapping[str, int]) -> Parts:
    return {name: known.get(name, 0) for name in PARTS}
