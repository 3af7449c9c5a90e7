"""What someone may see: a value that everything which reads for them is cut to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from meterhouse.streams.control import Objective, Scope, Snapshot


@dataclass(frozen=True, slots=True, order=True)
class Grant:
    """A tenant, or one application of it."""

    tenant: str
    application: str | None = None  # None: all of the tenant

    def __str__(self) -> str:
        return self.tenant if self.application is None else f"{self.tenant}/{self.application}"


@dataclass(frozen=True, slots=True)
class View:
    """The rows that are seen: those of any grant; `grants` None: all there are."""

    grants: tuple[Grant, ...] | None

    @property
    def is_whole(self) -> bool:
        return self.grants is None

    @property
    def tenants(self) -> frozenset[str] | None:
        """Tenants of which anything is seen; None: all."""
        return None if self.grants is None else frozenset(grant.tenant for grant in self.grants)

    @property
    def whole_tenants(self) -> frozenset[str] | None:
        """Tenants of which everything is seen; None: all."""
        return None if self.grants is None else frozenset(g.tenant for g in self.grants if g.application is None)

    def only_whole(self) -> View:
        """The tenants that are seen whole, and nothing of others: for what cannot be told by application."""
        return self if self.grants is None else View(tuple(g for g in self.grants if g.application is None))

    def sees(self, tenant: str, application: str | None = None) -> bool:
        """Whether all rows of this tenant, or of its application, are seen."""
        return self.grants is None or any(
            grant.tenant == tenant and grant.application in (None, application) for grant in self.grants
        )

    def sees_all_of(self, scope: Scope) -> bool:
        """Whether all that a budget or an objective looks at is seen: without a tenant, that is all tenants."""
        return self.grants is None or (scope.tenant is not None and self.sees(scope.tenant, scope.application))

    def cut(self, snapshot: Snapshot) -> Snapshot:
        """The control data that is seen.

        Prices are list prices and the tenants' own. Budgets are those of which all is seen: what is spent of another
        one would tell of others. Objectives are those that look at anything that is seen: their figures are those of
        the rows that are seen.
        """
        if self.grants is None:
            return snapshot
        tenants = {grant.tenant for grant in self.grants}
        return replace(
            snapshot,
            tenants=tuple(tenant for tenant in snapshot.tenants if tenant.id in tenants),
            places=tuple(place for place in snapshot.places if place.tenant in tenants),
            rate_cards=tuple(card for card in snapshot.rate_cards if card.tenant is None or card.tenant in tenants),
            budgets=tuple(budget for budget in snapshot.budgets if self.sees_all_of(budget.scope)),
            objectives=tuple(each for each in snapshot.objectives if self._sees_any_of(each, snapshot)),
        )

    def _sees_any_of(self, objective: Objective, snapshot: Snapshot) -> bool:
        scope = objective.scope
        in_unit = {t.id for t in snapshot.tenants if scope.org_unit is None or scope.org_unit in t.org}
        return any(
            scope.tenant in (None, grant.tenant)
            and grant.tenant in in_unit
            and (scope.application is None or grant.application in (None, scope.application))
            for grant in self.grants or ()
        )


EVERYTHING: Final = View(None)
"""What an operator at the machine sees, and roles that look at all tenants."""
