"""The audit log in the control database: entries come with what they tell of, stand, and show what was done to them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from meterhouse.streams.alert import Alert
from meterhouse.streams.silences import Silence
from meterhouse.warehouse.alert_outbox import SqlAlertOutbox
from meterhouse.warehouse.audit import AuditFilter, AuditLog, Deed, Entry, Head, append
from meterhouse.warehouse.audit_chain import START, Fault, Verification, entry_of
from meterhouse.warehouse.control import ControlConflict, ControlStore
from meterhouse.warehouse.control_tables import AUDIT_LOG
from meterhouse.warehouse.database import TROUBLE, open_database, writing
from meterhouse.warehouse.reject_resolutions import RejectPlace, RejectResolutions, Resolution
from meterhouse.warehouse.silences import SqlSilences
from tests.warehouse.control_texts import NOW_US, planned

ANYTHING = AuditFilter()


@pytest.fixture
def audit(engine: sa.Engine) -> AuditLog:
    return AuditLog(engine)


def recorded(audit: AuditLog, count: int) -> list[Entry]:
    for number in range(1, count + 1):
        audit.record(Deed(f"key:{number % 2}", "export.made", f"e{number}", {"rows": number}), 1_000 + number)
    return audit.page(ANYTHING, None, 1_000)[::-1]


def told(audit: AuditLog) -> list[tuple[str, str, str, str]]:
    return [(e.actor, e.action, e.subject, e.detail) for e in audit.page(ANYTHING, None, 1_000)[::-1]]


# -- what is written, and when ---------------------------------------------------------------------------------------


def test_a_new_log_is_empty_and_whole(audit: AuditLog) -> None:
    assert audit.head() == START
    assert audit.verify([]) == Verification(0, 0, 0, None)


def test_entries_follow_each_other_and_the_head_is_the_newest(audit: AuditLog) -> None:
    entries = recorded(audit, 3)
    expected = entry_of(START, Deed("key:1", "export.made", "e1", {"rows": 1}), 1_001)
    assert entries[0] == expected
    assert [entry.seq for entry in entries] == [1, 2, 3]
    assert audit.head() == Head(3, entries[2].hash)
    assert audit.verify([Head(2, entries[1].hash)]) == Verification(3, 1, 2, None)


def test_the_list_is_newest_first_filtered_and_read_page_by_page(audit: AuditLog) -> None:
    recorded(audit, 5)

    def seqs(before: int | None = None, limit: int = 10, **wanted: Any) -> list[int]:
        return [entry.seq for entry in audit.page(AuditFilter(**wanted), before, limit)]

    assert (seqs(limit=2), seqs(4, 2), seqs(2, 2)) == ([5, 4], [3, 2], [1])
    assert seqs(actor="key:1") == [5, 3, 1]
    assert seqs(from_us=1_002, to_us=1_004) == [3, 2]
    assert seqs(actor="a\x00") == seqs(action="\ud800") == []
    assert (seqs(action="export.made", actor="key:0"), seqs(action="key.created")) == ([4, 2], [])


def test_an_apply_is_an_entry_with_its_version_and_a_digest_of_its_diff(engine: sa.Engine, audit: AuditLog) -> None:
    store = ControlStore(engine)
    store.apply(planned("tenants: [{id: acme}, {id: umbra}]"), NOW_US, "ada")
    store.apply(planned("tenants: [{id: acme, name: Acme}]", store.snapshot()), NOW_US)
    store.apply(planned("tenants: [{id: acme, name: Acme}]", store.snapshot()), NOW_US)  # changes nothing
    assert [(actor, action, subject) for actor, action, subject, _ in told(audit)] == [
        ("ada", "control.applied", "control/1"),
        ("unknown", "control.applied", "control/2"),
    ]
    assert '"changes":{"tenants.add":2},"changes_sha256":"' in told(audit)[0][3]
    assert '"from_version":1,"version":2}' in told(audit)[1][3]


def test_what_is_rolled_back_leaves_no_entry(engine: sa.Engine, audit: AuditLog) -> None:
    store = ControlStore(engine)
    first, second = planned("tenants: [{id: a}]"), planned("tenants: [{id: b}]")
    store.apply(first, NOW_US)
    with pytest.raises(ControlConflict):
        store.apply(second, NOW_US)
    with writing(engine) as connection:
        append(connection, Deed("ada", "export.made", "a"), 1)
        connection.rollback()
    assert len(told(audit)) == audit.head().seq == 1


def test_a_change_whose_entry_cannot_be_written_does_not_happen(engine: sa.Engine) -> None:
    store, silences = ControlStore(engine), SqlSilences(engine)
    with writing(engine) as connection:
        connection.execute(sa.text("DROP TABLE audit_head"))
    silence = Silence(id="s", subject="x", from_us=1, until_us=9, by="ann", reason="known", created_us=1)
    for change in (lambda: store.apply(planned("tenants: [{id: a}]"), NOW_US), lambda: silences.add(silence)):
        with pytest.raises(Exception, match=r"no such table|does not exist"):
            change()
    assert (store.version(), list(silences.standing(1))) == (0, [])


def test_silences_made_and_ended_are_entries(engine: sa.Engine, audit: AuditLog) -> None:
    silences = SqlSilences(engine)
    made = Silence(id="s", subject="bad \x00", from_us=1, until_us=9, by="ann", reason="known", created_us=1)
    silences.add(made, "key:1")
    silences.add(replace(made, id="t"))
    silences.end("s", 5, "key:2")
    with pytest.raises(KeyError):
        silences.end("s", 6, "key:2")
    detail = '{"by":"ann","created_us":1,"from_us":1,"kind":null,"reason":"known","subject":"bad ?","until_us":9}'
    assert told(audit) == [
        ("key:1", "silence.made", "s", detail),
        ("ann", "silence.made", "t", detail),
        ("key:2", "silence.ended", "s", '{"had_begun":true}'),
    ]


def test_an_acknowledgement_is_an_entry_and_the_same_again_is_not(engine: sa.Engine, audit: AuditLog) -> None:
    outbox = SqlAlertOutbox(engine)
    outbox.add([Alert(id="a", kind="threshold", subject="acme-month", summary="", created_us=1)])
    first = outbox.acknowledge("a", "ann", "asking acme", 5, "key:1")
    assert outbox.acknowledge("a", "ann", "asking acme", 6, "key:1") == first
    assert outbox.acknowledge("a", "bob", None, 7).acknowledged_us == 7
    with pytest.raises(KeyError):
        outbox.acknowledge("nobody", "ann", None, 8)
    assert told(audit) == [
        ("key:1", "alert.acknowledged", "a", '{"by":"ann","note":"asking acme"}'),
        ("bob", "alert.acknowledged", "a", '{"by":"bob","note":null}'),
    ]


def test_resolved_rejects_are_entries_each_once(engine: sa.Engine, audit: AuditLog) -> None:
    resolutions = RejectResolutions(engine)
    places = [RejectPlace("usage.events", 0, offset, 0) for offset in range(2)]
    wanted = [
        Resolution(places[0], "discard", 5, "ann", "a test"),
        Resolution(places[1], "repair", 5, "ann", sent=b"{}"),
    ]
    for _ in range(2):
        resolutions.intend(wanted)
        resolutions.finish(places)
    digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert told(audit) == [
        ("ann", "reject.discard", "usage.events/0/0/0", '{"note":"a test","sent_sha256":null}'),
        ("ann", "reject.repair", "usage.events/0/1/0", f'{{"note":null,"sent_sha256":"{digest}"}}'),
    ]


# -- what the database refuses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_log SET actor = 'nobody' WHERE seq = 2",
        "DELETE FROM audit_log WHERE seq = 3",
        "INSERT INTO audit_log SELECT 5, at_us, actor, action, subject, detail, hash FROM audit_log WHERE seq = 3",
        "UPDATE audit_head SET seq = 2",
        "UPDATE audit_head SET seq = 5",
        "UPDATE audit_head SET hash = (SELECT hash FROM audit_log WHERE seq = 1)",
        "DELETE FROM audit_head",
    ],
)
def test_the_database_refuses_what_is_not_an_append(engine: sa.Engine, audit: AuditLog, statement: str) -> None:
    entries = recorded(audit, 3)
    with pytest.raises((*TROUBLE, sa.exc.IntegrityError), match="append-only"), writing(engine) as connection:
        connection.exec_driver_sql(statement)
    assert audit.page(ANYTHING, None, 10)[::-1] == entries
    assert audit.verify([]).fault is None


@pytest.mark.parametrize("table", ["audit_log", "audit_head"])
def test_the_database_refuses_to_replace_or_empty_them(engine: sa.Engine, audit: AuditLog, table: str) -> None:
    recorded(audit, 3)
    sqlite = engine.dialect.name == "sqlite"
    statement = f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}" if sqlite else f"TRUNCATE {table}"
    with pytest.raises((*TROUBLE, sa.exc.IntegrityError), match="append-only"), writing(engine) as connection:
        connection.exec_driver_sql(statement)
    assert audit.verify([]) == Verification(3, 0, 0, None)


def test_tables_can_still_be_made_anew_by_a_batch(engine: sa.Engine, audit: AuditLog) -> None:
    entries = recorded(audit, 2)
    with writing(engine) as connection:
        operations = Operations(MigrationContext.configure(connection, opts={"render_as_batch": True}))
        for table in ("silences", "audit_log", "audit_head"):
            with operations.batch_alter_table(table) as batch:
                batch.add_column(sa.Column("later", sa.Text))
    assert audit.verify([]) == Verification(2, 0, 0, None)
    with engine.connect() as connection:
        assert [row.seq for row in connection.execute(sa.select(AUDIT_LOG.c.seq))] == [e.seq for e in entries]


# -- edits of the stored log -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Forger:
    """Someone who may do anything to the database, its triggers included."""

    engine: sa.Engine

    def __call__(self, *statements: str) -> None:
        with writing(self.engine) as connection:
            for statement in [*self._without_triggers(), *statements]:
                connection.exec_driver_sql(statement)

    def rewrite(self, entries: Sequence[Entry], head: Head) -> None:
        self("DELETE FROM audit_log")
        with writing(self.engine) as connection:
            for entry in entries:
                values = {name: getattr(entry, name) for name in AUDIT_LOG.c.keys()}  # noqa: SIM118
                connection.execute(sa.insert(AUDIT_LOG).values(values))
            connection.execute(sa.text("UPDATE audit_head SET seq = :seq, hash = :hash"), head._asdict())

    def _without_triggers(self) -> list[str]:
        if self.engine.dialect.name != "sqlite":
            return ["ALTER TABLE audit_log DISABLE TRIGGER USER", "ALTER TABLE audit_head DISABLE TRIGGER USER"]
        verbs = ("insert", "update", "delete")
        return [f"DROP TRIGGER IF EXISTS {t}_{verb}" for t in ("audit_log", "audit_head") for verb in verbs]


@pytest.fixture
def forge(engine: sa.Engine) -> Forger:
    return Forger(engine)


COLUMNS = {"at_us": "at_us + 1", "actor": "'x'", "action": "'x'", "subject": "'x'", "detail": "'{}'", "hash": "hash"}


@pytest.mark.parametrize(
    ("statements", "named"),
    [
        *(([f"UPDATE audit_log SET {name} = {value} WHERE seq = 4"], 4) for name, value in COLUMNS.items()
          if name != "hash"),
        (["UPDATE audit_log SET hash = (SELECT hash FROM audit_log WHERE seq = 3) WHERE seq = 4"], 4),
        (["DELETE FROM audit_log WHERE seq = 1"], 1),
        (["DELETE FROM audit_log WHERE seq = 5"], 5),
        (["DELETE FROM audit_log WHERE seq > 6"], 7),
        (["DELETE FROM audit_log WHERE seq > 6",
          "UPDATE audit_head SET seq = 6, hash = (SELECT hash FROM audit_log WHERE seq = 6)"], 7),
        (["DELETE FROM audit_log", "UPDATE audit_head SET seq = 0"], 1),
        (["DELETE FROM audit_log", "DELETE FROM audit_head"], 1),
        (["DELETE FROM audit_head"], 8),
        (["UPDATE audit_head SET seq = 9"], 9),
        (["UPDATE audit_log SET seq = 100 WHERE seq = 3", "UPDATE audit_log SET seq = 3 WHERE seq = 4",
          "UPDATE audit_log SET seq = 4 WHERE seq = 100"], 3),
        (["INSERT INTO audit_log SELECT 9, at_us, actor, action, subject, detail, hash FROM audit_log WHERE seq = 8"],
         9),
        (["INSERT INTO audit_log SELECT 0, at_us, actor, action, subject, detail, hash FROM audit_log WHERE seq = 8"],
         1),
    ],
)  # fmt: skip
def test_an_edit_of_the_stored_log_is_found(audit: AuditLog, forge: Forger, statements: list[str], named: int) -> None:
    entries = recorded(audit, 8)
    heads = [Head(entry.seq, entry.hash) for entry in (entries[1], entries[7])]
    forge(*statements)
    fault = audit.verify(heads).fault
    assert fault is not None
    assert fault.seq == named


def test_a_log_written_anew_from_an_entry_on_is_found_by_the_lakes_heads(audit: AuditLog, forge: Forger) -> None:
    entries = recorded(audit, 6)
    forged = list(entries[:3])
    for entry in entries[3:]:
        before = Head(forged[-1].seq, forged[-1].hash)
        forged.append(entry_of(before, Deed("nobody", entry.action, entry.subject), entry.at_us))
    forge.rewrite(forged, Head(6, forged[-1].hash))
    assert audit.verify([Head(2, entries[1].hash)]) == Verification(6, 1, 2, None)
    said = "entry 5, or one before it, was rewritten: the lake knows of another 5"
    assert audit.verify([Head(2, entries[1].hash), Head(5, entries[4].hash)]).fault == Fault(5, said)


@pytest.mark.parametrize("value", ["x'ff'", "x'6b65793a30'", "CAST(x'80' AS TEXT)", "'key:' || char(0)", "5", "1.5"])
def test_bytes_that_are_no_text_are_an_edit_like_any(audit: AuditLog, forge: Forger, value: str) -> None:
    if forge.engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL's columns hold what they are declared to hold")
    recorded(audit, 3)
    forge(f"UPDATE audit_log SET actor = {value} WHERE seq = 2")
    fault = audit.verify([]).fault
    assert fault is not None
    assert fault.seq == 2


# -- many at once ----------------------------------------------------------------------------------------------------


APPEND = """
import sys
from meterhouse.warehouse.audit import AuditLog, Deed
from meterhouse.warehouse.database import open_database
engine = open_database(sys.argv[1])
for number in range(25):
    AuditLog(engine).record(Deed(sys.argv[2], "export.made", str(number)), number)
engine.dispose()
"""


def test_processes_that_append_at_once_leave_no_gap_and_no_fork(control_url: str) -> None:
    running = [subprocess.Popen([sys.executable, "-c", APPEND, control_url, name]) for name in "abcd"]
    assert [process.wait(120) for process in running] == [0] * 4
    engine = open_database(control_url)
    audit = AuditLog(engine)
    assert audit.verify([audit.head()]) == Verification(100, 1, 100, None)
    for name in "abcd":
        mine = audit.page(AuditFilter(actor=name), None, 100)
        assert [entry.subject for entry in reversed(mine)] == [str(number) for number in range(25)]
    engine.dispose()
