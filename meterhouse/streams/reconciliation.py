"""Reconciliation: what gateways and model nodes say of the same requests, counted by kind, and when it is too much.

A *request* is all events of one tenant with one `request_id`; it is of exactly one of KINDS. Those of GAPS are what
somebody must look at: money or device time that only one side vouches for, or that both tell differently.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Final

from meterhouse.streams.alert import Alert, alert_id, rfc3339

GAPS: Final = ("tokens_differ", "gateway_only", "node_only", "refused_but_run")
"""`tokens_differ`: both saw it and count otherwise. `gateway_only`: tokens that no node tells of. `node_only`: work
that no gateway tells of. `refused_but_run`: work on what the gateway says it refused."""
KINDS: Final = ("matched", *GAPS, "pending", "no_node_needed", "no_node_events", "no_request_id")
"""`matched`: both saw it and agree. `pending`: it would be a gap, but may be waiting for its other half.
`no_node_needed`: refused, failed or answered without tokens, and no node tells of it. `no_node_events`: no node of its
provider tells of any request of its tenant. `no_request_id`: the gateway does not say which request it is."""
WITHOUT_REQUEST: Final = ("node_only", "refused_but_run")
"""Gaps whose device time no request stands for."""

LIMITS: Final = ("share", "requests", "device_s")
RELIEF_PERCENT: Final = 90
"""Of a limit: what falls to this is no longer news. Just below the limit it may be again in a minute."""
_HOUR_US: Final = 3_600 * 1_000_000
_SECOND_US: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Tally:
    """Requests, and the events of both sides that they are made of."""

    requests: int = 0
    gateway_events: int = 0
    node_events: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.requests + other.requests,
            self.gateway_events + other.gateway_events,
            self.node_events + other.node_events,
        )


@dataclass(frozen=True, slots=True)
class Counted:
    """Some requests by kind."""

    kinds: Mapping[str, Tally]  # each of KINDS
    device_us: int  # device time without a request
    last_gap_us: int | None = None  # when the newest of the gaps was; None: there is none, or it is not known

    @property
    def gaps(self) -> int:
        return sum(self.kinds[kind].requests for kind in GAPS)

    @property
    def compared(self) -> int:
        """Requests that both sides were expected to tell of, and had the time to."""
        return self.gaps + self.kinds["matched"].requests

    @property
    def share(self) -> Fraction | None:
        """Of the compared requests that are gaps; None: nothing was compared."""
        return Fraction(self.gaps, self.compared) if self.compared else None

    @property
    def all(self) -> Tally:
        return sum((self.kinds[kind] for kind in KINDS), Tally())


def added_up(parts: Iterable[Counted]) -> Counted:
    parts = list(parts)
    return Counted(
        {kind: sum((part.kinds[kind] for part in parts), Tally()) for kind in KINDS},
        sum(part.device_us for part in parts),
        max((part.last_gap_us for part in parts if part.last_gap_us is not None), default=None),
    )


@dataclass(frozen=True, slots=True)
class Limits:
    """What a tenant may have; more is exceeded. None: there is no such limit."""

    share: Decimal | None = Decimal("0.01")  # gaps of what was compared
    requests: int | None = None  # gaps
    device_s: int | None = None  # device time without a request, seconds

    def exceeded(self, counted: Counted, percent: int = 100) -> tuple[str, ...]:
        """Those of LIMITS that are exceeded, or this much of them is."""
        amounts = {
            "share": counted.share or Fraction(0),
            "requests": Fraction(counted.gaps),
            "device_s": Fraction(counted.device_us, _SECOND_US),
        }
        limits = {"share": self.share, "requests": self.requests, "device_s": self.device_s}
        return tuple(
            name
            for name in LIMITS
            if (limit := limits[name]) is not None and amounts[name] * 100 > Fraction(limit) * percent
        )


@dataclass(frozen=True, slots=True)
class Terms:
    """How requests are reconciled, and what is too much."""

    limits: Limits = Limits()
    grace_us: int = _HOUR_US  # so far apart are the events of a request, and so late is its other half


# -- alerts -----------------------------------------------------------------------------------------------------------


def reconciliation_alerts(tenants: Mapping[str, Counted], terms: Terms, now_us: int) -> dict[str, Alert]:
    """By tenant: the news that a limit is exceeded. The id is of the hour of the newest gap, so that lookouts which
    look a minute apart raise the same alert, and an episode after another one is another alert."""
    found = {}
    for tenant, counted in tenants.items():
        exceeded = terms.limits.exceeded(counted)
        if exceeded:
            hour = (counted.last_gap_us or now_us) // _HOUR_US
            found[tenant] = Alert(
                id=alert_id("reconciliation", tenant, hour),
                kind="reconciliation",
                subject=tenant,
                summary=_summary(tenant, counted),
                created_us=now_us,
                payload={
                    "scope": {"tenant": tenant},
                    "exceeded": list(exceeded),
                    "gaps": {kind: counted.kinds[kind].requests for kind in GAPS},
                    "compared": counted.compared,
                    "device_us_without_request": counted.device_us,
                    "newest": rfc3339(counted.last_gap_us),
                },
            )
    return found


def reconciliation_is_over(alert: Alert, tenants: Mapping[str, Counted], terms: Terms) -> str | None:
    """Why an open alert's reason is gone; None: it stands. While nodes are silent, or all is still pending, nothing is
    compared, and so nothing is known to be better."""
    counted = tenants.get(alert.subject)
    if counted is None:
        return "there is no event of it any more"
    if not counted.compared or terms.limits.exceeded(counted, RELIEF_PERCENT):
        return None
    return f"{counted.gaps:,} of {counted.compared:,} requests do not reconcile"


def _summary(tenant: str, counted: Counted) -> str:
    parts = [
        f"{counted.kinds[kind].requests:,} {kind.replace('_', ' ')}" for kind in GAPS if counted.kinds[kind].requests
    ]
    device = f", {counted.device_us // _SECOND_US:,} s of device time without a request" if counted.device_us else ""
    return (
        f"{tenant}: {counted.gaps:,} of {counted.compared:,} requests of the last day do not reconcile"
        f" ({', '.join(parts)}{device}); see `meterhouse reconcile`"
    )
