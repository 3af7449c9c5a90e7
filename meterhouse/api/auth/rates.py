"""How many requests a caller may make: so many a minute of each family, counted in this server's memory."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Final

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from meterhouse.api.auth.caller import FAMILIES, LOCAL, Caller, Family, Permission
from meterhouse.api.problems import Problem

WINDOW_S: Final = 60


class Rates:
    """A fixed window: one counter for each caller and family, however fast they ask. At the turn of two windows a
    caller may get through twice its rate, which harms nobody: rates protect the server, budgets the money."""

    def __init__(self, per_minute: Mapping[str, int]) -> None:
        self._items = {family: RateLimitItemPerMinute(per_minute[family]) for family in Family}
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    def count(self, who: Caller, permission: Permission) -> None:
        """Counts a request. Raises Problem (`rate-limited`)."""
        if who is LOCAL:
            return
        family = FAMILIES.get(permission, Family.reports)
        item = self._items[family]
        if self._limiter.hit(item, who.id, family):
            return
        left_s = max(1, math.ceil(self._limiter.get_window_stats(item, who.id, family).reset_time - time.time()))
        raise Problem(
            "rate-limited",
            f"More than {item.amount:,} requests of the family `{family}` within a minute. Try again in {left_s} s,"
            " send more events in one body, or ask whoever runs this server for a higher rate.",
            headers={
                "Retry-After": str(left_s),
                "RateLimit-Policy": f'"{family}";q={item.amount};w={WINDOW_S}',
                "RateLimit": f'"{family}";r=0;t={left_s}',
            },
        )
