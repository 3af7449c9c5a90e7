"""A small control file, and edits of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from meterhouse.streams.control import EMPTY, Snapshot
from meterhouse.warehouse.control_file import parse
from meterhouse.warehouse.control_plan import Plan, plan

NOW_US: Final = int(datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()) * 1_000_000

TEXT: Final = """\
currency: EUR
tenants:
  - {id: acme, name: Acme, org: [group, consumer], cost_center: CC-1}
  - {id: no, org: [group]}
rate_card:
  - provider: atlas
    model: large
    valid_from: 2026-01-01T00:00:00Z
    per_million: {input: 2.50, cache_read: "0.25", output: "10.00"}
    approved_by: finance@example.com
  - provider: borea
    model: swift
    valid_from: 2026-01-01T01:00:00.5+01:00
    valid_to: 2027-01-01T00:00:00Z
    per_million: {input: "0.000001", output: 0}
  - provider: atlas
    model: large
    valid_from: 2026-12-01T00:00:00Z
    per_million: {input: 2, output: 8}
    tenant: acme
budgets:
  - id: acme-month
    scope: {tenant: acme, application: assistant, model: large}
    window: {every: month, time_zone: Europe/Berlin}
    limit: "20000000.000000000001"
    thresholds: [50, 99.5, 100]
    on_exceeded: block
  - id: all-day
    scope: {}
    window: {every: day, time_zone: UTC}
    limit_tokens: 100
    limit: null
objectives:
  - {id: fast, scope: {application: assistant}, sli: duration, below_ms: 20000, target: "0.99", window_days: 30}
  - {id: up, scope: {org_unit: group}, sli: availability, target: 0.999, window_days: 7}
"""


def edited(*swaps: tuple[str, str], text: str = TEXT) -> str:
    """`text` with each old part, which must stand in it once, replaced by the new one."""
    for old, new in swaps:
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in the text"
        text = text.replace(old, new)
    return text


def planned(text: str, current: Snapshot = EMPTY, now_us: int = NOW_US) -> Plan:
    return plan(parse(text), current, now_us)


def applied(text: str = TEXT, current: Snapshot = EMPTY, now_us: int = NOW_US) -> Snapshot:
    """Control data after a file that must have no problems."""
    made = planned(text, current, now_us)
    assert made.problems == (), [str(problem) for problem in made.problems]
    return made.target


def problems(text: str, current: Snapshot = EMPTY, now_us: int = NOW_US) -> list[str]:
    return [str(problem) for problem in planned(text, current, now_us).problems]
