"""The keys at hand: followed by a passed clock, known while the database is away; refusals told within bounds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from meterhouse.api.auth import notices
from meterhouse.api.auth.caller import NotAuthenticated
from meterhouse.api.auth.key_ring import KEEP_US, NOTED_EVERY_US, KeyRing
from meterhouse.api.auth.notices import EVERY_US, Notice, Notices
from meterhouse.streams.control import EMPTY
from meterhouse.warehouse import key_text
from meterhouse.warehouse.api_keys import ApiKeys, MadeKey, NewKey
from meterhouse.warehouse.control import ControlUnavailable
from meterhouse.warehouse.control_tables import AUDIT_LOG
from meterhouse.warehouse.database import open_database, sqlite_url

HOUR_US = 3_600_000_000
START_US = 1_790_000_000_000_000


class Keys(ApiKeys):
    """Keys of a database that may be away, and that counts writes."""

    away = False
    noted = 0

    def edition(self) -> tuple[int, int]:
        if self.away:
            raise ControlUnavailable("away")
        return super().edition()

    def note_use(self, used_us: dict[str, int]) -> None:  # type: ignore[override]
        if self.away:
            raise ControlUnavailable("away")
        self.noted += len(used_us)
        super().note_use(used_us)


class Rig:
    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self.now_us = START_US
        self.keys = Keys(engine)
        self.ring = KeyRing(self.keys, lambda: EMPTY, lambda: self.now_us)

    def make(self) -> MadeKey:
        return self.keys.create(NewKey(name="gate", role="gateway"), "ann", self.now_us)

    def shown(self, made: MadeKey) -> str:
        """Whom a key names, or why not."""
        try:
            return self.ring.caller_of(key_text.read(made.text)).id
        except NotAuthenticated as failed:
            return failed.reason

    def entries(self) -> list[tuple[str, str, int]]:
        with self.engine.begin() as connection:
            rows = connection.execute(
                sa.select(AUDIT_LOG).where(AUDIT_LOG.c.action == "access.refused").order_by(AUDIT_LOG.c.seq)
            ).mappings()
            return [(row["actor"], row["subject"], json.loads(row["detail"])["count"]) for row in rows]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    engine = open_database(sqlite_url(tmp_path / "control.sqlite"))
    yield Rig(engine)
    engine.dispose()


def test_both_keys_of_a_rotation_work_until_the_overlap_ends(rig: Rig) -> None:
    old = rig.make()
    new = rig.keys.rotate(old.key.id, 24 * HOUR_US, "ann", rig.now_us)
    rig.ring.look()
    assert (rig.shown(old), rig.shown(new)) == (f"key:{old.key.id}", f"key:{new.key.id}")
    rig.now_us += 24 * HOUR_US
    rig.ring.look()
    assert (rig.shown(old), rig.shown(new)) == ("expired", f"key:{new.key.id}")


def test_a_key_of_the_right_id_and_another_secret_opens_nothing(rig: Rig) -> None:
    made = rig.make()
    rig.ring.look()
    forged = key_text.write(bytes.fromhex(made.key.id), bytes(key_text.SECRET_BYTES))
    with pytest.raises(NotAuthenticated, match="wrong_secret"):
        rig.ring.caller_of(key_text.read(forged))
    rig.ring.note_uses()
    assert rig.keys.noted == 0


def test_a_server_whose_database_is_away_goes_on_for_an_hour(rig: Rig) -> None:
    made = rig.make()
    with pytest.raises(ControlUnavailable):
        rig.shown(made)  # it never knew any
    rig.ring.look()
    rig.keys.away = True
    rig.now_us += KEEP_US
    rig.ring.look()
    assert rig.shown(made) == f"key:{made.key.id}"
    rig.now_us += 1
    with pytest.raises(ControlUnavailable):
        rig.shown(made)
    rig.keys.away = False
    rig.ring.look()
    assert rig.shown(made) == f"key:{made.key.id}"


def test_a_revoked_key_is_void_at_the_next_look(rig: Rig) -> None:
    made = rig.make()
    rig.ring.look()
    rig.keys.revoke(made.key.id, "ann", rig.now_us)
    assert rig.shown(made) == f"key:{made.key.id}"
    rig.ring.look()
    assert rig.shown(made) == "revoked"


def test_last_use_is_written_once_a_minute_and_again_when_the_database_is_back(rig: Rig) -> None:
    made = rig.make()
    rig.ring.look()
    for _ in range(100):
        rig.shown(made)
        rig.ring.note_uses()
        rig.now_us += NOTED_EVERY_US // 50
    assert rig.keys.noted == 2
    rig.keys.away = True
    rig.now_us += NOTED_EVERY_US
    rig.shown(made)
    rig.ring.note_uses()
    rig.keys.away = False
    rig.ring.note_uses()
    assert (rig.keys.noted, rig.keys.all(rig.now_us)[0].last_used_us) == (3, rig.now_us)


# --- refusals --------------------------------------------------------------------------------------------------------


def refusal(who: str = "key:a", subject: str = "/v1/keys", reason: str = "GET /v1/keys") -> Notice:
    return Notice(who, "access.refused", reason, subject, "192.0.2.1")


def test_refusals_of_one_kind_are_an_entry_a_minute_with_their_number(rig: Rig) -> None:
    log = Notices(rig.engine, lambda: rig.now_us)
    log.note(refusal())
    log.write()
    for _ in range(500):
        log.note(refusal())
        log.write()
    assert rig.entries() == [("key:a", "/v1/keys", 1)]
    rig.now_us += EVERY_US
    log.write()
    assert rig.entries() == [("key:a", "/v1/keys", 1), ("key:a", "/v1/keys", 500)]
    rig.now_us += EVERY_US
    log.write()
    assert len(rig.entries()) == 2
    log.note(refusal())
    log.write()
    assert rig.entries()[2:] == [("key:a", "/v1/keys", 1)]


def test_whoever_has_many_addresses_fills_one_entry(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "MAX_TOLD_APART", 10)
    log = Notices(rig.engine, lambda: rig.now_us)
    for number in range(1_000):
        log.note(refusal(f"address:{number}"))
    log.write()
    assert rig.entries()[10:] == [("others", "/v1/keys", 990)]


def test_what_someone_chose_is_written_shortened_and_as_any_database_takes_it(rig: Rig) -> None:
    log = Notices(rig.engine, lambda: rig.now_us)
    log.note(refusal(subject="/v1/\0\ud800" + "x" * 10_000))
    log.write()
    assert rig.entries() == [("key:a", "/v1/??" + "x" * 194, 1)]
