"""Reports of what changed and of what will be, and the tree of org units, as JSON types: see `to_json`."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from meterhouse.streams.bill_change import Parts
from meterhouse.streams.money import to_text
from meterhouse.warehouse.reports.comparison import Compared, Comparison, Explanation, Range
from meterhouse.warehouse.reports.forecasts import ForecastLine, Forecasts
from meterhouse.warehouse.reports.org_tree import Node, OrgTree
from meterhouse.warehouse.reports.to_json import as_of_json, figures_json, rfc3339

Json = dict[str, Any]

RELATIVE_DECIMALS = 6


def org_tree_json(report: OrgTree) -> Json:
    return {
        "currency": report.currency,
        "from": rfc3339(report.from_us),
        "to": rfc3339(report.to_us),
        "nodes": [_node(node) for node in report.nodes],
        "total": figures_json(report.total),
        "as_of": as_of_json(report.as_of),
    }


def _node(node: Node) -> Json:
    return {
        "path": "/".join(node.path) or None,
        "name": node.path[-1] if node.path else None,
        "level": len(node.path),
        "tenants": [{"tenant": each.tenant, **figures_json(each.figures)} for each in node.tenants],
        "own": figures_json(node.own),
        "with_below": figures_json(node.with_below),
    }


def comparison_json(report: Comparison) -> Json:
    return {
        "currency": report.currency,
        **_ranges(report.range_us, report.before_us),
        "group_by": list(report.group_by),
        "lines": [{**line.groups, "state": line.state, **_compared(line)} for line in report.lines],
        "total": _compared(report.total),
        "as_of": as_of_json(report.as_of),
    }


def _ranges(range_us: Range, before_us: Range) -> Json:
    (from_us, to_us), (before_from_us, before_to_us) = range_us, before_us
    return {
        "from": rfc3339(from_us),
        "to": rfc3339(to_us),
        "compared_with": {"from": rfc3339(before_from_us), "to": rfc3339(before_to_us)},
    }


def _compared(line: Compared) -> Json:
    return {
        "now": None if line.now is None else figures_json(line.now),
        "before": None if line.before is None else figures_json(line.before),
        "difference": to_text(line.difference_pico),
        "relative": relative(line.relative),
    }


def relative(share: Fraction | None) -> str | None:
    """A share as text, half-even to six decimals: 0.250000 is a quarter more."""
    if share is None:
        return None
    units = round(share * 10**RELATIVE_DECIMALS)
    whole, rest = divmod(abs(units), 10**RELATIVE_DECIMALS)
    return f"{'-' if units < 0 else ''}{whole}.{rest:0{RELATIVE_DECIMALS}d}"


def explanation_json(report: Explanation) -> Json:
    return {
        "currency": report.currency,
        **_ranges(report.range_us, report.before_us),
        **_explained(report.before_pico, report.now_pico, report.parts),
        "lines": [
            {
                "tenant": line.tenant,
                "provider": line.change.model[0],
                "model": line.change.model[1],
                **_explained(line.change.before_pico, line.change.now_pico, line.change.parts),
            }
            for line in report.lines
        ],
        "as_of": as_of_json(report.as_of),
    }


def _explained(before_pico: int, now_pico: int, parts: Parts) -> Json:
    return {
        "before": to_text(before_pico),
        "now": to_text(now_pico),
        "difference": to_text(now_pico - before_pico),
        "parts": {name: to_text(pico) for name, pico in parts.items()},
    }


def forecasts_json(report: Forecasts) -> Json:
    return {
        "currency": report.currency,
        "from": rfc3339(report.from_us),
        "to": rfc3339(report.to_us),
        "at": rfc3339(report.at_us),
        "group_by": list(report.group_by),
        "lines": [{**line.groups, **_forecast(line)} for line in report.lines],
        "total": _forecast(report.total),
        "as_of": as_of_json(report.as_of),
    }


def _forecast(line: ForecastLine) -> Json:
    return {"spent": to_text(line.spent_pico), "forecast": to_text(line.forecast_pico)}
