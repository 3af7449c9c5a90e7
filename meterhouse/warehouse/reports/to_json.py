"""Reports as the contract's JSON types: the one place where a figure becomes text.

Money is text with twelve decimals, whole counts are integers, times are RFC 3339 in UTC; ratios are rounded floats
(money never is).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from decimal import Decimal
from fractions import Fraction
from functools import singledispatch
from typing import Any

from meterhouse.streams.budget import BudgetState
from meterhouse.streams.budget_state import plain
from meterhouse.streams.control import Scope
from meterhouse.streams.ledger import Counts
from meterhouse.streams.money import price_text, to_pico, to_text
from meterhouse.warehouse.reports.as_of import AsOf
from meterhouse.warehouse.reports.budgets import BudgetLine, Budgets
from meterhouse.warehouse.reports.burn_down import BurnDown
from meterhouse.warehouse.reports.chargeback import Chargeback, Figures
from meterhouse.warehouse.reports.charges import Charge, Charges
from meterhouse.warehouse.reports.groups import datetime_of
from meterhouse.warehouse.reports.histograms import Percentiles
from meterhouse.warehouse.reports.judged import Ratio
from meterhouse.warehouse.reports.latencies import Latencies
from meterhouse.warehouse.reports.ledger import LedgerReport, became
from meterhouse.warehouse.reports.rejects import RejectLine, Rejects
from meterhouse.warehouse.reports.removed import Removed
from meterhouse.warehouse.reports.slo import ObjectiveLine, Slo
from meterhouse.warehouse.reports.usage import Usage, UsageFigures
from meterhouse.warehouse.verify import LawResult, Verification

Json = dict[str, Any]


@singledispatch
def to_json(report: object) -> Json:
    """Any report of this package as a dict of JSON types, in the contract's shape and order."""
    raise TypeError(f"{type(report).__name__} is not a report")


@to_json.register
def _(report: Chargeback) -> Json:
    return {
        "currency": report.currency,
        "from": rfc3339(report.from_us),
        "to": rfc3339(report.to_us),
        "group_by": list(report.group_by),
        "lines": [{**line.groups, **figures_json(line.figures)} for line in report.lines],
        "total": figures_json(report.total),
        "as_of": as_of_json(report.as_of),
    }


@to_json.register
def _(report: Usage) -> Json:
    return {
        "from": rfc3339(report.from_us),
        "to": rfc3339(report.to_us),
        "every": report.every,
        "group_by": list(report.group_by),
        "lines": [
            {"time": rfc3339(line.time_us), **line.groups, **_usage_figures(line.figures)} for line in report.lines
        ],
        "total": _usage_figures(report.total),
        "as_of": as_of_json(report.as_of),
    }


@to_json.register
def _(report: Latencies) -> Json:
    return {
        "from": rfc3339(report.from_us),
        "to": rfc3339(report.to_us),
        "every": report.every,
        "group_by": list(report.group_by),
        "lines": [
            {
                "time": None if line.time_us is None else rfc3339(line.time_us),
                **line.groups,
                **_latencies(line.percentiles_us),
            }
            for line in report.lines
        ],
        "total": _latencies(report.total),
        "as_of": as_of_json(report.as_of),
    }


@to_json.register
def _(report: BurnDown) -> Json:
    return {
        "objective": report.objective.id,
        "from": rfc3339(report.from_us),
        "to": rfc3339(report.to_us),
        "step_seconds": report.step_us // 1_000_000,
        **_ratio(report.ratio),
        "steps": [
            {
                "time": rfc3339(step.start_us),
                **_ratio(step.ratio),
                "error_budget_left": ratio(step.left),
                "even": ratio(step.even),
            }
            for step in report.steps
        ],
        "worst_minutes": [{"time": rfc3339(start_us), **_ratio(minute)} for start_us, minute in report.worst],
        "as_of": as_of_json(report.as_of),
    }


@to_json.register
def _(report: Charges) -> Json:
    return {
        "currency": report.currency,
        "from": rfc3339(report.from_us),
        "to": rfc3339(report.to_us),
        "kind": report.kind,
        "charges": [charge_json(line) for line in report.lines],
        "total": figures_json(report.total),
        "removed": report.removed and _removed(report.removed),
        "as_of": as_of_json(report.as_of),
    }


@to_json.register
def _(report: Slo) -> Json:
    return {
        "at": rfc3339(report.at_us),
        "objectives": [_objective(line) for line in report.lines],
        "as_of": as_of_json(report.as_of),
    }


@to_json.register
def _(report: Budgets) -> Json:
    return {
        "currency": report.currency,
        "at": rfc3339(report.at_us),
        "budgets": [_budget(line, report.currency) for line in report.lines],
        "as_of": as_of_json(report.as_of),
    }


@to_json.register
def _(report: Rejects) -> Json:
    return {
        "rejects": [_reject(line) for line in report.lines],
        "next": None if report.next is None else report.next.to_token(),
        "as_of": as_of_json(report.as_of),
    }


@to_json.register
def _(report: LedgerReport) -> Json:
    return {
        "partitions": [
            {
                "partition": line.partition,
                "next_offset": line.next_offset,
                "waiting": line.waiting,
                "arrived": None if line.arrived_us is None else rfc3339(line.arrived_us),
                **_counts(line.counts),
            }
            for line in report.lines
        ],
        "total": {"waiting": sum(line.waiting for line in report.lines), **_counts(report.total)},
        "as_of": as_of_json(report.as_of),
    }


@to_json.register
def _(report: Verification) -> Json:
    return {
        "balanced": report.balanced,
        "laws": [_law(result) for result in report.laws],
        "as_of": as_of_json(report.as_of),
    }


