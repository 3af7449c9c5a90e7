"""What must hold of budgets at the end, whatever was killed: the last word on each and its alerts against the oracle.

`budget_differences` says all that does not hold, as sentences. It looks at last words, since those are what compaction
leaves: a worker that woke up after its successor may have had it.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import accumulate
from typing import Any, Final

from meterhouse.ingest.log import BUDGET_ALERTS, BUDGET_STATES, BUDGET_TOTALS, EventLog
from meterhouse.streams.alert import Alert
from meterhouse.streams.budget import BudgetTotal
from tests.crash.checks import SHOWN, Billed, Scene, charges_by_window, whole
from tests.oracle import books, budgets

Said = tuple[int, bytes, bytes | None]
"""Partition, key, value of a record."""

MOST_ALERTS: Final = 100_000
_OF_THE_LOG: Final = ("offsets", "definition")
"""Fields of a state that depend on where the events stood, or are a digest of the product's own."""


def budget_differences(scene: Scene, now_us: int) -> list[str]:
    """All that does not hold. All totals must be judged and nothing may work any more. `now_us`: windows that ended by
    then may have resolved their alerts; those that ended before the stream was made must have."""
    windows = budgets.windows(scene.stream.control, scene.stream.spend)
    return [
        *_against_states(scene, windows),
        *_against_alerts(scene, windows, now_us),
    ]


def records(log: EventLog, topic: str) -> Iterator[Said]:
    for run in whole(log, topic):
        yield from ((run.partition, key or b"", value) for key, value in zip(run.keys, run.values, strict=True))


def _wrong(what: str, found: dict[Any, Any], truth: dict[Any, Any]) -> Iterator[str]:
    keys = [key for key in sorted(truth.keys() | found.keys(), key=str) if truth.get(key) != found.get(key)]
    for key in keys[:SHOWN]:
        yield f"{what} {key}: {found.get(key)}, the oracle says {truth.get(key)}"
    if len(keys) > SHOWN:
        yield f"{what}: {len(keys)} are wrong"


# -- states ------------------------------------------------------------------------------------------------------------


def _against_states(scene: Scene, windows: dict[budgets.Window, tuple[int, int]]) -> Iterator[str]:
    control = scene.stream.control
    by_id = {budget["id"]: budget for budget in control.budgets}
    last = {key.decode(): value for _, key, value in records(scene.log, BUDGET_STATES)}
    told = {key: json.loads(value) for key, value in last.items() if value is not None}
    states = {key: value for key, value in told.items() if not key.startswith("|")}
    terms = {key.removeprefix("|terms|"): value for key, value in told.items() if key.startswith("|terms|")}
    yield from _wrong(
        "budget.states",
        {key: _without(value, _OF_THE_LOG) for key, value in states.items()},
        {"|".join(map(str, window)): budgets.state(by_id[window[0]], window, sums) for window, sums in windows.items()},
    )
    yield from _wrong(
        "terms of",
        {key: _without(value, ("definition",)) for key, value in terms.items()},
        {name: budgets.terms(control, budget) for name, budget in by_id.items()},
    )
    for key, value in states.items():
        defined = terms.get(value["budget_id"], {}).get("definition")
        if value["definition"] != defined:
            yield f"budget.states {key}: counts {value['definition']}, the terms that gates have are {defined}"


def _without(told: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if name not in names}


def last_totals(log: EventLog) -> Iterator[str]:
    """An older total said last would be what a worker starts from once the topic is compacted."""
    newest: dict[bytes, tuple[int, int, int]] = {}
    last: dict[bytes, tuple[int, int, int]] = {}
    for _, key, value in records(log, BUDGET_TOTALS):
        if value is not None and not key.startswith(b"|"):
            total = BudgetTotal.from_json(value)
            age = total.control_version, total.layout, total.offset
            last[key], newest[key] = age, max(age, newest.get(key, age))
    yield from _wrong("the last total of", last, newest)


# -- alerts ------------------------------------------------------------------------------------------------------------


