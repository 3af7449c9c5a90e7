"""The audit log over HTTP and on the command line, and its heads in the lake."""

from __future__ import annotations

import json
import random
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from meterhouse.api.app import create_app
from meterhouse.api.cli_common import user_name
from meterhouse.api.clock import now_us
from meterhouse.api.head_keeper import HeadKeeper
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.api.workers import Workers
from meterhouse.ingest.log import USAGE_EVENTS, Message
from meterhouse.streams.alert import rfc3339
from meterhouse.warehouse.audit import Deed, Entry
from meterhouse.warehouse.audit_chain import Head
from meterhouse.warehouse.audit_heads import known_heads, note_head
from meterhouse.warehouse.database import ControlUnavailable
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.lake_schema import AUDIT_HEADS
from meterhouse.warehouse.maintenance import MaintenanceSettings, maintain
from tests.api.serving import served
from tests.api.test_http import CONTROL, body, event, problem
from tests.commands import invoked
from tests.kafka.logs import await_that
from tests.warehouse.test_audit_chain import HEADS, KINDS, LOG, head_of

HOUR_US = 3_600 * 1_000_000
DAY_US = 24 * HOUR_US


@dataclass
class Site:
    """A house whose lake nobody writes, so that commands may; over HTTP and on the command line."""

    house: House
    http: httpx.Client

    def get(self, **params: Any) -> Any:
        answer = self.http.get("/v1/audit", params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def record(self, count: int) -> None:
        for number in range(count):
            self.house.audit.record(Deed(f"key:{number % 2}", "export.made", f"e{number}"), now_us())

    def run(self, *words: str, code: int = 0) -> str:
        done = invoked(self.house.settings.home, *words)
        assert done.exit_code == code, done.output
        return done.output

    def forge(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.house.settings.control_path, isolation_level=None)) as database:
            for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
                database.execute(f"DROP TRIGGER {name}")
            for statement in statements:
                database.execute(statement)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with House(Settings(home=tmp_path / "home")) as house, served(create_app(house)) as http:
        yield Site(house, http)


def test_what_people_do_is_listed_with_who_did_it(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "control.yaml"
    file.write_text(CONTROL)
    site.run("apply", str(file))
    asked = {"subject": "acme-month", "until": rfc3339(now_us() + DAY_US), "by": "ann", "reason": "known"}
    made = site.http.post("/v1/silences", json=asked).json()
    site.http.delete(f"/v1/silences/{made['id']}")
    page = site.get()
    assert page["next"] is None
    assert [(e["seq"], e["actor"], e["action"], e["subject"]) for e in page["entries"]] == [
        (3, "local", "silence.ended", made["id"]),
        (2, "local", "silence.made", made["id"]),
        (1, user_name(), "control.applied", "control/1"),
    ]
    assert page["entries"][1]["detail"]["by"] == "ann"
    assert page["entries"][0]["hash"] == site.house.audit.head().hash.hex()


def test_the_list_is_read_page_by_page_and_filtered(site: Site) -> None:
    site.record(5)
    seen, after = list[int](), dict[str, str]()
    for _ in range(3):
        page = site.get(limit=2, **after)
        seen += [entry["seq"] for entry in page["entries"]]
        after = {"after": page["next"]}
    assert (seen, page["next"]) == ([5, 4, 3, 2, 1], None)
    assert [entry["subject"] for entry in site.get(actor="key:1")["entries"]] == ["e3", "e1"]
    assert site.get(action="key.created") == {"entries": [], "next": None}
    assert site.get(**{"from": "2020-01-01", "to": "2021-01-01"})["entries"] == []


@pytest.mark.parametrize("after", ["", "x", "-1", "1.5", "٣", "9" * 19])
def test_a_place_that_no_page_gave_is_a_400(site: Site, after: str) -> None:
    assert "`next` of the page before" in problem(
        site.http.get("/v1/audit", params={"after": after}), 400, "invalid-parameter"
    )["detail"]  # fmt: skip


def test_the_command_lists_the_same(site: Site) -> None:
    site.record(2)
    assert json.loads(site.run("audit", "list", "--format", "json")) == site.get()
    assert site.run("audit", "list", "--actor", "key:1", "--format", "csv").startswith("seq,at,actor,action,subject,")
    assert "export.made" in site.run("audit", "list", "--limit", "1")
    assert site.run("audit", "list", "--action", "key.created").strip() == "No entries."
    assert "`next` of the page" in site.run("audit", "list", "--after", "x", code=2)


def test_the_command_says_that_a_log_is_whole_and_who_vouches_for_it(site: Site) -> None:
    site.record(3)
    assert "the audit log is whole: 3 entries" in (said := site.run("audit", "verify"))
    assert "the lake has no head of it yet" in said
    with House(site.house.settings, writer=True) as writer:
        note_head(writer.lake, writer.audit.head(), now_us())
    site.record(1)
    assert "the lake vouches for it up to entry 3, by 1 heads" in site.run("audit", "verify")
    assert json.loads(site.run("audit", "verify", "--format", "json")) == {
        "whole": True, "entries": 4, "lake_heads": 1, "vouched_for": 3, "fault": None,
    }  # fmt: skip


TRUNCATED = (
    "DELETE FROM audit_log WHERE seq > 2",
    "UPDATE audit_head SET seq = 2, hash = (SELECT hash FROM audit_log WHERE seq = 2)",
)


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (("UPDATE audit_log SET actor = 'nobody' WHERE seq = 2",), "entry 2 was edited"),
        (("DELETE FROM audit_log WHERE seq = 1",), "entry 1 is missing"),
        (TRUNCATED, "entry 3 is missing: the lake knows of 4"),
    ],
)
def test_the_command_names_the_entry_that_was_altered(site: Site, statements: tuple[str, ...], said: str) -> None:
    site.record(4)
    with House(site.house.settings, writer=True) as writer:
        note_head(writer.lake, writer.audit.head(), now_us())
    site.forge(*statements)
    assert said in site.run("audit", "verify", code=1)
    report = site.run("audit", "verify", "--format", "json", code=1)
    assert json.loads(report)["whole"] is False


