"""What reports can be grouped and filtered by: one fixed table of names, from which all SQL columns come.

Days, hours and months are those of UTC.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.streams.control import Place, Scope, Snapshot, Tenant
from meterhouse.warehouse.reports.errors import ReportError
from meterhouse.warehouse.reports.places import (
    SETTLED,
    STAY_KEY,
    Stay,
    among,
    check_stays,
    cut_at_moves,
    rows_json,
    rows_sql,
    stays_of,
    tenants_sql,
)
from meterhouse.warehouse.reports.query import DAY_US, HOUR_US, Condition, Piece, pieces

MAX_LINES: Final = 100_000
"""Lines of one report: some 30 MB of JSON, and what a spreadsheet still opens. Beyond it, group coarser."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Group:
    """A column of lines: `key` is what roll-ups and charges are grouped by for it, `line` the value that is shown."""

    name: str
    key: str  # name of the facts' column
    key_sql: str  # over a row of roll-ups or charges
    line_sql: str  # over a row of facts, joined with ORG and KINDS
    shown_as: str | None = None  # strftime of a time; None: the text itself

    def label(self, value: Any) -> str | None:
        """The value as lines show it; null stays null."""
        if value is None or self.shown_as is None:
            return None if value is None else str(value)
        return datetime_of(int(value)).strftime(self.shown_as)


def _plain(name: str) -> Group:
    return Group(name, name, f'"{name}"', f'"{name}"')


_TIME_US: Final = 'epoch_us("time")'  # of UTC, whatever the session's time zone


def floor_sql(unit_us: int) -> str:
    """Start of the UTC minute, hour or day of a row's time, in microseconds."""
    return f"{_TIME_US} - {_TIME_US} % {unit_us:d}"


GROUPS: Final[Mapping[str, Group]] = {
    group.name: group
    for group in (
        _plain("tenant"),
        Group("org_unit", "tenant", '"tenant"', "org_unit"),
        Group("cost_center", "tenant", '"tenant"', "cost_center"),
        _plain("application"),
        _plain("environment"),
        _plain("model"),
        _plain("provider"),
        _plain("operation"),
        Group("kind", "", "", "kind"),
        Group("day", "day_us", floor_sql(DAY_US), "day_us", "%Y-%m-%d"),
        Group("hour", "hour_us", floor_sql(HOUR_US), "hour_us", "%Y-%m-%dT%H:%M:%SZ"),
        Group(
            "month",
            "month_us",
            f"epoch_us(date_trunc('month', make_timestamp({_TIME_US})))",
            "month_us",
            "%Y-%m",
        ),
    )
}
TIME_GROUPS: Final = ("day", "hour", "month")
FILTERS: Final = tuple(name for name in GROUPS if name not in (*TIME_GROUPS, "kind"))
Filters = Mapping[str, Sequence[str | None]]
"""Name (one of FILTERS) → the values that count; None stands for absent."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What a report looks at: requests that ended in [from_us, to_us), microseconds UTC, and match all filters."""

    from_us: int
    to_us: int
    filters: Filters = field(default_factory=dict)


def chosen(group_by: Sequence[str], known: Sequence[str] = tuple(GROUPS)) -> list[Group]:
    """The groups of these names. Raises ReportError that lists the known ones, or names a repeated one."""
    for name in group_by:
        if name not in known:
            raise ReportError(f"there is no group {name!r}: use any of {', '.join(known)}")
        if list(group_by).count(name) > 1:
            raise ReportError(f"group {name!r} is given twice: name it once")
    return [GROUPS[name] for name in group_by]


def in_order(values: Sequence[str | None]) -> list[tuple[bool, str]]:
    """What lines are sorted by: their groups' values, absent ones first."""
    return [(value is not None, value or "") for value in values]


def fact_keys(groups: Sequence[Group]) -> dict[str, str]:
    """The facts' key columns that these groups need."""
    return {group.key: group.key_sql for group in groups if group.key}