def _against_alerts(scene: Scene, windows: dict[budgets.Window, tuple[int, int]], now_us: int) -> Iterator[str]:
    """Each threshold that was reached is in the outbox under its one id, and so is the end of what ended."""
    by_id = {budget["id"]: budget for budget in scene.stream.control.budgets}
    due = {
        id_: (*window, percent)
        for window, sums in windows.items()
        for id_, percent in budgets.alerts(by_id[window[0]], window, sums)
    }
    outbox = [entry.alert for entry in scene.outbox.list(limit=MOST_ALERTS) if entry.alert.kind == "threshold"]
    firing = {alert.id: alert for alert in outbox if alert.resolves is None}
    about = {id_: (a.budget_id, a.window_start_us, a.window_end_us, a.threshold) for id_, a in firing.items()}
    yield from _wrong("alert", about, due)
    for id_, alert in firing.items():
        if id_ in due:
            yield from _says_wrong(alert, by_id[due[id_][0]], windows[due[id_][:3]])
    resolved = {alert.id: alert.resolves for alert in outbox if alert.resolves is not None}
    ended = {budgets.resolution_id(id_): id_ for id_, window in due.items() if window[2] <= now_us}
    must = {id_: alert for id_, alert in ended.items() if due[alert][2] <= scene.stream.now_us}
    yield from _wrong("resolution", resolved, must | {id_: of for id_, of in ended.items() if id_ in resolved})
    ids = {alert.id for alert in outbox}
    told = {key.decode() for _, key, value in records(scene.log, BUDGET_ALERTS) if value is not None}
    yield from _wrong("budget.alerts", dict.fromkeys(told, True), dict.fromkeys(ids, True))


def _says_wrong(alert: Alert, budget: dict[str, Any], sums: tuple[int, int]) -> Iterator[str]:
    """What was spent when it was raised lies between the threshold and the end."""
    spent, limit = Fraction(alert.spent or 0), books.budget_limit(budget)
    if not limit * Fraction(alert.threshold or 0) <= 100 * spent <= 100 * budgets.spent_of(budget, sums):
        yield f"alert of {alert.budget_id} at {alert.threshold} %: says {alert.spent} of {limit} were spent"
    if Fraction(alert.limit or 0) != limit:
        yield f"alert of {alert.budget_id}: says its limit is {alert.limit}, it is {limit}"


# -- how fresh states are ----------------------------------------------------------------------------------------------


def untrue_freshness(said: Iterable[Said], charges: list[Billed], control: books.Control) -> list[str]:
    """Claims that states held all before some offsets when, up to then, no state said so much. `said`: all records of
    `budget.states`, in their order; `charges` ascend by partition and offset.

    That a state was said once is enough: one who wakes up may say an older one again, for a second. Claims from before
    the topic grew are left out, since tenants' charges may stand in other partitions now."""
    told = list(said)
    partitions = 1 + max((charge.partition for charge in charges), default=0)
    windows_in: dict[int, set[tuple[str, int]]] = defaultdict(set)
    for partition, key, _ in told:
        if not key.startswith(b"|"):
            name, start, _ = key.decode().rsplit("|", 2)
            windows_in[partition].add((name, int(start)))
    sums = {key: _Prefixes(of_key) for key, of_key in charges_by_window(charges, control).items()}
    most: dict[tuple[str, int], int] = defaultdict(int)
    wrong: list[str] = []
    for partition, key, value in told:
        if value is None or key.startswith(b"|terms|"):
            continue
        fields = json.loads(value)
        if not key.startswith(b"|fresh|"):
            window = fields["budget_id"], fields["window_start_us"]
            most[window] = max(most[window], fields["spent_tokens"])
            continue
        for window in windows_in[partition] if len(fields["offsets"]) >= partitions else ():
            needed = sum(
                sums[*window, int(p)].before(o) for p, o in fields["offsets"].items() if (*window, int(p)) in sums
            )
            if most[window] < needed:
                wrong.append(f"fresh {fields}: {window} stood at {most[window]} tokens, and should at {needed}")
    return wrong[:SHOWN]


class _Prefixes:
    """Sums of tokens before an offset."""

    def __init__(self, charges: list[Billed]) -> None:
        self._offsets = [charge.offset for charge in charges]
        self._sums = [0, *accumulate(sum(charge.event.tokens.values()) for charge in charges)]

    def before(self, offset: int) -> int:
        return self._sums[bisect_left(self._offsets, offset)]
