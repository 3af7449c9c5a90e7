"""API keys in the control database, on each twin: what is made, replaced and revoked, and what the audit log says."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa

from meterhouse.warehouse import key_text
from meterhouse.warehouse.api_keys import ApiKeys, KeyOver, KeyRefused, NewKey, NoSuchKey
from meterhouse.warehouse.control_tables import AUDIT_LOG
from meterhouse.warehouse.view import Grant

HOUR_US = 3_600_000_000
NOW_US = 1_790_000_000_000_000
OWNER = NewKey(name="owner", role="product_owner", grants=(Grant("acme"), Grant("borea", "search")))


@pytest.fixture
def keys(engine: sa.Engine) -> ApiKeys:
    return ApiKeys(engine)


def audited(engine: sa.Engine) -> list[tuple[str, str, str, dict[str, Any]]]:
    with engine.begin() as connection:
        rows = connection.execute(sa.select(AUDIT_LOG).order_by(AUDIT_LOG.c.seq)).mappings().all()
    return [(row["actor"], row["action"], row["subject"], json.loads(row["detail"])) for row in rows]


def test_a_key_is_stored_without_its_secret(keys: ApiKeys, engine: sa.Engine) -> None:
    made = keys.create(OWNER, "os:ann", NOW_US)
    assert keys.all(NOW_US) == [made.key]
    assert (made.key.grants, made.key.secret_hash) == (OWNER.grants, key_text.read(made.text).secret_hash)
    told = {"key": made.key.id, "name": "owner", "role": "product_owner", "grants": ["acme", "borea/search"],
            "expires_us": None}  # fmt: skip
    assert audited(engine) == [("os:ann", "key.created", f"key:{made.key.id}", told)]
    secret = made.text.rpartition("_")[2]
    with engine.begin() as connection:
        stored = connection.execute(sa.text("SELECT * FROM api_keys")).all() + connection.execute(
            sa.text("SELECT * FROM audit_log")
        ).all()  # fmt: skip
    assert secret[:20] not in str(stored)


def test_a_replaced_key_goes_on_for_the_overlap(keys: ApiKeys, engine: sa.Engine) -> None:
    old = keys.create(NewKey(name="gate", role="gateway", expires_us=NOW_US + 100 * HOUR_US), "os:ann", NOW_US).key
    later_us = NOW_US + HOUR_US
    new = keys.rotate(old.id, 24 * HOUR_US, "key:a", later_us).key
    assert (new.replaces, new.role, new.name, new.expires_us) == (old.id, "gateway", "gate", later_us + 100 * HOUR_US)
    ends_us = later_us + 24 * HOUR_US
    [before, after] = keys.all(later_us)
    assert [before.standing(at) for at in (ends_us - 1, ends_us)] == ["in_force", "expired"]
    assert after.standing(ends_us) == "in_force"
    [_, (actor, action, subject, detail)] = audited(engine)
    assert (actor, action, subject, detail["key"], detail["old_expires_us"]) == (
        "key:a", "key.rotated", f"key:{old.id}", new.id, ends_us,
    )  # fmt: skip


def test_an_overlap_never_lengthens_a_keys_life(keys: ApiKeys) -> None:
    old = keys.create(NewKey(name="gate", role="gateway", expires_us=NOW_US + HOUR_US), "os:ann", NOW_US).key
    keys.rotate(old.id, 24 * HOUR_US, "os:ann", NOW_US)
    assert keys.all(NOW_US)[0].expires_us == NOW_US + HOUR_US


def test_a_revoked_key_is_void_at_once_and_revoked_once(keys: ApiKeys, engine: sa.Engine) -> None:
    made = keys.create(OWNER, "os:ann", NOW_US).key
    before = keys.edition()
    for moment_us in (NOW_US + 1, NOW_US + 2):
        assert keys.revoke(made.id, "key:b", moment_us).revoked_us == NOW_US + 1
    assert keys.all(NOW_US + 3)[0].standing(NOW_US + 3) == "revoked"
    assert [action for _, action, _, _ in audited(engine)] == ["key.created", "key.revoked"]
    assert keys.edition() != before


def test_what_cannot_be_done_changes_nothing(keys: ApiKeys, engine: sa.Engine) -> None:
    made = keys.create(OWNER, "os:ann", NOW_US).key
    keys.revoke(made.id, "os:ann", NOW_US)
    before, edition = audited(engine), keys.edition()
    with pytest.raises(KeyOver, match="is revoked: create a new one"):
        keys.rotate(made.id, HOUR_US, "os:ann", NOW_US)
    with pytest.raises(KeyRefused, match="later than now"):
        keys.create(NewKey(name="late", role="admin", expires_us=NOW_US), "os:ann", NOW_US)
    for strange in ("nobody", "\0", "\ud800"):
        with pytest.raises(NoSuchKey):
            keys.revoke(strange, "os:ann", NOW_US)
    assert (audited(engine), keys.edition()) == (before, edition)


def test_the_number_of_keys_in_force_has_a_limit(keys: ApiKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meterhouse.warehouse.api_keys.MAX_KEYS", 2)
    first = keys.create(OWNER, "os:ann", NOW_US).key
    keys.create(OWNER, "os:ann", NOW_US)
    with pytest.raises(KeyRefused, match="revoke those that nobody uses"):
        keys.create(OWNER, "os:ann", NOW_US)
    keys.revoke(first.id, "os:ann", NOW_US)
    keys.create(OWNER, "os:ann", NOW_US)


@pytest.mark.parametrize(
    ("name", "grants"),
    [(" ", None), ("x" * 101, None), ("x", tuple(Grant(f"t-{i}") for i in range(201))), ("x", (Grant("t", "\0"),))],
)
def test_a_key_that_cannot_be_is_refused(name: str, grants: tuple[Grant, ...] | None) -> None:
    with pytest.raises(KeyRefused):
        NewKey(name=name, role="gateway", grants=grants)


def test_last_use_only_moves_on(keys: ApiKeys) -> None:
    made = keys.create(OWNER, "os:ann", NOW_US).key
    other = keys.create(OWNER, "os:ann", NOW_US + 1).key
    keys.note_use({made.id: NOW_US + 5, other.id: NOW_US + 6})
    keys.note_use({made.id: NOW_US + 4, "gone": NOW_US})
    assert [key.last_used_us for key in keys.all(NOW_US)] == [NOW_US + 5, NOW_US + 6]


def test_keys_that_are_over_are_listed_for_a_while(keys: ApiKeys) -> None:
    keys.revoke(keys.create(OWNER, "os:ann", NOW_US).key.id, "os:ann", NOW_US)
    assert [len(keys.all(NOW_US + days * 24 * HOUR_US)) for days in (89, 91)] == [1, 0]
    assert keys.edition() == (1, 1)
