"""The control database: versions, snapshots, several processes, and its schema."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.command import upgrade
from alembic.config import Config

from meterhouse.streams.alert import Alert
from meterhouse.streams.alerts import OutboxEntry, OutboxUnavailable
from meterhouse.streams.control import EMPTY
from meterhouse.warehouse.alert_outbox import SqlAlertOutbox
from meterhouse.warehouse.control import ControlConflict, ControlRefused, ControlStore, ControlUnavailable
from meterhouse.warehouse.control_tables import BUDGETS, METADATA
from meterhouse.warehouse.database import TROUBLE, DatabaseTooNew, open_database, sqlite_url, writing
from meterhouse.warehouse.migrations import HEAD
from meterhouse.warehouse.reject_resolutions import RejectPlace, RejectResolutions
from tests.services.databases import with_driver
from tests.services.postgres import Postgres, own_postgres
from tests.warehouse.control_texts import NOW_US, edited, planned


@pytest.fixture
def store(engine: sa.Engine) -> ControlStore:
    return ControlStore(engine)


def test_a_new_database_holds_version_zero(store: ControlStore) -> None:
    assert (store.version(), store.snapshot(), store.history(), store.every_card()) == (0, EMPTY, [], ())


def test_what_is_applied_is_what_is_read(engine: sa.Engine, store: ControlStore) -> None:
    plan = planned(edited())
    assert store.apply(plan, NOW_US, "ada") == 1
    assert store.snapshot() == plan.target
    assert ControlStore(engine).snapshot() == plan.target


def test_an_identical_file_keeps_the_version(store: ControlStore) -> None:
    store.apply(planned(edited()), NOW_US)
    assert store.apply(planned(edited(), store.snapshot()), NOW_US) == 1
    assert [record.version for record in store.history()] == [1]


def test_each_version_is_recorded_with_its_time_and_diff(store: ControlStore) -> None:
    store.apply(planned("tenants: [{id: acme}]"), NOW_US, "ada")
    store.apply(planned("tenants: [{id: acme, name: Acme}]", store.snapshot()), NOW_US + 1)
    newest, first = store.history()
    assert (first.version, first.recorded_us, first.actor) == (1, NOW_US, "ada")
    assert (newest.version, newest.recorded_us, newest.actor) == (2, NOW_US + 1, None)
    assert newest.changes == [
        {
            "action": "change",
            "section": "tenants",
            "name": "acme",
            "fields": [{"field": "name", "before": "acme", "after": "Acme"}],
        }
    ]


def test_a_plan_with_problems_is_refused(store: ControlStore) -> None:
    with pytest.raises(ControlRefused, match="is not known here") as refused:
        store.apply(planned("tenant: []"), NOW_US)
    assert [problem.path for problem in refused.value.problems] == ["tenant"]
    assert store.snapshot() == EMPTY


def test_two_plans_of_one_version_cannot_both_be_applied(store: ControlStore) -> None:
    first, second = planned("tenants: [{id: a}]"), planned("tenants: [{id: b}]")
    store.apply(first, NOW_US)
    with pytest.raises(ControlConflict, match="at version 1, not at 0"):
        store.apply(second, NOW_US)
    assert store.snapshot() == first.target


def test_a_card_that_came_into_force_meanwhile_is_not_replaced(store: ControlStore) -> None:
    store.apply(planned(edited()), NOW_US)
    plan = planned(edited(("{input: 2, output: 8}", "{input: 2, output: 7}")), store.snapshot())
    with pytest.raises(ControlConflict, match="came into force since"):
        store.apply(plan, store.snapshot().rate_cards[2].valid_from_us)
    assert store.version() == 1


def test_an_end_that_passed_meanwhile_is_not_set(store: ControlStore) -> None:
    store.apply(planned(edited()), NOW_US)
    plan = planned(edited(("2027-01-01T00:00:00Z", "2026-11-24T00:00:00Z")), store.snapshot())
    with pytest.raises(ControlConflict, match="reached its end since"):
        store.apply(plan, NOW_US + 86_400_000_000)


def test_a_replaced_card_is_kept_for_the_charges_that_name_it(store: ControlStore) -> None:
    store.apply(planned(edited()), NOW_US)
    before = store.snapshot()
    store.apply(planned(edited(("{input: 2, output: 8}", "{input: 2, output: 7}")), before), NOW_US)
    after = store.snapshot()
    assert [card.id for card in after.rate_cards] == [1, 2, 4]
    assert store.every_card() == (*before.rate_cards, after.rate_cards[2])


def test_removals_moved_ends_and_orders_are_stored(store: ControlStore) -> None:
    store.apply(planned(edited()), NOW_US)
    text = edited(
        ("2027-01-01T00:00:00Z", "2027-02-01T00:00:00Z"),
        ("  - {id: acme, name: Acme, org: [group, consumer], cost_center: CC-1}\n", ""),
        ("  - {id: no, org: [group]}\n", "  - {id: no, org: [group]}\n  - {id: acme, org: [consumer]}\n"),
        ("limit_tokens: 100\n    limit: null", "limit: 5"),
        (("  - {id: fast, scope: {application: assistant}, sli: duration, below_ms: 20000, target: \"0.99\", "
         "window_days: 30}\n"), ""),
    )  # fmt: skip
    plan = planned(text, store.snapshot())
    assert store.apply(plan, NOW_US) == 2
    assert ControlStore(store._engine).snapshot() == plan.target


def test_a_failure_in_the_middle_of_an_apply_changes_nothing(engine: sa.Engine, store: ControlStore) -> None:
    with writing(engine) as connection:
        connection.execute(sa.text("DROP TABLE control_versions"))
    with pytest.raises(ControlUnavailable, match=r"no such table|does not exist"):
        store.apply(planned(edited()), NOW_US)
    assert store.snapshot() == EMPTY


def test_readers_see_the_old_version_while_a_writer_is_at_work(control_url: str, store: ControlStore) -> None:
    other = open_database(control_url)
    try:
        with writing(other) as connection:
            connection.execute(sa.text("UPDATE control SET version = 9"))
            assert store.version() == 0
        assert store.version() == 9
    finally:
        other.dispose()


def test_a_writer_has_its_lock_from_the_beginning(tmp_path: Path) -> None:
    # SQLite lets two readers in and then fails the second one's first write at once, however long it would wait.
    engine = open_database(sqlite_url(tmp_path / "control.sqlite"))
    other = sqlite3.connect(tmp_path / "control.sqlite", timeout=0, isolation_level=None)
    try:
        with writing(engine), pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.execute("BEGIN IMMEDIATE")
    finally:
        other.close()
        engine.dispose()


APPLY = """
import sys
from meterhouse.warehouse.control import ControlConflict, ControlStore
from meterhouse.warehouse.control_file import parse
from meterhouse.warehouse.control_plan import plan
from meterhouse.warehouse.database import open_database
url, name = sys.argv[1:]
store = ControlStore(open_database(url))
for number in range(5):
    while True:
        made = plan(parse(f"tenants: [{{id: {name}-{number}}}]"), store.snapshot(), 1)
        try:
            store.apply(made, 1, name)
            break
        except ControlConflict:
            pass
