"""OpenSLO v1 documents → objectives, and everything that cannot be one.

An SLO whose metric source is of type `meterhouse` is an objective; its id is the SLO's name. The source's `spec` says
`sli` and `scope` as the section `objectives` does. A `thresholdMetric` is a latency, good where it is `lt` the
objective's `value` in milliseconds; a `ratioMetric` has `good` (with `below_ms` for a latency) and `total` of the same
sli and scope. Whatever we would have to guess is a problem with its line. Schema: github.com/OpenSLO/OpenSLO.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final, cast

from meterhouse.ingest.event import MAX_TEXT
from meterhouse.streams.control import Objective, Scope
from meterhouse.warehouse.control_fields import Entry, Located, Problem, Unfit, name, number, one_of, share, whole
from meterhouse.warehouse.control_objectives import MAX_BELOW_MS, MAX_WINDOW_DAYS, SLIS, scope_of
from meterhouse.warehouse.control_yaml import Node

VERSION: Final = "openslo/v1"
SOURCE: Final = "meterhouse"
READ: Final = ("SLO", "SLI")
NOT_READ: Final = ("DataSource", "AlertPolicy", "AlertCondition", "AlertNotificationTarget", "Service")
"""Kinds of OpenSLO that say nothing of what is measured: Meterhouse has its own source, rules and channels."""
MAX_OBJECTIVES: Final = 16
"""Of one SLO: each is a target of its own for the same ratio."""

_DAYS: Final = {"d": 1, "w": 7}


@dataclass(frozen=True, slots=True)
class _Document:
    entry: Entry
    kind: str
    name: str
    path: str


@dataclass(frozen=True, slots=True)
class _Indicator:
    """What an SLI measures; `is_threshold`: the SLO says below how many milliseconds it is good."""

    sli: str
    scope: Scope
    below_ms: int | None
    is_threshold: bool


def is_openslo(root: Node) -> bool:
    return isinstance(root.value, dict) and "apiVersion" in root.value


def read_openslo(
    roots: Sequence[Node], stated: tuple[Located[Objective], ...] | None, problems: list[Problem]
) -> tuple[tuple[Located[Objective], ...] | None, list[Problem]]:
    """The objectives of the section `objectives` (`stated`) and of the SLOs, None where the file has neither; and what
    is not read, as notes."""
    notes: list[Problem] = []
    documents = [document for place, root in enumerate(roots) if (document := _document(root, place, problems, notes))]
    slis = _named([document for document in documents if document.kind == "SLI"], problems)
    slos = [document for document in documents if document.kind == "SLO"]
    if not slos:
        return stated, notes
    found = list(stated or ())
    known = {entry.value.id: entry.path for entry in found}
    for objective in (each for document in slos for each in _objectives(document, slis, problems, notes)):
        id_ = objective.value.id
        if id_ in known:
            problems.append(objective.problem(f'has the id "{id_}" of {known[id_]} again: rename one'))
        found.append(replace(objective, sound=objective.sound and id_ not in known))
        known.setdefault(id_, objective.path)
    return tuple(found), notes


def _named(slis: Sequence[_Document], problems: list[Problem]) -> dict[str, _Document]:
    named: dict[str, _Document] = {}
    for document in slis:
        if document.name in named:
            message = f'is a second SLI "{document.name}" beside {named[document.name].path}: rename one'
            problems.append(Problem(document.path, message, document.entry.line, document.name))
        named.setdefault(document.name, document)
    return named


def _document(root: Node, place: int, problems: list[Problem], notes: list[Problem]) -> _Document | None:
    """None: it is not read."""
    path = f"openslo[{place}]"
    entry = Entry(root, path, ("apiVersion", "kind", "metadata", "spec"), problems, about=_about(root))
    if entry.take("apiVersion", one_of(VERSION), "") != VERSION:
        return None
    named = _child(entry, "metadata", ("name", "displayName", "labels", "annotations"))
    id_ = named.take("name", name, "") if named else ""
    found = entry.take("kind", one_of(*READ, *NOT_READ), "")
    if found in NOT_READ:
        message = f"is of kind {found}, which is not read: {' and '.join(READ)} are"
        notes.append(Problem(path, message, root.line, _about(root)))
        return None
    return _Document(entry, found, id_, path) if found and id_ else None


def _about(root: Node) -> str:
    """A document as people know it: its kind and name, as far as it says them."""
    named: Node | None = root
    for key in ("metadata", "name"):
        named = named.value.get(key) if named and isinstance(named.value, dict) else None
    kind = root.value.get("kind") if isinstance(root.value, dict) else None
    texts = [node.value for node in (kind, named) if node and isinstance(node.value, str)]
    return " ".join(texts)[:MAX_TEXT]


def _child(entry: Entry, key: str, known: Sequence[str]) -> Entry | None:
    """The mapping under a key that must be there."""
    if not entry.has(key):
        entry.tell("is missing: add it", key)
        return None
    return entry.child(key, known)


_SLO_KEYS: Final = (
    "description", "service", "indicator", "indicatorRef", "timeWindow", "budgetingMethod", "objectives",
    "alertPolicies",
)  # fmt: skip
_TARGET_KEYS: Final = ("displayName", "op", "value", "target", "targetPercent", "timeSliceTarget", "timeSliceWindow")


def _objectives(
    document: _Document, slis: Mapping[str, _Document], problems: list[Problem], notes: list[Problem]
) -> list[Located[Objective]]:
    before = len(problems)
    spec = _child(document.entry, "spec", _SLO_KEYS)
    if spec is None:
        return []
    if spec.has("alertPolicies"):
        message = "is not read: Meterhouse alerts by its own rules of burn rates"
        notes.append(Problem(f"{spec.path}.alertPolicies", message, spec.nodes["alertPolicies"].line, document.name))
    method = spec.take("budgetingMethod", one_of("Occurrences", "Timeslices"), "")
    if method == "Timeslices":
        spec.tell("is Timeslices: only Occurrences is supported, the share of good requests", "budgetingMethod")
    window_days = _window_days(spec)
    indicator = _indicator(spec, slis)
    targets = spec.each("objectives", _TARGET_KEYS, MAX_OBJECTIVES)
    found = []
    for number_, target in enumerate(targets, 1):
        share_, below_ms = _target(target), _below_ms(target, indicator)
        objective = Objective(
            # Several targets of one SLO are several objectives, numbered.
            id=document.name if len(targets) == 1 else f"{document.name}-{number_}",
            scope=indicator.scope if indicator else Scope(),
            sli=cast(Any, indicator.sli if indicator else ""),
            below_ms=below_ms,
            target=share_,
            window_days=window_days,
        )
        sound = len(problems) == before
        found.append(Located(objective, target.path, target.line, document.name, sound))
    return found


def _window_days(spec: Entry) -> int:
    def days(text: str) -> int:
        count, unit = text[:-1], text[-1:]
        if unit not in _DAYS or not (count.isascii() and count.isdigit()) or len(count) > 4:
            raise Unfit(f'is "{text}": a window is of whole days or weeks here, like 30d or 4w')
        return whole(1, MAX_WINDOW_DAYS)(str(int(count) * _DAYS[unit]))

    for window in spec.each("timeWindow", ("duration", "isRolling", "calendar"), 1):
        if window.has("calendar"):
            window.tell("is not supported: windows are rolling here; remove it and say isRolling: true", "calendar")
        elif window.take("isRolling", one_of("true", "false"), "true") == "false":
            window.tell("is false: only rolling windows are supported; say true", "isRolling")
        return window.take("duration", days, 1)
    return 1


def _target(entry: Entry) -> Decimal:
    def of_percent(text: str) -> Decimal:
        return share(f"{number(text) / 100:f}")

    for key in ("timeSliceTarget", "timeSliceWindow"):
        if entry.has(key):
            entry.tell("is of Timeslices, which are not supported: remove it", key)
    if entry.has("target") == entry.has("targetPercent"):
        entry.tell("needs either target, like 0.999, or targetPercent, like 99.9")
    given: Decimal | None = (
        entry.maybe("target", share) if entry.has("target") else entry.maybe("targetPercent", of_percent)
    )
    return given or Decimal("0.5")


def _below_ms(entry: Entry, indicator: _Indicator | None) -> int | None:
    if indicator is None:
        return None
    if not indicator.is_threshold:
        for key in ("op", "value"):
            if entry.has(key):
                entry.tell("has a meaning only with a thresholdMetric: remove it", key)
        return indicator.below_ms
    if entry.take("op", one_of("lt", "lte", "gt", "gte"), "lt") != "lt":
        entry.tell("must be lt: a request is good strictly below the value, in milliseconds", "op")
    return entry.take("value", whole(1, MAX_BELOW_MS), 1)


def _indicator(spec: Entry, slis: Mapping[str, _Document]) -> _Indicator | None:
    if spec.has("indicator") == spec.has("indicatorRef"):
        spec.tell("needs either indicator, or indicatorRef with the name of an SLI of this file")
        return None
    if spec.has("indicator"):
        indicator = spec.child("indicator", ("metadata", "spec"))
        return _measured(indicator)
    referred = spec.take("indicatorRef", name, "")
    if referred not in slis:
        if referred:
            spec.tell(f'is "{referred}", and no SLI document of this file has that name: add it', "indicatorRef")
        return None
    return _measured(slis[referred].entry)


_RATIO_KEYS: Final = ("counter", "good", "bad", "total", "raw", "rawType")


def _measured(sli: Entry) -> _Indicator | None:
    spec = _child(sli, "spec", ("description", "thresholdMetric", "ratioMetric"))
    if spec is None:
        return None
    if spec.has("thresholdMetric") == spec.has("ratioMetric"):
        spec.tell("needs either thresholdMetric or ratioMetric")
        return None
    if spec.has("thresholdMetric"):
        source = _source(spec, "thresholdMetric", ("sli", "scope"))
        measured = source and source.take("sli", one_of("duration", "time_to_first_token"), "")
        return _Indicator(measured, scope_of(source), None, True) if source and measured else None
    ratio = spec.child("ratioMetric", _RATIO_KEYS)
    for key in ("bad", "raw", "rawType"):
        if ratio.has(key):
            ratio.tell("is not supported: say good and total", key)
    good, total = _source(ratio, "good", ("sli", "below_ms", "scope")), _source(ratio, "total", ("sli", "scope"))
    if good is None or total is None:
        return None
    measured = good.take("sli", one_of(*SLIS), "")
    below_ms = good.maybe("below_ms", whole(1, MAX_BELOW_MS))
    if measured and (measured == "availability") == good.has("below_ms"):
        good.tell("is needed for a latency, and has no meaning for availability", "below_ms")
    scope = scope_of(good)
    if measured and (total.take("sli", one_of(*SLIS), "") != measured or scope_of(total) != scope):
        total.tell("must have the sli and the scope of good: a share of other requests is not supported")
    return _Indicator(measured, scope, below_ms, False) if measured else None


def _source(entry: Entry, key: str, known: Sequence[str]) -> Entry | None:
    """The `spec` of a metric source of ours."""

    def ours(text: str) -> str:
        if text != SOURCE:
            raise Unfit(f'is "{text}": only sources of type `{SOURCE}` are supported, whose figures are the lake\'s')
        return text

    metric = _child(entry, key, ("metricSource",))
    source = metric and _child(metric, "metricSource", ("metricSourceRef", "type", "spec"))
    if not source or not source.take("type", cast("Callable[[str], str]", ours), ""):
        return None
    return _child(source, "spec", known)
