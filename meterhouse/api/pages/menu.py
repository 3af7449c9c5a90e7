"""The pages there are, and who is shown which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from meterhouse.api.auth.caller import Caller, Permission


@dataclass(frozen=True, slots=True)
class Entry:
    """A page in the menu. `permission` is the one that its route asks for."""

    path: str
    title: str
    permission: Permission


MENU: Final = (
    Entry("/overview", "Overview", Permission.read_reports),
    Entry("/chargeback", "Chargeback", Permission.read_reports),
    Entry("/application", "Applications", Permission.read_reports),
    Entry("/slo", "Objectives", Permission.read_reports),
    Entry("/budgets", "Budgets", Permission.read_reports),
    Entry("/rejects", "Rejects", Permission.read_rejects),
    Entry("/rate-cards", "Rate cards", Permission.read_reports),
    Entry("/pipeline", "Pipeline", Permission.read_quality),
    Entry("/audit", "Audit", Permission.read_audit),
)


def menu_of(who: Caller | None) -> list[Entry]:
    return [entry for entry in MENU if who is not None and who.may(entry.permission)]