"""


def test_processes_that_open_and_apply_at_once_lose_nothing(control_url: str) -> None:
    running = [subprocess.Popen([sys.executable, "-c", APPLY, control_url, name]) for name in "abc"]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    engine = open_database(control_url)
    snapshot = ControlStore(engine).snapshot()
    history = ControlStore(engine).history()
    engine.dispose()
    assert snapshot.version == 15
    assert {tenant.id for tenant in snapshot.tenants} == {f"{name}-{number}" for name in "abc" for number in range(5)}
    assert [record.version for record in history] == list(range(15, 0, -1))


def test_the_migrations_make_the_tables_that_the_code_uses(engine: sa.Engine) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []
        assert context.get_current_revision() == HEAD


def test_alerts_and_budgets_of_an_older_schema_are_kept_and_get_what_is_new(
    control_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr("meterhouse.warehouse.database.HEAD", "r0002")
        older.setattr("alembic.command.upgrade", partial(_upgrade_to, "r0002"))
        open_database(control_url).dispose()
    made = sa.create_engine(control_url)
    with made.begin() as connection:
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar() == "r0002"
        tables = sa.MetaData()
        tables.reflect(connection)
        connection.execute(sa.insert(tables.tables["budgets"]).values(OLD_BUDGET))
        connection.execute(sa.insert(tables.tables["alerts"]), [OLD_ALERT, OLD_ALERT | OLD_WAITING])
    made.dispose()

    engine = open_database(control_url)
    with engine.connect() as connection:
        (budget,) = connection.execute(sa.select(BUDGETS)).mappings()
        assert {**budget} == {
            **OLD_BUDGET,
            "limit_pico": 25 * 10**13,
            "throttle_per_minute": 60,
            "when_stale": "open",
            "stale_after_s": 60,
        }
    old = Alert(
        id="a",
        kind="threshold",
        subject="acme-month",
        summary="budget acme-month has reached 80 % of its limit",
        created_us=10,
        budget_id="acme-month",
        window_start_us=0,
        window_end_us=100,
        threshold="80",
        spent="200.000000000000",
        limit="250.000000000000",
        payload={"unit": "EUR"},
    )
    told = {"attempts": 1, "last_error": "the receiver answered 503"}
    outbox = SqlAlertOutbox(engine)
    assert list(outbox.list()) == [
        OutboxEntry(alert=replace(old, id="b", created_us=20), next_attempt_us=30, **told),
        OutboxEntry(alert=old, next_attempt_us=None, delivered_us=15, delivered_by="webhook", **told),
    ]
    assert [(entry.alert.id, entry.posted) for entry in outbox.open(50, 10)] == [("b", False), ("a", True)]
    engine.dispose()


OLD_BUDGET: dict[str, Any] = {
    "id": "acme-month", "place": 0, "tenant": "acme", "org_unit": None, "application": None, "model": None,
    "every": "month", "time_zone": "Europe/Berlin", "limit_pico": str(25 * 10**13), "limit_tokens": None,
    "thresholds": ["80"], "on_exceeded": "block",
}  # fmt: skip
OLD_ALERT: dict[str, Any] = {
    "id": "a", "kind": "threshold", "budget_id": "acme-month", "window_start_us": 0, "window_end_us": 100,
    "threshold": "80", "spent": "200.000000000000", "limit": "250.000000000000", "created_us": 10,
    "payload": {"unit": "EUR"}, "attempts": 1, "next_attempt_us": None, "delivered_us": 15, "delivered_by": "webhook",
    "last_error": "the receiver answered 503",
}  # fmt: skip
OLD_WAITING: dict[str, Any] = {
    "id": "b",
    "created_us": 20,
    "next_attempt_us": 30,
    "delivered_us": None,
    "delivered_by": None,
}


def _upgrade_to(revision: str, config: Config, _: str) -> None:
    """Alembic's `upgrade`, to a revision that is not the newest."""
    upgrade(config, revision)


