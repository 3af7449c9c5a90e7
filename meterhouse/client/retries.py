"""Whether to ask again, and when."""

from __future__ import annotations

from dataclasses import dataclass

from meterhouse.client.errors import Conflict, MeterhouseError, Problem, RateLimited, Unavailable, Unreachable


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a call may take, all its attempts together, seconds, and how many there may be.

    Waits are drawn between nothing and what doubles from `first_s` to `longest_s` (full jitter, so that clients do not
    return all at once), after what the server asks for in `Retry-After`.
    """

    total_s: float = 60.0
    attempts: int = 10
    first_s: float = 0.1
    longest_s: float = 5.0

    def wait_s(self, attempt: int, retry_after_s: float | None, draw: float) -> float | None:
        """Before the next attempt; `attempt` counts from 0, `draw` is between 0 and 1. None: there is none."""
        if attempt + 1 >= self.attempts:
            return None
        return (retry_after_s or 0.0) + draw * min(self.longest_s, self.first_s * 2.0**attempt)


def may_help(failure: MeterhouseError, *, repeatable: bool) -> bool:
    """May asking again help, and do no harm?

    What was refused for its rate was not done, so anything may be asked again. What may have been done must be
    `repeatable`. A conflict with a time to wait is about the same write that is still under way.
    """
    if isinstance(failure, RateLimited):
        return True
    if isinstance(failure, Unreachable):
        return repeatable or not failure.may_be_done
    waits = isinstance(failure, Problem) and failure.retry_after_s is not None
    return repeatable and (isinstance(failure, Unavailable) or (isinstance(failure, Conflict) and waits))
