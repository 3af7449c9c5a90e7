"""The oracle of "why did my bill change": each step's bill written out token kind by token kind, in fractions.

It shares no code with the product. A step's bill is a count of tokens per model and kind at a price; the steps replace
the earlier period's counts by those that have one thing more of the later period.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

Model = tuple[str, str]
Period = Mapping[Model, Mapping[str, tuple[int, int]]]
"""Per model and token kind that has any: tokens, and what they cost in pico-units."""

PROMPT = ("input", "cache_read", "cache_write")
KINDS = (*PROMPT, "output", "reasoning")


def parts(before: Period, now: Period) -> dict[str, Fraction]:
    """The exact parts, not rounded."""
    found = dict.fromkeys(
        ("price", "volume", "model_mix", "output_share", "cache_share", "new_models", "gone_models"), Fraction(0)
    )
    common = [model for model in before if before[model] and now.get(model)]
    for model in now:
        if model not in common:
            found["new_models"] += sum(pico for _, pico in now[model].values())
    for model in before:
        if model not in common:
            found["gone_models"] -= sum(pico for _, pico in before[model].values())
    if not common:
        return found
    all_before = sum(tokens(before[model]) for model in common)
    all_now = sum(tokens(now[model]) for model in common)
    for model in common:
        old, new = before[model], now[model]
        counts: dict[str, Fraction] = {kind: Fraction(old.get(kind, (0, 0))[0]) for kind in KINDS}
        bills = [bill(counts, old, new)]
        more = Fraction(all_now, all_before)
        counts = {kind: count * more for kind, count in counts.items()}
        bills.append(bill(counts, old, new))
        there = Fraction(tokens(new)) / sum(counts.values())
        counts = {kind: count * there for kind, count in counts.items()}
        bills.append(bill(counts, old, new))
        prompt = Fraction(sum(new.get(kind, (0, 0))[0] for kind in PROMPT))
        had = sum(counts[kind] for kind in PROMPT)
        for kind in PROMPT:
            like = counts[kind] / had if had else Fraction(new.get(kind, (0, 0))[0]) / prompt if prompt else Fraction(0)
            counts[kind] = prompt * like
        for kind in ("output", "reasoning"):
            counts[kind] = Fraction(new.get(kind, (0, 0))[0])
        bills.append(bill(counts, old, new))
        counts = {kind: Fraction(new.get(kind, (0, 0))[0]) for kind in KINDS}
        bills.append(bill(counts, old, new))
        bills.append(Fraction(sum(pico for _, pico in new.values())))
        for number, name in enumerate(("volume", "model_mix", "output_share", "cache_share", "price")):
            found[name] += bills[number + 1] - bills[number]
    return found


def tokens(of: Mapping[str, tuple[int, int]]) -> int:
    return sum(count for count, _ in of.values())


def bill(
    counts: Mapping[str, Fraction], old: Mapping[str, tuple[int, int]], new: Mapping[str, tuple[int, int]]
) -> Fraction:
    """At the earlier period's average prices; a kind that it has none of costs what it costs in the later one."""
    cost = Fraction(0)
    for kind, count in counts.items():
        paid = old.get(kind) or new.get(kind)
        if count and paid:
            cost += count * Fraction(paid[1], paid[0])
    return cost
