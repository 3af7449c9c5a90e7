"""Callers, roles and permissions: values, and the one table that says which role may do what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from meterhouse.warehouse.view import EVERYTHING, Grant, View


class Role(StrEnum):
    admin = "admin"
    finance = "finance"  # reads the figures of all tenants
    product_owner = "product_owner"  # reads those of its tenants, or of applications of theirs
    gateway = "gateway"  # publishes events, asks for admissions
    auditor = "auditor"  # reads everything, the audit log too


class Permission(StrEnum):
    publish = "publish"
    admit = "admit"
    read_budget_states = "read_budget_states"  # of all tenants, as a gate needs them
    read_prices = "read_prices"
    read_reports = "read_reports"
    export = "export"
    read_rejects = "read_rejects"
    resolve_rejects = "resolve_rejects"  # send again, repair, discard: of all tenants
    read_alerts = "read_alerts"
    answer_alerts = "answer_alerts"  # acknowledge, silence
    read_quality = "read_quality"  # of all tenants' data
    read_audit = "read_audit"
    manage_keys = "manage_keys"
    read_self = "read_self"  # who am I, and what may I do?


_READS: Final = frozenset(
    {
        Permission.read_prices,
        Permission.read_reports,
        Permission.export,
        Permission.read_rejects,
        Permission.read_alerts,
        Permission.read_self,
    }
)

PERMITTED: Final[Mapping[Role, frozenset[Permission]]] = {
    Role.admin: frozenset(Permission),
    Role.finance: _READS | {Permission.read_quality},
    Role.product_owner: _READS | {Permission.answer_alerts},
    Role.gateway: frozenset(
        {
            Permission.publish,
            Permission.admit,
            Permission.read_budget_states,
            Permission.read_prices,
            Permission.read_self,
        }
    ),
    Role.auditor: _READS | {Permission.read_quality, Permission.read_audit},
}

OF_ALL_TENANTS: Final = frozenset({Role.admin, Role.finance, Role.auditor})
"""Roles whose view is everything. A product owner's is that of its grants; a gateway's too, or everything."""


class Family(StrEnum):
    """Permissions whose requests are counted together, against one rate."""

    ingest = "ingest"
    admissions = "admissions"
    reports = "reports"
    exports = "exports"


FAMILIES: Final[Mapping[Permission, Family]] = {
    Permission.publish: Family.ingest,
    Permission.admit: Family.admissions,
    Permission.export: Family.exports,
}
"""The others are reports: things that people and scheduled programs ask for."""


class RoleMisfit(ValueError):
    """These grants do not go with the role; the message says which would."""


def grant_of(text: str) -> Grant:
    """`tenant`, or `tenant/application`."""
    tenant, slash, application = text.partition("/")
    if not tenant or (slash and not application):
        raise RoleMisfit(f"{text!r} is no grant: write `tenant` or `tenant/application`")
    return Grant(tenant, application or None)


def check_grants(role: Role, grants: Sequence[Grant] | None) -> None:
    """Raises RoleMisfit."""
    if role in OF_ALL_TENANTS and grants is not None:
        raise RoleMisfit(f"the role {role} sees all tenants and takes no grants: leave them out, or use product_owner")
    if role is Role.product_owner and not grants:
        raise RoleMisfit("the role product_owner needs a grant at least: a tenant, or an application of one")


def view_of(role: Role, grants: Sequence[Grant] | None, known: frozenset[str]) -> View:
    """What a caller sees: grants of tenants that control data does not know any more are void."""
    if role in OF_ALL_TENANTS or (role is Role.gateway and grants is None):
        return EVERYTHING
    return View(tuple(grant for grant in grants or () if grant.tenant in known))


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request."""

    id: str  # `key:<id>`, `oidc:<subject>` or `local`: what the audit log calls them
    name: str
    role: Role
    view: View

    def may(self, permission: Permission) -> bool:
        return permission in PERMITTED[self.role]

    def signs(self, by: str | None) -> str:
        """The name under what the caller does. Nobody signs for another: a name that the caller gives stands beside its
        own. Only where nobody is asked who they are it is all there is, and empty where none is given."""
        if self is LOCAL:
            return by or ""
        return self.name if by is None or by == self.name else f"{by} (via {self.name})"


LOCAL: Final = Caller("local", "this machine", Role.admin, EVERYTHING)
"""Whoever reaches a server that binds loopback only and has no keys."""


class NotAuthenticated(Exception):
    """Credentials that are none. `reason`: for the audit log, never told to whoever sent them. `said`: what is told."""

    def __init__(self, reason: str, said: str = "", claimed: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.said, self.claimed = reason, said, claimed
