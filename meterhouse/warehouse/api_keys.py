"""API keys in the control database. A key is never removed: what it did stays to be told. Each change is in the audit
log by the same transaction."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import sqlalchemy as sa

from meterhouse.ingest.validate import text_fault
from meterhouse.streams.alerts import storable
from meterhouse.warehouse import audit, key_text
from meterhouse.warehouse.control_tables import API_KEYS as TABLE
from meterhouse.warehouse.database import Along, available, reading, writing
from meterhouse.warehouse.view import Grant

MAX_KEYS: Final = 10_000
"""That are in force: each server holds all in memory, and reads all anew when one changes (some tens of ms)."""
MAX_GRANTS: Final = 200
"""Of a key: every request looks through them. Who sees more tenants than this is `finance`."""
MAX_NAME: Final = 100
"""Characters: it stands beside acknowledgements and in the audit log."""
MAX_LIFE_US: Final = 5 * 366 * 86_400 * 1_000_000
"""An end that is further away is a typing error."""
MAX_OVERLAP_US: Final = 30 * 86_400 * 1_000_000
"""A month: an old key that is still needed then was not replaced."""
TOLD_US: Final = 90 * 86_400 * 1_000_000
"""Keys that are over are listed for so long: who still uses one is told why it fails."""

Beside = Callable[["MadeKey"], Along]
Standing = Literal["in_force", "expired", "revoked"]


class KeyRefused(ValueError):
    """The key cannot be made or replaced; the message says what to do."""


class KeyOver(Exception):
    """The key is expired or revoked: nothing can be done with it any more."""


class NoSuchKey(Exception):
    """There is no key of this id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key to be made. `grants` None: no key of its own tenants. Raises KeyRefused."""

    name: str
    role: str
    grants: tuple[Grant, ...] | None = None
    expires_us: int | None = None

    def __post_init__(self) -> None:
        if not self.name.strip() or len(self.name) > MAX_NAME:
            raise KeyRefused(f"a key's name has 1 to {MAX_NAME} characters: say who or what uses it")
        if len(self.grants or ()) > MAX_GRANTS:
            raise KeyRefused(f"a key has at most {MAX_GRANTS} grants: use the role finance, or several keys")
        for grant in self.grants or ():
            if grant.application is not None and (fault := text_fault(grant.application)):
                raise KeyRefused(f"the application of a grant {fault}: no event can be of it")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey:
    """A key without its secret. Times are microseconds."""

    id: str
    name: str
    role: str
    grants: tuple[Grant, ...] | None
    secret_hash: bytes
    created_us: int
    created_by: str
    expires_us: int | None = None
    revoked_us: int | None = None
    replaces: str | None = None
    last_used_us: int | None = None

    def standing(self, now_us: int) -> Standing:
        if self.revoked_us is not None:
            return "revoked"
        return "expired" if self.expires_us is not None and self.expires_us <= now_us else "in_force"


@dataclass(frozen=True, slots=True)
class MadeKey:
    """A new key and, for this once, its text."""

    key: StoredKey
    text: str


class ApiKeys:
    """The keys of a control database. Every method may raise ControlUnavailable."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def create(self, new: NewKey, actor: str, now_us: int, beside: Beside | None = None) -> MadeKey:
        """A new key. `beside`: what is done in the same transaction, given the key. Raises KeyRefused."""
        if new.expires_us is not None and not now_us < new.expires_us <= now_us + MAX_LIFE_US:
            raise KeyRefused("a key expires later than now, and within five years")
        with available(), writing(self._engine) as connection:
            made = _insert(connection, new, actor, now_us, None)
            if beside is not None:
                beside(made)(connection)
            audit.append(connection, audit.Deed(actor, "key.created", f"key:{made.key.id}", _told(made.key)), now_us)
        return made

    def rotate(self, key_id: str, overlap_us: int, actor: str, now_us: int, beside: Beside | None = None) -> MadeKey:
        """A new key with the role and grants of an old one, for as long from now on as that was made for; the old one
        goes on for the overlap and expires. `beside` as `create` has it. Raises KeyRefused, KeyOver, NoSuchKey."""
        if not 0 <= overlap_us <= MAX_OVERLAP_US:
            raise KeyRefused("an old key goes on for 0 to 30 days")
        with available(), writing(self._engine) as connection:
            old = _one(connection, key_id)
            if (standing := old.standing(now_us)) != "in_force":
                raise KeyOver(f"key {key_id} is {standing}: create a new one")
            life_us = None if old.expires_us is None else old.expires_us - old.created_us
            ends_us = min(now_us + overlap_us, old.expires_us or now_us + overlap_us)
            renewed = NewKey(
                name=old.name,
                role=old.role,
                grants=old.grants,
                expires_us=None if life_us is None else now_us + life_us,
            )
            made = _insert(connection, renewed, actor, now_us, old.id)
            if beside is not None:
                beside(made)(connection)
            connection.execute(sa.update(TABLE).where(TABLE.c.id == old.id).values(expires_us=ends_us))
            detail = {**_told(made.key), "old_expires_us": ends_us}
            audit.append(connection, audit.Deed(actor, "key.rotated", f"key:{old.id}", detail), now_us)
        return made

    def revoke(self, key_id: str, actor: str, now_us: int) -> StoredKey:
        """The key is void from now on; revoked again it stays as it is. Raises NoSuchKey."""
        with available(), writing(self._engine) as connection:
            old = _one(connection, key_id)
            if old.revoked_us is None:
                connection.execute(sa.update(TABLE).where(TABLE.c.id == key_id).values(revoked_us=now_us))
                audit.append(connection, audit.Deed(actor, "key.revoked", f"key:{key_id}", _told(old)), now_us)
            return _one(connection, key_id)

    def all(self, now_us: int) -> Sequence[StoredKey]:
        """Keys in force and those that are over since TOLD_US at most, the oldest first."""
        over_us = now_us - TOLD_US
        query = (
            sa.select(TABLE)
            .where(sa.func.coalesce(TABLE.c.revoked_us, now_us) > over_us)
            .where(sa.func.coalesce(TABLE.c.expires_us, now_us) > over_us)
            .order_by(TABLE.c.created_us, TABLE.c.id)
        )
        with available(), reading(self._engine) as connection:
            return [_key(row) for row in connection.execute(query).mappings()]

    def edition(self) -> tuple[int, int]:
        """Another value after each change of a key: a small read, for polling. (Keys ever made, keys revoked.)"""
        query = sa.select(sa.func.count(), sa.func.count(TABLE.c.revoked_us)).select_from(TABLE)
        with available(), reading(self._engine) as connection:
            made, revoked = connection.execute(query).one()
            return made, revoked

    def note_use(self, used_us: Mapping[str, int]) -> None:
        """Notes when each key was last used; a key that was used later already stays as it is."""
        earlier = sa.func.coalesce(TABLE.c.last_used_us, 0) < sa.bindparam("at_us")
        noted = sa.update(TABLE).where(TABLE.c.id == sa.bindparam("key_id"), earlier)
        with available(), writing(self._engine) as connection:
            connection.execute(
                noted.values(last_used_us=sa.bindparam("at_us")),
                [{"key_id": key_id, "at_us": at_us} for key_id, at_us in used_us.items()],
            )


