"""Moves of tenants: what a control file may do to where they stood."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import pytest
import sqlalchemy as sa

from meterhouse.streams.control import EVER_US, Place, Snapshot
from meterhouse.warehouse.control import ControlConflict, ControlStore
from meterhouse.warehouse.control_tables import TENANT_PLACES
from meterhouse.warehouse.database import reading
from meterhouse.warehouse.view import Grant, View
from tests.warehouse.control_texts import NOW_US, applied, planned, problems

DAY_US: Final = 86_400_000_000


def tenant(org: str, more: str = "") -> str:
    return f"tenants: [{{id: acme, org: [{org}]{more}}}, {{id: bolt}}]"


def us(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000


def places(snapshot: Snapshot) -> list[tuple[int, tuple[str, ...]]]:
    return [(place.from_us, place.org) for place in snapshot.places_by_tenant()["acme"]]


FIRST: Final = applied(tenant("a"))
MOVED: Final = applied(tenant("b", ", org_from: 2026-11-15T00:00:00Z"), FIRST)
AHEAD: Final = applied(tenant("b", ", org_from: 2026-12-01T00:00:00Z"), FIRST)
MID_NOVEMBER: Final = us("2026-11-15")
DECEMBER: Final = us("2026-12-01")


def test_a_new_tenant_stands_in_its_first_place_from_ever_on() -> None:
    made = planned(tenant("a", ", org_from: 2026-11-15T00:00:00Z"))
    assert (made.target.places, places(made.target)) == ((), [(EVER_US, ("a",))])
    assert "stands in its first place from ever on" in str(made.warnings[0])
    assert planned(tenant("a", ", org_from: 2026-11-15T00:00:00Z"), made.target).changes == ()


def test_a_move_without_a_time_counts_from_apply_on() -> None:
    made = planned(tenant("b"), FIRST)
    assert places(made.target) == [(EVER_US, ("a",)), (NOW_US, ("b",))]
    assert [str(change) for change in made.changes] == [
        "~ tenants acme: org a → b",
        "+ places acme from 2026-11-23T12:00:00Z: org b",
    ]
    assert planned(tenant("b"), made.target, NOW_US + DAY_US).changes == ()


def test_a_new_cost_center_is_a_move_too() -> None:
    after = applied(tenant("a", ", cost_center: CC-2"), FIRST)
    assert after.places == (Place("acme", EVER_US, ("a",)), Place("acme", NOW_US, ("a",), "CC-2"))


@pytest.mark.parametrize(("org_from", "told"), [("2026-11-15", "lies in the past"), ("2026-12-01", "lies ahead")])
def test_a_move_may_lie_in_the_past_or_ahead_and_that_is_said(org_from: str, told: str) -> None:
    text = tenant("b", f", org_from: {org_from}T00:00:00Z")
    made = planned(text, FIRST)
    assert places(made.target) == [(EVER_US, ("a",)), (us(org_from), ("b",))]
    assert told in str(made.warnings[0])
    assert planned(text, made.target).changes == ()


def test_a_move_that_lies_ahead_is_put_off_replaced_or_undone() -> None:
    put_off = applied(tenant("b", ", org_from: 2026-12-15T00:00:00Z"), AHEAD)
    assert places(put_off) == [(EVER_US, ("a",)), (us("2026-12-15"), ("b",))]
    assert places(applied(tenant("c"), AHEAD)) == [(EVER_US, ("a",)), (NOW_US, ("c",))]
    undone = planned(tenant("a"), AHEAD)
    assert undone.target.places == ()
    assert [str(change) for change in undone.changes][1] == "- places acme from 2026-12-01T00:00:00Z: org b"


@pytest.mark.parametrize(
    ("org", "org_from"),
    [("c", "2026-11-15"), ("c", "2026-11-01"), ("b", "2026-11-10"), ("b", "2026-11-20"), ("a", "2026-11-10")],
)
def test_history_is_changed_only_when_the_file_says_so(org: str, org_from: str) -> None:
    text = tenant(org, f", org_from: {org_from}T00:00:00Z")
    [refused] = problems(text, MOVED)
    assert "would change history: the tenant is in b, cost center none since 2026-11-15T00:00:00Z" in refused
    corrected = planned(text.replace("00Z", "00Z, correct_history: true"), MOVED)
    assert corrected.problems == ()
    assert any(str(change).startswith("- places acme from 2026-11-15") for change in corrected.changes) or (
        "~ places acme from 2026-11-15T00:00:00Z: org b → c" in map(str, corrected.changes)
    )
    expected = [(EVER_US, ("a",)), (us(org_from), (org,))]
    assert places(corrected.target) == (expected if org != "a" else expected[:1])


def test_a_correction_names_its_time() -> None:
    assert problems(tenant("b", ", correct_history: true"), FIRST) == [
        "tenants[0].correct_history (acme, line 1) needs org_from beside it: say from when on the place holds"
    ]


def test_a_view_sees_the_places_of_its_tenants_only() -> None:
    assert View((Grant("bolt"),)).cut(MOVED).places == ()
    assert View((Grant("acme", "assistant"),)).cut(MOVED).places == MOVED.places


def test_places_are_stored_and_the_version_that_recorded_each_stays(engine: sa.Engine) -> None:
    store = ControlStore(engine)
    for text in (tenant("a"), tenant("b", ", org_from: 2026-12-01T00:00:00Z"), tenant("c")):
        made = planned(text, store.snapshot())
        store.apply(made, NOW_US)
        assert store.snapshot() == made.target == ControlStore(engine).snapshot()
    with reading(engine) as connection:
        rows = connection.execute(sa.select(TENANT_PLACES).order_by("tenant", "from_us")).all()
    assert [tuple(row) for row in rows] == [
        ("acme", EVER_US, ["a"], None, 1),
        ("acme", NOW_US, ["c"], None, 3),
        ("bolt", EVER_US, [], None, 1),
    ]


def test_a_move_that_came_into_force_meanwhile_is_no_longer_the_plans_to_undo(engine: sa.Engine) -> None:
    store = ControlStore(engine)
    for text in (tenant("a"), tenant("b", ", org_from: 2026-12-01T00:00:00Z")):
        store.apply(planned(text, store.snapshot()), NOW_US)
    undo = planned(tenant("a"), store.snapshot(), DECEMBER - 1)
    with pytest.raises(ControlConflict, match="acme from 2026-12-01T00:00:00Z came into force"):
        store.apply(undo, DECEMBER)
    assert store.apply(undo, DECEMBER - 1) == 3
