"""When what does not reconcile is too much, and when it no longer is."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest

from meterhouse.streams.alert import Alert
from meterhouse.streams.reconciliation import (
    GAPS,
    KINDS,
    Counted,
    Limits,
    Tally,
    Terms,
    added_up,
    reconciliation_alerts,
    reconciliation_is_over,
)
from tests.builders import HOUR_US, MINUTE_US, SECOND_US, T0_US


def counted(*, device_us: int = 0, last_gap_us: int | None = T0_US, **kinds: int) -> Counted:
    return Counted({kind: Tally(kinds.get(kind, 0), 1, 2) for kind in KINDS}, device_us, last_gap_us)


def test_a_share_is_of_what_both_sides_were_to_tell_of() -> None:
    assert counted(matched=97, gateway_only=2, node_only=1, pending=50, no_node_events=1_000).share == Fraction(3, 100)
    assert counted(pending=50, no_node_events=1_000).share is None


def test_parts_add_up() -> None:
    parts = [counted(matched=2, device_us=3, last_gap_us=None), counted(matched=5, node_only=1, device_us=4)]
    whole = added_up(parts)
    assert (whole.kinds["matched"], whole.device_us, whole.last_gap_us) == (Tally(7, 2, 4), 7, T0_US)
    assert whole.all == Tally(8, 2 * len(KINDS), 4 * len(KINDS))


@pytest.mark.parametrize(
    ("limits", "exceeded"),
    [
        (Limits(), ("share",)),
        (Limits(Decimal("0.03")), ()),  # as much as it may be
        (Limits(Decimal("0.0299"), 2, 4), ("share", "requests", "device_s")),
        (Limits(None, 3, 5), ()),
        (Limits(None, None, None), ()),
    ],
)
def test_more_than_a_limit_is_exceeded(limits: Limits, exceeded: tuple[str, ...]) -> None:
    assert limits.exceeded(counted(matched=97, gateway_only=2, node_only=1, device_us=5 * SECOND_US)) == exceeded


def raised(of: Counted, now_us: int = T0_US) -> Alert:
    [alert] = reconciliation_alerts({"acme": of, "bolt": counted(matched=100)}, Terms(), now_us).values()
    return alert


def test_an_alert_says_what_does_not_reconcile() -> None:
    alert = raised(counted(matched=90, gateway_only=8, refused_but_run=2, device_us=61 * SECOND_US))
    assert alert.summary == (
        "acme: 10 of 100 requests of the last day do not reconcile (8 gateway only, 2 refused but run, 61 s of device"
        " time without a request); see `meterhouse reconcile`"
    )
    assert alert.payload == {
        "scope": {"tenant": "acme"},
        "exceeded": ["share"],
        "gaps": {**dict.fromkeys(GAPS, 0), "gateway_only": 8, "refused_but_run": 2},
        "compared": 100,
        "device_us_without_request": 61 * SECOND_US,
        "newest": "2026-11-01T00:00:00Z",
    }


def test_lookouts_a_minute_apart_raise_one_alert_and_newer_gaps_another() -> None:
    gaps = counted(gateway_only=1)
    assert raised(gaps).id == raised(counted(gateway_only=2, last_gap_us=T0_US + MINUTE_US), T0_US + MINUTE_US).id
    assert raised(gaps).id != raised(counted(gateway_only=1, last_gap_us=T0_US + HOUR_US)).id


@pytest.mark.parametrize(
    ("now", "why"),
    [
        ({"acme": counted(matched=1_000, node_only=9)}, "9 of 1,009 requests do not reconcile"),
        ({"acme": counted(matched=1_000, node_only=10)}, None),  # below the limit, but it may be above it in a minute
        ({"acme": counted(pending=10, no_node_events=10)}, None),
        ({}, "there is no event of it any more"),
    ],
    ids=["few", "near", "nothing compared", "no events"],
)
def test_an_alert_is_over_when_little_differs_of_what_was_compared(now: dict[str, Counted], why: str | None) -> None:
    assert reconciliation_is_over(raised(counted(gateway_only=1)), now, Terms()) == why