def _insert(connection: sa.Connection, new: NewKey, actor: str, now_us: int, replaces: str | None) -> MadeKey:
    in_force = sa.and_(TABLE.c.revoked_us.is_(None), sa.func.coalesce(TABLE.c.expires_us, now_us + 1) > now_us)
    if connection.execute(sa.select(sa.func.count()).where(in_force)).scalar_one() >= MAX_KEYS:
        raise KeyRefused(f"there are {MAX_KEYS:,} keys in force already: revoke those that nobody uses")
    text = key_text.write(secrets.token_bytes(key_text.ID_BYTES), secrets.token_bytes(key_text.SECRET_BYTES))
    shown = key_text.read(text)
    key = StoredKey(
        id=shown.id,
        name=storable(new.name.strip()),
        role=new.role,
        grants=new.grants,
        secret_hash=shown.secret_hash,
        created_us=now_us,
        created_by=storable(actor),
        expires_us=new.expires_us,
        replaces=replaces,
    )
    connection.execute(
        sa.insert(TABLE).values(
            id=key.id, name=key.name, role=key.role, secret_hash=key.secret_hash, created_us=now_us,
            created_by=key.created_by, expires_us=key.expires_us, replaces=replaces,
            grants=sa.null() if key.grants is None else [[g.tenant, g.application] for g in key.grants],
        )
    )  # fmt: skip
    return MadeKey(key, text)


def _one(connection: sa.Connection, key_id: str) -> StoredKey:
    row = connection.execute(sa.select(TABLE).where(TABLE.c.id == storable(key_id))).mappings().first()
    if row is None:
        raise NoSuchKey(f"there is no key {key_id!r}: `keys list` (GET /v1/keys) lists them")
    return _key(row)


def _key(row: sa.RowMapping) -> StoredKey:
    grants = row["grants"]
    return StoredKey(**{**row, "grants": None if grants is None else tuple(Grant(*grant) for grant in grants)})


def _told(key: StoredKey) -> dict[str, Any]:
    """What the audit log says of a key."""
    return {
        "key": key.id,
        "name": key.name,
        "role": key.role,
        "grants": None if key.grants is None else [str(grant) for grant in key.grants],
        "expires_us": key.expires_us,
    }
