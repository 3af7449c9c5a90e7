"""Callers, roles and permissions: values, and the one table that says which role may do what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from meterhouse.warehouse.view import EVERYTHING, View


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
    read_alerts = "read_alerts"
    answer_alerts = "answer_alerts"  # acknowledge, silence
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
    Role.finance: _READS,
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
    Role.auditor: _READS | {Permission.read_audit},
}

OF_ALL_TENANTS: Final = frozenset({Role.admin, Role.finance, Role.auditor})
"""Roles whose view is everything. A product owner's is that of its grants; a gateway's too, or everything."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request."""

    id: str  # `key:<id>`, `oidc:<subject>` or `local`: what the audit log calls them
    name: str
    role: Role
    view: View

    def may(self, permission: Permission) -> bool:
        return permission in PERMITTED[self.role]


LOCAL: Final = Caller("local", "this machine", Role.admin, EVERYTHING)
"""Whoever reaches a server that binds loopback only and has no keys."""
