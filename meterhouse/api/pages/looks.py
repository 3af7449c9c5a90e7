"""How a reader wants pages to look: a time zone and a theme, kept in a cookie that says nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final, Literal, get_args
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit
from zoneinfo import ZoneInfo, available_timezones

from fastapi import Request

COOKIE: Final = "meterhouse-look"
Theme = Literal["auto", "light", "dark"]
THEMES: Final = get_args(Theme)
OFFERED: Final = (
    "UTC", "Africa/Johannesburg", "Africa/Lagos", "America/Chicago", "America/Los_Angeles", "America/New_York",
    "America/Sao_Paulo", "Asia/Dubai", "Asia/Kolkata", "Asia/Shanghai", "Asia/Singapore", "Asia/Tokyo",
    "Australia/Sydney", "Europe/Berlin", "Europe/London", "Europe/Madrid", "Europe/Paris", "Europe/Warsaw",
    "Pacific/Auckland",
)  # fmt: skip
"""Of six hundred; any other may be written."""
LASTS_S: Final = 365 * 86_400
MAX_COOKIE: Final = 200


@dataclass(frozen=True, slots=True)
class Look:
    zone: str = "UTC"
    theme: Theme = "auto"

    @property
    def zone_info(self) -> ZoneInfo:
        return ZoneInfo(self.zone)

    @property
    def cookie(self) -> str:
        return urlencode({"zone": self.zone, "theme": self.theme})


def look_of(request: Request) -> Look:
    """What the cookie says; what it says wrongly is as not said."""
    text = request.cookies.get(COOKIE, "")
    said = {name: values[0] for name, values in parse_qs(text[:MAX_COOKIE]).items()}
    return chosen(said.get("zone"), said.get("theme"))


def chosen(zone: str | None, theme: str | None) -> Look:
    known = zone if zone is not None and zone in _zones() else "UTC"
    return Look(known, theme if theme in THEMES else "auto")  # type: ignore[arg-type]


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def within(path: str | None, otherwise: str = "/") -> str:
    """A path of this site to go on to; what would lead elsewhere is not followed."""
    if path is None or not path.startswith("/") or path.startswith(("//", "/\\")) or not path.isprintable():
        return otherwise
    parts = urlsplit(path)
    return path if not parts.scheme and not parts.netloc and "\\" not in path else otherwise


def page_of(request: Request, url: str | None) -> str:
    """Path and query of a page that a browser names, where it is one of this server's; the first page else."""
    try:
        parts = urlsplit(url or "")
    except ValueError:
        return within(None)
    if parts.netloc != request.headers.get("host"):
        return within(None)
    return within(urlunsplit(("", "", parts.path, parts.query, "")))
