"""Figures in a reader's words: money, counts, shares, times. The one place where a page's figure is rounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import cycle, islice
from typing import Final

from markupsafe import Markup, escape

from meterhouse.streams.money import from_text, round_half_even, rounded_lines

NOTHING: Final = "–"
"""Stands where there is no figure, which is not the figure 0."""
_STEPS_OF_TWELVE: Final = 12


@dataclass(frozen=True, slots=True)
class Amount:
    """A figure as it is shown, and exactly as the API says it: a page rounds once, here."""

    shown: str
    exact: str  # money has twelve decimals

    def __html__(self) -> str:
        return Markup('<data value="{}">{}</data>').format(self.exact, self.shown)

    @property
    def sign(self) -> int:
        """Of what is shown: -1, 0 or 1."""
        return 0 if not self.shown.strip("+−0.") else -1 if self.shown.startswith("−") else 1


def decimals_for(total: str) -> int:
    """Two, and more where all there is is less than a unit: cents would show nothing of it."""
    pico = abs(from_text(total))
    if pico == 0 or pico >= 10**12:
        return 2
    return 4 if pico >= 10**10 else 6


def amount(exact: str, decimals: int | None = None) -> Amount:
    """One amount by itself, rounded half-even."""
    places = decimals_for(exact) if decimals is None else decimals
    steps = round_half_even(from_text(exact), 10 ** (_STEPS_OF_TWELVE - places))
    return Amount(_shown(Decimal(steps).scaleb(-places), places), exact)


def column(exacts: Sequence[str], decimals: int = 2) -> tuple[list[Amount], Amount]:
    """Lines and their total such that what is shown adds up too (largest remainder)."""
    pico = [from_text(each) for each in exacts]
    lines, total = rounded_lines(pico, decimals)
    exact_total = f"{Decimal(sum(pico)).scaleb(-_STEPS_OF_TWELVE):.12f}"
    shown = [Amount(_shown(line, decimals), exact) for line, exact in zip(lines, exacts, strict=True)]
    return shown, Amount(_shown(total, decimals), exact_total)


def parts_of(whole: Amount, exacts: Sequence[str], decimals: int = 2) -> list[Amount]:
    """Parts of an amount that add up to it as it is shown. `column` cannot promise that where the whole is itself a
    difference of shown amounts: it may be a step away from what its parts come to."""
    lines, total = column(exacts, decimals)
    numbers = [_number(line.shown) for line in lines]
    step = Decimal(1).scaleb(-decimals)
    missing = int((_number(whole.shown) - _number(total.shown)) / step)
    up = 1 if missing > 0 else -1
    by_error = sorted(range(len(lines)), key=lambda at: up * (numbers[at] - Decimal(exacts[at])))
    for at in islice(cycle(by_error), abs(missing)):  # the parts that were rounded farthest the other way come first
        numbers[at] += up * step
    return [Amount(_shown(number, decimals), exact) for number, exact in zip(numbers, exacts, strict=True)]


def shares(exacts: Sequence[str], decimals: int = 1) -> list[str]:
    """What part of all of them each is, as percent that add up to 100 as they are shown."""
    pico = [from_text(each) for each in exacts]
    whole = sum(pico)
    if not whole:
        return [NOTHING] * len(pico)
    lines, _ = rounded_lines([each * 100 * 10**_STEPS_OF_TWELVE // whole for each in pico], decimals)
    return [f"{_shown(line, decimals)} %" for line in lines]


def difference(now: Amount, before: Amount, exact: str, decimals: int = 2) -> Amount:
    """Of two shown amounts, so that a reader who subtracts finds the same."""
    shown = _number(now.shown) - _number(before.shown)
    sign = "+" if shown > 0 else ""
    return Amount(sign + _shown(shown, decimals), exact)


def decimals_of(number: str) -> int:
    return len(number.partition(".")[2])


def padded(number: str, decimals: int) -> str:
    """A price as it was written, with room where others of its column have more decimals: points stand under points."""
    return number + "\N{FIGURE SPACE}" * (decimals - decimals_of(number))


def count(number: int | None) -> str:
    return NOTHING if number is None else f"{number:,}"


def whole(number: int) -> Amount:
    """A count that charts draw."""
    return Amount(count(number), str(number))


def percent(part: float | Decimal | None, decimals: int = 1) -> Amount | None:
    """A ratio that charts draw, as percent: its unit is said by the chart."""
    if part is None:
        return None
    return Amount(share(str(part), decimals).removesuffix(" %"), f"{Decimal(str(part)) * 100:f}")


def seconds(milliseconds: float | None) -> Amount | None:
    """A duration in seconds, to the millisecond; its unit stands beside it."""
    if milliseconds is None:
        return None
    exact = Decimal(str(milliseconds)) / 1000
    return Amount(f"{exact.quantize(Decimal('0.001'), ROUND_HALF_EVEN):,f}", f"{exact:f}")


def measured(text: str, unit: str, like: str | None = None) -> Amount:
    """An amount of a budget: money, with as many decimals as `like`, or tokens where that is its unit."""
    return whole(int(Decimal(text))) if unit == "tokens" else amount(text, decimals_for(like or text))


def of(part: str, whole: str) -> str | None:
    """A ratio; None where the whole is nothing."""
    return str(Decimal(part) / Decimal(whole)) if Decimal(whole) else None


def share(part: str | float | None, decimals: int = 1, *, sign: bool = False) -> str:
    """A ratio as percent: 0.25 → 25.0 %."""
    if part is None:
        return NOTHING
    percent = (Decimal(str(part)) * 100).quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_EVEN)
    return f"{_minus(f'{percent:+,}' if sign and percent else f'{percent:,}')} %"


def instant(text: str | datetime | None, zone: tzinfo = UTC) -> Markup:
    """A time of the API in the reader's zone, to the minute; a machine reads it exactly."""
    if text is None:
        return Markup(NOTHING)
    moment = datetime.fromisoformat(text) if isinstance(text, str) else text
    shown = moment.astimezone(zone).strftime("%-d %b %Y, %H:%M")
    return Markup('<time datetime="{}">{}</time>').format(moment.astimezone(UTC).isoformat(), shown)


def day(text: str) -> str:
    """A date of UTC: 1 Nov 2026."""
    return datetime.fromisoformat(text).strftime("%-d %b %Y")


def day_of_month(text: str) -> str:
    """A date on an axis, whose range says the year: 1 Nov."""
    return datetime.fromisoformat(text).strftime("%-d %b")


def span(seconds: float | None) -> str:
    """How long: 42 s, 5 min, 3 h, 2 days."""
    if seconds is None:
        return NOTHING
    for name, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"


def code(text: str) -> Markup:
    """A text with its `quoted names` as code."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(part) if at % 2 else part for at, part in enumerate(parts))


def _shown(amount: Decimal, decimals: int) -> str:
    return _minus(f"{amount:,.{decimals}f}")


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _number(shown: str) -> Decimal:
    return Decimal(shown.replace("−", "-").replace(",", "").lstrip("+"))
