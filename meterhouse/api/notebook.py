"""How a notebook gets at the books: it asks `warehouse.reports` itself, and constructs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from meterhouse.api.auth.caller import grant_of
from meterhouse.api.figures import Reports
from meterhouse.api.moment import Moment
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.warehouse.view import EVERYTHING, View

__all__ = ["Moment", "opened"]


@contextmanager
def opened(*seen: str, settings: Settings | None = None) -> Iterator[Moment]:
    """The books of the house that the settings name (METERHOUSE_HOME and its like), as they are now, to read.

    `seen` cuts them to tenants, or to applications as `tenant/application`; without any they are whole. That is for
    figures that belong together, not for secrecy: who runs a notebook can read the house.
    Raises LakeError, LogError and ControlUnavailable, as reports do.
    """
    view = View(tuple(map(grant_of, seen))) if seen else EVERYTHING
    with House(settings or Settings()) as house, Reports(house, view).moment() as moment:
        yield moment