_ORG_COLUMNS: Final = {
    "org_tenant": "VARCHAR",
    "org_stay": "INTEGER",
    "org_unit": "VARCHAR",
    "cost_center": "VARCHAR",
}
ORG: Final = rows_sql("org", _ORG_COLUMNS)
"""Stays of tenants as a relation: the path of org units, and the cost center."""
KINDS: Final = "(SELECT unnest($kinds::VARCHAR[]) AS kind)"
_BY_PLACE: Final = frozenset({"org_unit", "cost_center"})


@dataclass(frozen=True, slots=True)
class Source:
    """What a report is made from: the pieces that are read and which of their rows count, and what `facts` of them are
    joined with for the groups."""

    parts: Sequence[Piece]
    where: Condition
    joined: str
    params: Mapping[str, Any]  # of `joined`


def source_of(selection: Selection, snapshot: Snapshot, groups: Sequence[Group], coarsest: str) -> Source:
    """A tenant counts for an org unit and a cost center while it stood there, to the microsecond.

    Raises ReportError on an unknown filter, and when more moves lie in the range than a report takes.
    """
    names = {group.name for group in groups}
    kinds = f" CROSS JOIN {KINDS} AS kinds" if "kind" in names else ""
    params: dict[str, Any] = {"kinds": [kind.name for kind in TOKEN_KINDS]} if kinds else {}
    parts = pieces(selection.from_us, selection.to_us, coarsest)
    where = _filtered(selection.filters)
    if not _BY_PLACE & (names | set(selection.filters)):
        return Source(parts, where, f"facts{kinds}", params)
    stays, moved = _stays(selection, snapshot)
    if _BY_PLACE & set(selection.filters):
        where &= _of_tenants({stay.place.tenant for stay in stays})
    parts = cut_at_moves(parts, coarsest, [stay for stay in stays if stay.number != SETTLED], moved)
    if not _BY_PLACE & names:
        return Source(parts, where, f"facts{kinds}", params)
    rows = ((stay.place.tenant, stay.number, org_path(stay.place), stay.place.cost_center) for stay in stays)
    params["org"] = rows_json(_ORG_COLUMNS, rows)
    org = f" LEFT JOIN {ORG} AS org ON org_tenant = tenant AND org_stay = {STAY_KEY}"
    return Source(parts, where, f"facts{org}{kinds}", params)


def org_path(place: Place | Tenant) -> str | None:
    """All of a place's org units from root to leaf as one text (`group/consumer`), so that lines add up."""
    return "/".join(place.org) or None


def charges_where(selection: Selection, snapshot: Snapshot) -> Condition:
    """Charges that the selection's filters leave, whatever its range: those behind a report's lines.

    Raises ReportError as `source_of`.
    """
    where = _filtered(selection.filters)
    if not _BY_PLACE & set(selection.filters):
        return where
    stays, _ = _stays(selection, snapshot)
    settled = _of_tenants({stay.place.tenant for stay in stays if stay.number == SETTLED})
    moved = among([stay for stay in stays if stay.number != SETTLED])
    return where & Condition(f"({settled.sql} OR {moved.sql})", {**settled.params, **moved.params})


def _stays(selection: Selection, snapshot: Snapshot) -> tuple[list[Stay], frozenset[str]]:
    """The stays in the range that the filters leave, and the tenants that moved within it."""
    wanted = selection.filters.get("tenant")
    only = None if wanted is None else frozenset(tenant for tenant in wanted if tenant is not None)
    stays = stays_of(snapshot, selection.from_us, selection.to_us, only)
    check_stays(sum(stay.number != SETTLED for stay in stays))
    moved = frozenset(stay.place.tenant for stay in stays if stay.number != SETTLED)
    return [stay for stay in stays if _stands_in(stay.place, selection.filters)], moved