def as_of_json(as_of: AsOf) -> Json:
    return {
        "snapshot": as_of.snapshot,
        "watermark": None if as_of.watermark_us is None else rfc3339(as_of.watermark_us),
        "lag_seconds": None if as_of.lag_us is None else as_of.lag_us / 1_000_000,
        "offsets": {str(partition): offset for partition, offset in sorted(as_of.offsets.items())},
    }


def rfc3339(time_us: int) -> str:
    """UTC with `Z`; microseconds only where there are any."""
    return datetime_of(time_us).isoformat().replace("+00:00", "Z")


def money(amount: Decimal) -> str:
    return to_text(to_pico(amount))


def ratio(value: Fraction | None) -> float | None:
    """Rounded to nine decimals: what is shown, never what is compared."""
    return None if value is None else float(round(value, 9))


def charge_json(charge: Charge) -> Json:
    def amount(pico: int | None) -> str | None:
        return None if pico is None else to_text(pico)

    return {
        "time": rfc3339(charge.place.time_us),
        **charge.texts,
        "http_status": charge.http_status,
        "tokens": dict(charge.tokens),
        "rate_card": charge.card,
        "per_million": {k: None if p is None else price_text(p) for k, p in charge.pico_per_token.items()},
        "costs": {kind: amount(pico) for kind, pico in charge.costs_pico.items()},
        "cost": amount(charge.cost_pico),
        "control_version": charge.control_version,
        "key": str(charge.key),
        "arrived": rfc3339(charge.arrived_us),
        "partition": charge.place.partition,
        "offset": charge.place.offset,
        "index": charge.place.index,
    }


def _removed(removed: Removed) -> Json:
    return {"requests": removed.requests, "cost": money(removed.cost), "before": rfc3339(removed.until_us)}


def figures_json(figures: Figures) -> Json:
    return {
        "requests": figures.requests,
        "billed_requests": figures.billed_requests,
        "unpriced_requests": figures.unpriced_requests,
        "tokens": dict(figures.tokens),
        "cost": money(figures.cost),
    }


def _usage_figures(figures: UsageFigures) -> Json:
    return {"requests": figures.requests, "by_status": dict(figures.by_status), "tokens": dict(figures.tokens)}


def _scope(scope: Scope) -> Json:
    return {name: value for name in scope.__slots__ if (value := getattr(scope, name)) is not None}


def _objective(line: ObjectiveLine) -> Json:
    objective = line.objective
    target = objective.target
    return {
        "id": objective.id,
        "scope": _scope(objective.scope),
        "sli": objective.sli,
        "below_ms": objective.below_ms,
        "target": str(target),
        "window": {"from": rfc3339(line.from_us), "to": rfc3339(line.to_us), "days": objective.window_days},
        "good": line.ratio.good,
        "total": line.ratio.total,
        "compliance": ratio(line.ratio.compliance),
        "state": line.state,
        "error_budget_left": ratio(line.error_budget_left),
        "burn_rates": {name: ratio(burn.burn_rate(target)) for name, burn in line.burns.items()},
        "burning": [
            {"long": rule.long, "short": rule.short, "factor": float(rule.factor), "severity": rule.severity}
            for rule in line.burning
        ],
        **_latencies(line.percentiles_us),
    }


def _ratio(counted: Ratio) -> Json:
    return {"good": counted.good, "total": counted.total}


def _latencies(percentiles_us: Percentiles) -> Json:
    return {f"{metric}_ms": _milliseconds(values) for metric, values in percentiles_us.items()}


def _milliseconds(values_us: Mapping[str, int | None]) -> Json:
    return {name: None if value_us is None else value_us / 1000 for name, value_us in values_us.items()}


def _budget(line: BudgetLine, currency: str) -> Json:
    state = line.state
    return {
        "id": line.budget.id,
        "scope": _scope(line.budget.scope),
        "unit": "tokens" if state.limit_pico is None else currency,
        "window": {
            "start": rfc3339(state.window_start_us),
            "end": rfc3339(state.window_end_us),
            "every": line.budget.window.every,
            "time_zone": line.budget.window.time_zone,
        },
        "limit": _amount(state, state.limit),
        "spent": _amount(state, state.spent),
        "reserved": _amount(state, 0),  # reservations come with the gate
        "remaining": _amount(state, line.remaining),
        "state": state.state,
        "thresholds": [plain(threshold) for threshold in line.budget.thresholds],
        "thresholds_crossed": [plain(threshold) for threshold in state.crossed],
        "on_exceeded": state.on_exceeded,
        "forecast": _amount(state, line.forecast.amount),
        "exceeds_on": None if line.forecast.exceeds_on is None else line.forecast.exceeds_on.isoformat(),
    }


def _amount(state: BudgetState, amount: int) -> str:
    """Money with twelve decimals or, of a budget in tokens, a whole number: text either way."""
    return str(amount) if state.limit_pico is None else to_text(amount)


def _counts(counts: Counts) -> Json:
    """With what law 1 says is 0: what was read, less what became of it."""
    return {**asdict(counts), "difference": counts.read - became(counts)}


def _law(result: LawResult) -> Json:
    sides = {"left": result.left, "right": result.right, "difference": result.difference}
    return {
        "law": result.law,
        "name": result.name,
        **{name: money(value) if isinstance(value, Decimal) else value for name, value in sides.items()},
        "balanced": result.balanced,
        "offending": result.offending,
        "rows": list(result.rows),
    }


def _reject(line: RejectLine) -> Json:
    text, encoding = line.payload_text()
    return {
        "arrived": rfc3339(line.place.arrived_us),
        "topic": line.topic,
        "partition": line.place.partition,
        "offset": line.place.offset,
        "index": line.place.index,
        "reason": line.reason,
        "detail": line.detail,
        "tenant": line.tenant,
        "payload": text,
        "payload_encoding": encoding,
    }
