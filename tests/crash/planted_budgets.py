"""Bugs to plant in budget workers, as `planted` has them of meters."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final, NoReturn
from unittest.mock import patch

from meterhouse.ingest.log import BUDGET_ALERTS, Message
from meterhouse.streams import budget_desk
from meterhouse.streams.alert import Alert
from meterhouse.streams.alerts import AlertOutbox
from meterhouse.streams.budget_alerts import AlertBook
from meterhouse.streams.budget_book import Due
from meterhouse.streams.budget_desk import BudgetDesk
from meterhouse.streams.budget_state import BudgetTable
from meterhouse.streams.budget_totals import BudgetTotal

Die = Callable[[], NoReturn]


_apply = BudgetTable.apply
_assign = BudgetDesk.assign
_say_alerts = BudgetDesk._say_alerts
_states = budget_desk._states


def states_not_listened_to(stack: ExitStack, _: Die) -> None:
    """What a worker says that woke up after its successor stands."""
    stack.enter_context(patch.object(BudgetDesk, "_listen", lambda *_: None))


def books_opened_empty(stack: ExitStack, _: Die) -> None:
    """A partition is taken over without what was said of it: its state is what comes from now on."""

    def nothing(*_: object) -> Iterator[Any]:
        return iter(())

    stack.enter_context(patch.object(BudgetDesk, "_all", nothing))


def partitions_kept_that_are_others(stack: ExitStack, _: Die) -> None:
    def assign(desk: BudgetDesk, partitions: Iterable[int]) -> Mapping[int, int]:
        return _assign(desk, {*desk._open, *partitions})

    stack.enter_context(patch.object(BudgetDesk, "assign", assign))


def alerts_told_before_they_are_kept(stack: ExitStack, die: Die) -> None:
    """The topic, which is what a restart takes as raised, comes before the outbox; and now and then a death between."""
    calls = 0

    class Later:
        def __init__(self, outbox: AlertOutbox) -> None:
            self.outbox = outbox
            self.alerts: Sequence[Alert] = ()

        def add(self, alerts: Sequence[Alert]) -> int:
            self.alerts = alerts
            return 0

    def say(desk: BudgetDesk, dues: Mapping[int, Due]) -> int:
        nonlocal calls
        later = Later(desk._outbox)
        with patch.object(desk, "_outbox", later):
            told = _say_alerts(desk, dues)
        calls += told > 0
        if told and calls % 2:  # the first too: few are told at all
            die()
        later.outbox.add(later.alerts)
        return told

    stack.enter_context(patch.object(BudgetDesk, "_say_alerts", say))


def alerts_named_anew(stack: ExitStack, _: Die) -> None:
    """By whoever raises them, and when."""
    anew = lru_cache(None)(lambda *_: str(uuid.uuid4()))
    stack.enter_context(patch("meterhouse.streams.budget_alerts.threshold_alert_id", anew))


def alerts_kept_but_not_told(stack: ExitStack, _: Die) -> None:
    append = BudgetDesk._append

    def silent(desk: BudgetDesk, topic: str, messages: Sequence[Message]) -> list[tuple[int, int]]:
        return append(desk, topic, () if topic == BUDGET_ALERTS else messages)

    stack.enter_context(patch.object(BudgetDesk, "_append", silent))


def alerts_never_resolved(stack: ExitStack, _: Die) -> None:
    stack.enter_context(patch.object(AlertBook, "_gone", lambda *_, **__: None))


def alerts_resolved_at_once(stack: ExitStack, _: Die) -> None:
    stack.enter_context(patch.object(AlertBook, "_gone", lambda *_, **__: "all is well"))


def fresh_before_what_it_speaks_of(stack: ExitStack, _: Die) -> None:
    def backwards(partition: int, due: Due) -> Iterator[Message]:
        return iter(list(_states(partition, due))[::-1])

    stack.enter_context(patch.object(budget_desk, "_states", backwards))


def totals_added_as_deltas(stack: ExitStack, _: Die) -> None:
    """Each total that comes adds to what there is."""

    def add(table: BudgetTable, total: BudgetTotal) -> bool:
        kept = table.newest(total)
        if kept is not None and kept.layout == total.layout:
            total = replace(total, cost_pico=kept.cost_pico + total.cost_pico, tokens=kept.tokens + total.tokens)
        return _apply(table, total)

    stack.enter_context(patch.object(BudgetTable, "apply", add))


BUDGET_BUGS: Final[dict[str, Callable[[ExitStack, Die], None]]] = {
    plant.__name__: plant
    for plant in (
        states_not_listened_to,
        books_opened_empty,
        partitions_kept_that_are_others,
        alerts_told_before_they_are_kept,
        alerts_named_anew,
        alerts_kept_but_not_told,
        alerts_never_resolved,
        alerts_resolved_at_once,
        fresh_before_what_it_speaks_of,
        totals_added_as_deltas,
    )
}