def test_random_edits_of_the_file_are_named_by_the_command(site: Site) -> None:
    site.record(1)  # makes the file
    with House(site.house.settings, writer=True) as writer:
        for kept in HEADS:
            note_head(writer.lake, kept, now_us())
    site.forge()
    write(site.house.settings.control_path, LOG, head_of(LOG[-1]))
    assert f"up to entry {len(LOG)}, by {len(HEADS)} heads" in site.run("audit", "verify")
    draw = random.Random(7)
    for number in range(4 * len(KINDS)):
        kind = KINDS[number % len(KINDS)]
        entries, end, named = kind(draw)
        write(site.house.settings.control_path, entries, end)
        report = json.loads(site.run("audit", "verify", "--format", "json", code=1))
        assert (kind.__name__, report["fault"]["seq"]) == (kind.__name__, named)


def write(path: Path, entries: Sequence[Entry], end: Head) -> None:
    """Puts these entries in place of the log, in a file without triggers."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM audit_log")
        database.executemany("INSERT INTO audit_log VALUES (?, ?, ?, ?, ?, ?, ?)", map(astuple, entries))
        database.execute("UPDATE audit_head SET seq = ?, hash = ?", end)


# -- heads in the lake -----------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> LakeConfig:
    return LakeConfig(tmp_path / "lake" / "catalogue.sqlite", tmp_path / "lake" / "data")


def head(seq: int) -> Head:
    return Head(seq, bytes([seq % 256]) * 32)


def test_heads_are_read_by_seq_over_pages_and_each_is_written_once(
    config: LakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meterhouse.warehouse.audit_heads._PAGE", 2)
    forked = Head(2, bytes(32))
    with Lake.open(config) as lake:
        assert list(known_heads(lake)) == []
        assert [note_head(lake, each, 5) for each in (head(1), head(5), head(2), head(2), forked)] == [
            True, True, True, False, True,
        ]  # fmt: skip
        known = known_heads(lake)
        note_head(lake, head(9), 6)
        assert list(known) == [head(1), forked, head(2), head(5)]


def test_maintenance_leaves_the_heads_as_they_are(config: LakeConfig) -> None:
    with Lake.open(config) as lake:
        heads = [head(seq) for seq in range(1, 30)]
        for each in heads:
            note_head(lake, each, now_us())
        settings = MaintenanceSettings(merge_files=2, keep_all_us=0, keep_daily_us=0, delete_after_us=0)
        for later_us in (HOUR_US, 40 * DAY_US):
            assert maintain(lake, now_us() + later_us, settings).trouble == ()
        assert list(known_heads(lake)) == heads


def test_a_lake_made_before_there_were_heads_gets_their_table_from_its_writer(config: LakeConfig) -> None:
    with Lake.open(config) as lake, lake.borrowed() as cursor:
        cursor.execute(f"DROP TABLE {AUDIT_HEADS}")
    with Lake.open(config, read_only=True) as lake:
        assert list(known_heads(lake)) == []
    with Lake.open(config) as lake:
        note_head(lake, head(1), 5)
        assert list(known_heads(lake)) == [head(1)]


def test_workers_bring_the_head_to_the_lake(tmp_path: Path) -> None:
    with House(Settings(home=tmp_path / "home"), writer=True) as house:
        house.audit.record(Deed("ann", "export.made", "a"), 1)
        first = house.audit.head()
        with Workers(house) as workers:
            await_that(lambda: list(known_heads(house.lake)) == [first])
            house.audit.record(Deed("ann", "export.made", "b"), 2)
            workers.run_until_idle(threading.Event())
        second = house.audit.head()
    with House(Settings(home=tmp_path / "home")) as house:
        assert list(known_heads(house.lake)) == [first, second]


def test_metering_goes_on_while_the_control_database_keeps_the_head_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()

    def hung() -> Head:
        assert answer.wait(60)
        raise ControlUnavailable("the control database does not answer")

    with House(Settings(home=tmp_path / "home"), writer=True) as house:
        monkeypatch.setattr(house.audit, "head", hung)
        house.log.append(USAGE_EVENTS, [Message(b"acme", body(event()))])
        with Workers(house) as workers:
            workers.run_until_idle(threading.Event())
            assert workers.meter.committed == 1
        assert not answer.is_set()
        answer.set()
    with House(Settings(home=tmp_path / "home")) as house:
        assert list(known_heads(house.lake)) == []


def test_a_head_that_could_not_be_written_is_written_at_the_next_look(config: LakeConfig) -> None:
    heads: list[Head | Exception] = [ControlUnavailable("away"), head(1), head(1), head(3)]

    def read() -> Head:
        answer = heads.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with Lake.open(config) as lake:
        keeper = HeadKeeper(read, lake, lambda: 5)
        lake.close()  # DuckDB answers no more
        keeper.look()
        keeper.look()
    with Lake.open(config) as lake:
        keeper = HeadKeeper(read, lake, lambda: 5)
        keeper.look()
        keeper.look()
        assert list(known_heads(lake)) == [head(1), head(3)]