def test_a_database_of_a_newer_version_is_left_alone(control_url: str) -> None:
    engine = open_database(control_url)
    with writing(engine) as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'r9999'"))
    engine.dispose()
    with pytest.raises(DatabaseTooNew, match="schema r9999"):
        open_database(control_url)


def test_a_path_with_spaces_and_signs_is_a_path(tmp_path: Path) -> None:
    odd = tmp_path / "a b%20#?&"
    odd.mkdir()
    open_database(sqlite_url(odd / "control.sqlite")).dispose()
    assert (odd / "control.sqlite").is_file()


def test_a_server_that_restarts_is_told_and_its_return_is_enough() -> None:
    with own_postgres() as server:
        engine = open_database(with_driver(server.new_database()))
        store, outbox, resolutions = ControlStore(engine), SqlAlertOutbox(engine), RejectResolutions(engine)
        place = RejectPlace("usage.events", 0, 0, 0)
        calls: list[tuple[Callable[[], object], type[Exception]]] = [
            (store.version, ControlUnavailable),
            (store.snapshot, ControlUnavailable),
            (lambda: store.apply(planned("tenants: [{id: a}]"), NOW_US), ControlUnavailable),
            (lambda: outbox.due(1, 1), OutboxUnavailable),
            (lambda: outbox.silence("a", 1), OutboxUnavailable),
            (lambda: resolutions.of([place]), ControlUnavailable),
            (lambda: resolutions.finish([place]), ControlUnavailable),
        ]
        with engine.connect(), engine.connect():  # both go to the pool, and neither outlives the server
            pass
        server.restart()
        assert store.version() == 0
        server.kill()
        for call, told in calls:
            with pytest.raises(told) as trouble:
                call()
            assert "not-a-secret" not in str(trouble.value)
        server.start()
        assert list(outbox.due(1, 1)) == []
        assert store.apply(planned("tenants: [{id: a}]"), NOW_US) == 1
        engine.dispose()


def test_a_server_that_is_not_there_is_an_error_of_the_driver_at_once() -> None:
    with pytest.raises(TROUBLE):
        open_database("postgresql+psycopg://nobody:not-a-secret@127.0.0.1:1/control")


def test_a_hung_writer_does_not_hold_others_for_ever(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meterhouse.warehouse.database.BUSY_TIMEOUT_MS", 200)
    url = with_driver(postgres.new_database())
    engine, hung = open_database(url), open_database(url)
    try:
        with writing(hung) as connection:
            connection.execute(sa.text("UPDATE control SET version = 9"))
            with pytest.raises(ControlUnavailable, match="lock timeout"):
                ControlStore(engine).apply(planned("tenants: [{id: a}]"), NOW_US)
    finally:
        engine.dispose()
        hung.dispose()
