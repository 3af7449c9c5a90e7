"""Silences: which alerts nobody is to hear of for a while, by whom and why. A silenced alert is kept and listed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from meterhouse.streams.alert import Alert, AlertKind

MAX_LENGTH_US: Final = 90 * 86_400 * 1_000_000
"""A quarter: longer than that nobody remembers why, and what is wrong is the threshold or the limit."""
MAX_TEXT: Final = 500
"""Characters of a name or a reason: enough for a sentence and a link."""
MAX_SILENCES: Final = 1_000
"""That are not over: each is asked of every alert, and more than this nobody overlooks."""


class BadSilence(ValueError):
    """It cannot be a silence; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """Alerts of `kind` (None: any) about `subject` (None: any, but one of the two is set) are not posted while
    `from_us <= now < until_us`. Raises BadSilence."""

    id: str
    kind: AlertKind | None = None
    subject: str | None = None
    from_us: int
    until_us: int
    by: str
    reason: str
    created_us: int

    def __post_init__(self) -> None:
        if self.kind is None and not self.subject:
            raise BadSilence("say what to silence: a subject (a budget, a model, a partition), a kind, or both")
        if not self.from_us < self.until_us:
            raise BadSilence("a silence ends after it begins")
        if self.until_us - self.from_us > MAX_LENGTH_US:
            raise BadSilence("a silence lasts at most 90 days: change the budget's thresholds or limit instead")
        for name, text in (("by", self.by), ("reason", self.reason)):
            if not text.strip() or len(text) > MAX_TEXT:
                raise BadSilence(f"`{name}` is a text of 1 to {MAX_TEXT} characters")


def matches(silence: Silence, alert: Alert, now_us: int) -> bool:
    """Is nobody to hear of `alert` now?"""
    return (
        silence.from_us <= now_us < silence.until_us
        and silence.kind in (None, alert.kind)
        and silence.subject in (None, alert.subject)
    )
