"""Alerts of windows that are still open, on a trace laid into the last two hours."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest

from tests.e2e.conftest import Books, Make
from tests.e2e.house import CONTROL, House
from tests.oracle import books


@pytest.fixture(scope="module")
def recent(traces: Make, control: books.Control, tmp_path_factory: pytest.TempPathFactory) -> Books:
    """Books of a trace whose windows are open: an alert of a window long closed is news for nobody."""
    house, one = House(tmp_path_factory.mktemp("recent") / "home"), traces("azure-llm")
    start = books.rfc3339(books.microseconds(datetime.now(UTC).replace(microsecond=0) - timedelta(hours=2)))
    house.run("apply", str(CONTROL))
    house.run("replay", str(one.path), "--format", "azure-llm", "--start", start)
    house.run("work", "--until-idle")
    events = books.replayed(control, one.path, "azure-llm", books.microseconds(start))
    return Books(house, one, control, books.charges(control, events))


def test_one_alert_is_raised_per_budget_window_and_threshold(recent: Books) -> None:
    expected = Counter(
        (budget["id"], start, percent)
        for budget in recent.control.budgets
        for (start, _), spent in books.budget_spend(recent.control, recent.charges, budget).items()
        for percent in books.crossed(budget, spent)
    )
    alerts = thresholds(recent.house)
    assert Counter(map(crossing, alerts)) == expected
    assert len({alert["id"] for alert in alerts}) == len(alerts)
    # The same trace again, at another time: repeats cost nothing, so they cross nothing.
    recent.house.run("replay", str(recent.trace.path), "--format", "azure-llm")
    recent.house.run("work", "--until-idle")
    assert thresholds(recent.house) == alerts


def thresholds(house: House) -> list[dict[str, Any]]:
    """What was said when each was raised, the last first. Without what depends on the hour of the day: forecasts, and
    the ends of alerts whose window ended meanwhile."""
    listed = house.listing("alerts", span=())
    raised = [alert for alert in listed if (alert["kind"], alert["status"]) == ("threshold", "firing")]
    return [
        {name: alert[name] for name in ("id", "budget", "window", "threshold", "spent", "created")} for alert in raised
    ]


def crossing(alert: dict[str, Any]) -> tuple[str, int, Fraction]:
    return alert["budget"], books.microseconds(alert["window"]["start"]), Fraction(str(alert["threshold"]))
