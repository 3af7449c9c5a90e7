"""The knobs of the simulator."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from meterhouse.ingest.formats.replay_rule import APPLICATIONS

HOUR_US: Final = 3_600 * 1_000_000
DAY_US: Final = 24 * HOUR_US

MAX_SPAN_DAYS: Final = 3_660
"""Ten years of hours are drawn one after another; a longer span is a slip in `rate`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A stream of arrivals, cut after `events` of them. Shares are of requests unless said otherwise.

    Raises ValueError with what to do when a knob cannot be.
    """

    seed: int  # of everything random
    events: int  # arrivals in all: requests, their resends, node events, poison
    start_us: int  # the first request ends about then
    tenants: tuple[str, ...]  # of control data, as are the models
    models: tuple[tuple[str, str], ...]  # (provider, model); one with "embed" in its name answers with no tokens
    rate: float = 50.0  # arrivals a second, the mean over a week
    applications: tuple[str, ...] = APPLICATIONS

    gateways: int = 6  # each a source, in one of three regions
    nodes: int = 12
    tenant_skew: float = 0.8  # tenant k (from 0) sends 1 / (k + 1)^skew of what the first one sends
    model_skew: float = 1.0  # the same for a tenant's favourite models; favourites differ from tenant to tenant
    rhythm: float = 1.0  # 0: the same rate at all hours; 1: office hours, evenings or nights, tenant by tenant

    cache_read_share: float = 0.40  # read 30-95 % of their input from a cache
    cache_write_share: float = 0.10  # write 20-80 % of what they did not read
    reasoning_share: float = 0.25  # spend 20-80 % of their output on reasoning
    error_share: float = 0.012
    aborted_share: float = 0.010
    throttled_share: float = 0.006
    blocked_share: float = 0.003
    node_share: float = 0.998  # of the requests that reach a model of the first provider, whose nodes are the
    # platform's own: their node reports device time too. All other providers are outside, and report none

    retry_share: float = 0.010  # are sent once more, up to half a minute later: the same id and source
    retry_other_time_share: float = 0.5  # of those: with another `time`
    late_share: float = 0.004  # arrive a minute to `late_up_to_us` after they ended
    late_up_to_us: int = 6 * HOUR_US
    network_us: int = 80_000  # mean time from a request's end to the log; so neighbours overtake each other
    poison_share: float = 0.001  # beside each request: an event or bytes that must be rejected, of every reason

    def __post_init__(self) -> None:
        for name in ("tenants", "models", "applications"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: give at least one (apply a control file first)")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_share") and not 0 <= value <= 1:
                raise ValueError(f"{field.name} is {value}: give a share from 0 to 1")
        if self.refused_or_failed_share > 1:
            raise ValueError("error, aborted, throttled and blocked shares add up to more than 1")
        for name, low in (("seed", 0), ("events", 0), ("gateways", 1), ("nodes", 1), ("network_us", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least {low}")
        if not 0 <= self.rhythm <= 1 or self.late_up_to_us < 60_000_000:
            raise ValueError("rhythm must be from 0 to 1, late_up_to_us at least a minute")
        if self.rate <= 0 or self.events / self.rate > MAX_SPAN_DAYS * 86_400:
            raise ValueError(f"{self.events} events at rate {self.rate} take over {MAX_SPAN_DAYS} days: raise the rate")

    @property
    def refused_or_failed_share(self) -> float:
        return self.error_share + self.aborted_share + self.throttled_share + self.blocked_share

    @property
    def own(self) -> list[bool]:
        """Of each model: whether it runs on the platform's own nodes."""
        return [provider == self.models[0][0] for provider, _ in self.models]

    @property
    def own_share(self) -> float:
        """Of the requests, those to models on the platform's own nodes, in the mean."""
        of_tenants = [1 / (place + 1) ** self.tenant_skew for place in range(len(self.tenants))]
        of_ranks = [1 / (rank + 1) ** self.model_skew for rank in range(len(self.models))]
        own = sum(
            tenant * rank
            for place, tenant in enumerate(of_tenants)
            for number, rank in enumerate(of_ranks)
            if self.own[(number + place) % len(self.models)]
        )
        return float(own / (sum(of_tenants) * sum(of_ranks)))

    @property
    def requests_per_second(self) -> float:
        """Of the arrivals: the mean rate of requests sent for the first time."""
        reached = self.own_share * (1 - self.throttled_share - self.blocked_share)
        return self.rate / (1 + self.retry_share + self.node_share * reached + self.poison_share)
