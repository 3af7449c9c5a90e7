"""The organisation as a tree: what each org unit spent itself, and with all units below it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.streams.control import Snapshot
from meterhouse.streams.money import to_decimal, to_pico
from meterhouse.warehouse.books import Books
from meterhouse.warehouse.reports.as_of import AsOf, Freshness
from meterhouse.warehouse.reports.chargeback import Figures, chargeback
from meterhouse.warehouse.reports.errors import BooksError
from meterhouse.warehouse.reports.groups import Selection, org_path

Path = tuple[str, ...]
ROOT: Final[Path] = ()
"""Above all org units. Tenants without an org unit, and unknown ones, stand here."""


@dataclass(frozen=True, slots=True)
class TenantFigures:
    tenant: str
    figures: Figures  # of its time in the unit


@dataclass(frozen=True, slots=True)
class Node:
    """An org unit. `path` is that of its names from the root."""

    path: Path
    tenants: tuple[TenantFigures, ...]  # that stand in this very unit, by name
    own: Figures  # of those
    with_below: Figures  # and of all units below


@dataclass(frozen=True, slots=True)
class OrgTree:
    currency: str
    from_us: int
    to_us: int
    nodes: tuple[Node, ...]  # depth first, units of a node by name; the first is the root
    total: Figures
    as_of: AsOf


def org_tree(books: Books, snapshot: Snapshot, selection: Selection, freshness: Freshness | None = None) -> OrgTree:
    """Every unit with spend in the range, in it or below. A tenant that moved is in each unit with what it spent there.

    The nodes' own figures add up to the total, and the root's with all below are the total, exactly. Raises ReportError
    as `chargeback` does; BooksError when they are not.
    """
    report = chargeback(books, snapshot, selection, ("org_unit", "tenant"), freshness)
    paths = {org_path(place): place.org for places in snapshot.places_by_tenant().values() for place in places}
    standing: dict[Path, list[TenantFigures]] = {ROOT: []}
    for line in report.lines:
        here = TenantFigures(str(line.groups["tenant"]), line.figures)
        standing.setdefault(paths.get(line.groups["org_unit"], ROOT), []).append(here)
    below: dict[Path, list[Figures]] = {}
    for path, tenants in standing.items():
        for depth in range(len(path) + 1):
            below.setdefault(path[:depth], []).extend(each.figures for each in tenants)
    nodes = tuple(_node(path, standing.get(path, ()), below[path]) for path in sorted(below))
    if nodes[0].with_below != report.total:
        raise BooksError("the units do not add up to the total: run `meterhouse verify`")
    return OrgTree(report.currency, report.from_us, report.to_us, nodes, report.total, report.as_of)


def _node(path: Path, tenants: Sequence[TenantFigures], below: Sequence[Figures]) -> Node:
    return Node(path, tuple(tenants), added(each.figures for each in tenants), added(below))


def added(figures: Iterable[Figures]) -> Figures:
    """Sums of lines that have all token kinds."""
    each = list(figures)
    tokens = {kind.name: sum(one.tokens[kind.name] for one in each) for kind in TOKEN_KINDS}
    cost: Decimal = to_decimal(sum(to_pico(one.cost) for one in each))
    return Figures(
        sum(one.requests for one in each),
        sum(one.billed_requests for one in each),
        sum(one.unpriced_requests for one in each),
        tokens,
        cost,
    )
