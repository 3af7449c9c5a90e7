"""The snapshot of control data that processors work from: immutable, versioned, pure values.

A snapshot is loaded by `warehouse.control` and polled; each charge stores the version that rated it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Literal

from meterhouse.ingest.formats.event_types import EventType

EVER_US: Final = 0
"""Where a tenant's first place begins: before any event."""


@dataclass(frozen=True, slots=True)
class Tenant:
    id: str
    name: str
    org: tuple[str, ...] = ()  # from the root to the leaf; the tenant belongs to each of these org units
    cost_center: str | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tenant stands in the organisation, and who pays for it, from `from_us` until its next place begins."""

    tenant: str
    from_us: int  # EVER_US: its first one
    org: tuple[str, ...] = ()
    cost_center: str | None = None

    def is_as(self, other: Place | Tenant) -> bool:
        """Whether both are the same org unit and cost center."""
        return (self.org, self.cost_center) == (other.org, other.cost_center)


@dataclass(frozen=True, slots=True)
class RateCard:
    """Prices of one model from `valid_from_us` on: pico-units of the currency per token, by token kind.

    In force at t: of the cards of (provider, model, tenant) with valid_from <= t < valid_to, the latest; a card of the
    event's tenant (a negotiated price) wins over the list price (tenant None). A card is never edited once in force.
    """

    id: int  # the card version that a charge stores
    provider: str
    model: str
    tenant: str | None
    valid_from_us: int
    valid_to_us: int | None
    pico_per_token: Mapping[str, int]  # by token kind; an event with tokens of a kind without a price is unpriced
    approved_by: str | None = None


@dataclass(frozen=True, slots=True)
class Scope:
    """Which events a budget or an objective looks at: each part that is set must match."""

    tenant: str | None = None
    org_unit: str | None = None
    application: str | None = None
    model: str | None = None


Every = Literal["day", "week", "month"]
OnExceeded = Literal["notify", "throttle", "block"]
WhenStale = Literal["open", "closed"]


@dataclass(frozen=True, slots=True)
class WindowSpec:
    every: Every
    time_zone: str  # IANA; a day, week (from Monday) or month of this zone's calendar


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit on spend or on tokens per window. Exactly one of the two limits is set."""

    id: str
    scope: Scope
    window: WindowSpec
    limit_pico: int | None
    limit_tokens: int | None  # all kinds added up
    thresholds: tuple[Decimal, ...]  # percent of the limit, ascending
    on_exceeded: OnExceeded
    throttle_per_minute: int = 60  # requests that one gate lets through while `throttle` is in force
    when_stale: WhenStale = "open"  # what a gate does when it cannot know the spend: go on from the last, or refuse
    stale_after_s: int = 60  # how old the spend may be before that


@dataclass(frozen=True, slots=True)
class Objective:
    """A service level objective over a rolling window of days."""

    id: str
    scope: Scope
    sli: Literal["duration", "time_to_first_token", "availability"]
    below_ms: int | None  # for the two latencies: good is strictly below
    target: Decimal  # share of good, 0 < target < 1
    window_days: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Control data of one version. Orders are those of the control file (the replay rule counts on them)."""

    version: int  # 0: nothing applied yet
    currency: str
    tenants: tuple[Tenant, ...] = ()
    rate_cards: tuple[RateCard, ...] = ()
    budgets: tuple[Budget, ...] = ()
    objectives: tuple[Objective, ...] = ()
    event_types: tuple[EventType, ...] = ()  # of foreign clients, laid over the built-in ones
    strict_tenants: bool = True  # an unknown tenant's events are rejected
    places: tuple[Place, ...] = ()
    """Of the tenants that ever moved, by tenant and time: each tenant's last one is where `tenants` says. Others have
    stood there for ever. Only reports look at it: budgets and objectives go by `tenants`."""

    def places_by_tenant(self) -> Mapping[str, Sequence[Place]]:
        """Every tenant's places, oldest first; the first is from EVER_US."""
        moved: dict[str, list[Place]] = {}
        for place in self.places:
            moved.setdefault(place.tenant, []).append(place)
        return {t.id: moved.get(t.id) or [Place(t.id, EVER_US, t.org, t.cost_center)] for t in self.tenants}

    @property
    def known_tenants(self) -> frozenset[str] | None:
        """Whose events are taken; None: anyone's."""
        return frozenset(tenant.id for tenant in self.tenants) if self.strict_tenants else None

    @property
    def models(self) -> tuple[tuple[str, str], ...]:
        """(provider, model) in order of first appearance in the rate card."""
        return tuple(dict.fromkeys((card.provider, card.model) for card in self.rate_cards))


EMPTY = Snapshot(version=0, currency="USD")
