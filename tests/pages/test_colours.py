"""Colours can be read, and told apart by readers who do not tell all colours apart."""

from __future__ import annotations

import re
from importlib.resources import files
from itertools import combinations
from typing import Final

import pytest

CSS: Final = (files("meterhouse.api.pages") / "static" / "style.css").read_text(encoding="utf-8")
Rgb = tuple[float, ...]
# Machado, Oliveira and Fernandes 2009, severity 1.0: what of linear RGB is seen.
SEEN: Final = {
    "all": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
APART: Final = 15.0
"""Of CIELAB's distance, where 2.3 is just noticeable: what large areas side by side need."""


def theme(name: str) -> dict[str, str]:
    block = {"light": r":root \{(.*?)\n\}", "dark": r':root\[data-theme="dark"\] \{(.*?)\n\}'}[name]
    (found,) = re.findall(block, CSS, re.DOTALL)
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6});", found))


def linear(text: str) -> Rgb:
    digits = text[1:] if len(text) == 7 else "".join(2 * each for each in text[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    return tuple(each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts)


def contrast(one: str, other: str) -> float:
    """WCAG 2.2."""
    light = sorted(0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in (linear(one), linear(other)))
    return (light[1] + 0.05) / (light[0] + 0.05)


def lab(seen: Rgb) -> Rgb:
    rows = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    xyz = [sum(a * b for a, b in zip(row, seen, strict=True)) for row in rows]
    x, y, z = (
        each ** (1 / 3) if each > 0.008856 else 7.787 * each + 16 / 116
        for each in (part / white for part, white in zip(xyz, (0.9505, 1.0, 1.089), strict=True))
    )
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def test_the_dark_theme_is_one_whoever_chose_it() -> None:
    (by_system,) = re.findall(r':root\[data-theme="auto"\] \{(.*?)\n\} \}', CSS, re.DOTALL)
    assert dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6});", by_system)) == theme("dark")
    assert theme("dark").keys() == theme("light").keys()


@pytest.mark.parametrize("name", ["light", "dark"])
def test_text_and_drawings_stand_out_from_what_they_stand_on(name: str) -> None:
    colours = theme(name)
    texts = ("ink", "faint", "link", "more", "less", "bad", "warn", "good")
    weak = [text for text in texts for paper in ("paper", "sheet") if contrast(colours[text], colours[paper]) < 4.5]
    weak += [text for text in ("ink", "warn", "bad") if contrast(colours[text], colours["notice"]) < 4.5]
    drawn = [each for each in colours if each.startswith("series-")] + ["focus"]
    weak += [each for each in drawn if contrast(colours[each], colours["paper"]) < 3]
    assert weak == []
    assert contrast(colours["on-bar"], colours["bar"]) >= 4.5


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("name", ["light", "dark"])
def test_series_are_told_apart_by_every_eye(name: str, seen: str) -> None:
    colours = {each: linear(text) for each, text in theme(name).items() if each.startswith("series-")}
    assert len(colours) == 7
    shown = {
        each: lab(tuple(max(0.0, sum(a * b for a, b in zip(row, rgb, strict=True))) for row in SEEN[seen]))
        for each, rgb in colours.items()
    }
    near = {
        (one, other): round(sum((a - b) ** 2 for a, b in zip(shown[one], shown[other], strict=True)) ** 0.5, 1)
        for one, other in combinations(shown, 2)
    }
    assert {pair: distance for pair, distance in near.items() if distance < APART} == {}