def _filtered(filters: Filters) -> Condition:
    """Rows that the filters leave which are not by place. Filters of different names must all match, values of one name
    are alternatives."""
    condition = Condition()
    for name, values in filters.items():
        if name not in FILTERS:
            raise ReportError(f"there is no filter {name!r}: use any of {', '.join(FILTERS)}")
        if name not in _BY_PLACE:
            condition &= one_of(name, f"filter_{name}", values)
    return condition


def _stands_in(place: Place, filters: Filters) -> bool:
    """A place matches an org unit when it belongs to it at any level; the path (`group/consumer`) names it as well."""
    units, centers = filters.get("org_unit"), filters.get("cost_center")
    in_unit = units is None or bool(units_of(place) & set(units)) or (not place.org and None in units)
    return in_unit and (centers is None or place.cost_center in centers)


def units_of(place: Place) -> set[str | None]:
    """The names of a place's org units, and the paths to each."""
    paths = {"/".join(place.org[: depth + 1]) for depth in range(len(place.org))}
    return {*place.org, *paths}


def in_scope(scope: Scope, snapshot: Snapshot) -> Condition:
    """Rows that a budget or an objective looks at. `org_unit` is the name of a unit that the tenant is in by today's
    control data, wherever it stood when the requests were made."""
    condition = Condition()
    for name in ("tenant", "application", "model"):
        value = getattr(scope, name)
        if value is not None:
            condition &= one_of(name, f"scope_{name}", [value])
    if scope.org_unit is not None:
        tenants = [tenant.id for tenant in snapshot.tenants if scope.org_unit in tenant.org]
        condition &= one_of("tenant", "scope_org_unit", tenants)
    return condition


def one_of(column: str, name: str, values: Sequence[str | None]) -> Condition:
    """Rows whose column has one of the values; `name` is the parameter's."""
    texts = [value for value in values if value is not None]
    sql = f'list_contains(${name}::VARCHAR[], "{column}")'
    if len(texts) < len(values):
        sql = f'("{column}" IS NULL OR {sql})'
    return Condition(sql, {name: texts})


def _of_tenants(tenants: set[str]) -> Condition:
    return Condition(f'"tenant" IN {tenants_sql("filter_places")}', {"filter_places": json.dumps(sorted(tenants))})


def datetime_of(time_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=time_us)


def month_of(now_us: int) -> tuple[int, int]:
    """The UTC month that holds this time, as a half-open range in microseconds."""
    start = datetime_of(now_us).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    end = (start + timedelta(days=31)).replace(day=1)
    return microseconds_of(start), microseconds_of(end)


def microseconds_of(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)


FIRST_US: Final = microseconds_of(datetime(2, 1, 1, tzinfo=UTC))
LAST_US: Final = microseconds_of(datetime(9999, 1, 1, tzinfo=UTC))


def check_range(from_us: int, to_us: int) -> None:
    """Raises ReportError unless from < to, both of years that have a year before and one behind them."""
    if from_us < FIRST_US or to_us > LAST_US:
        raise ReportError("the range is outside the calendar: a report is of the years 2 to 9998")
    if from_us >= to_us:
        start, end = datetime_of(from_us).isoformat(), datetime_of(to_us).isoformat()
        raise ReportError(f"the range is empty: from {start} must come before to {end} (to is not part of the range)")


MAX_DAYS: Final = 366
"""Of one report day by day: a year, with a day for the leap."""


def check_days(from_us: int, to_us: int) -> None:
    """The same, and raises ReportError on more days than MAX_DAYS."""
    check_range(from_us, to_us)
    if to_us - from_us > MAX_DAYS * DAY_US:
        raise ReportError(f"the range has over {MAX_DAYS} days: take a shorter one")


def check_lines(count: int) -> None:
    """Raises ReportError when a report has more lines than MAX_LINES."""
    if count > MAX_LINES:
        raise ReportError(f"more than {MAX_LINES:,} lines: take a shorter range, fewer groups or a filter")
