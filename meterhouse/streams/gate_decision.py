"""What a gate decides about a request."""

from __future__ import annotations

from typing import Literal

import msgspec

Outcome = Literal["allow", "throttle", "refuse"]
Reason = Literal["exceeded", "does_not_fit", "reserved", "stale", "throttled", "not_ready", "too_many"]
"""Why a request is not admitted.

`exceeded`: the limit is spent · `does_not_fit`: less is left than the request may cost · `reserved`: it would fit if
what runs now turned out cheaper · `stale`: the spend is not known, and the budget is closed then · `throttled`: the
limit is spent, and the throttle's rate used up · `not_ready`: the feed has not caught up · `too_many`: as many
reservations are held as may be.
"""


class Quota(msgspec.Struct, frozen=True, gc=False):
    """A budget as this gate sees it."""

    budget_id: str
    unit: str  # the currency, or `tokens`
    limit: int  # pico-units, or tokens
    remaining: int  # of the limit, this gate's own amounts taken off
    window_start_us: int
    window_end_us: int


class Decision(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What becomes of a request. `reason`, `budget_id` and `window_end_us` say which budget decided, where one did."""

    outcome: Outcome
    reason: Reason | None = None
    budget_id: str | None = None
    window_end_us: int | None = None
    retryable: bool = False
    retry_after_s: int | None = None  # with `retryable`
    throttle_per_minute: int | None = None  # the rate in force, of requests of this gate
    reservation: str | None = None  # to be settled or cancelled
    tightest: Quota | None = None  # of all budgets that look at the request
    now_us: int = 0  # when it was decided

    @property
    def admitted(self) -> bool:
        return self.outcome == "allow"
