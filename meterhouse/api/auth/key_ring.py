"""The keys of a server, at hand: a request waits for no database."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from meterhouse.api.auth.caller import Caller, NotAuthenticated, Role, view_of
from meterhouse.streams.control import Snapshot
from meterhouse.warehouse.api_keys import ApiKeys, StoredKey
from meterhouse.warehouse.control import ControlUnavailable
from meterhouse.warehouse.key_text import KeyText

KEEP_US: Final = 3_600 * 1_000_000
"""A server whose control database is away goes on with the keys that it knows for an hour. While nobody reaches the
database nobody can revoke a key either; an hour is as long as a server that alone lost it may go on."""
NOTED_EVERY_US: Final = 60 * 1_000_000
"""How exact `last used` is: a write a minute for each key that is in use."""

_NO_HASH: Final = bytes(32)
_ROLES: Final = frozenset(Role)  # a key of a role that a newer version has opens nothing here

_log = structlog.get_logger("meterhouse.auth")


@dataclass(frozen=True, slots=True)
class _Hung:
    key: StoredKey
    caller: Caller


class KeyRing:
    """Follows keys and tenants: `look` and `note_uses` are called by one thread, `caller_of` by any."""

    def __init__(self, keys: ApiKeys, snapshots: Callable[[], Snapshot], clock: Callable[[], int]) -> None:
        self._keys, self._snapshots, self._clock = keys, snapshots, clock
        self._hung: dict[str, _Hung] = {}
        self._seen: tuple[tuple[int, int], int] | None = None  # the keys' edition, control data's version
        self._seen_us = 0
        self._tenants = frozenset[str]()
        self._used_us: dict[str, int] = {}
        self._noted_us: dict[str, int] = {}

    @property
    def any_made(self) -> bool:
        """Whether there ever was a key. Raises ControlUnavailable: not known so far."""
        if self._seen is None:
            raise ControlUnavailable("API keys are not known yet")
        return self._seen[0][0] > 0

    @property
    def tenants(self) -> frozenset[str]:
        """Those that control data knows. Raises ControlUnavailable: they were last seen too long ago."""
        self._check_age()
        return self._tenants

    def look(self) -> None:
        """Takes over what changed since the last look."""
        try:
            edition, snapshot = self._keys.edition(), self._snapshots()
            if self._seen != (edition, snapshot.version):
                tenants = frozenset(tenant.id for tenant in snapshot.tenants)
                keys = [key for key in self._keys.all(self._clock()) if key.role in _ROLES]
                self._hung = {key.id: _Hung(key, _caller(key, tenants)) for key in keys}
                self._tenants = tenants
                self._seen = edition, snapshot.version
        except ControlUnavailable as away:
            _log.warning("keys are not to be had; the last are used", reason=str(away))
            return
        self._seen_us = self._clock()

    def caller_of(self, shown: KeyText) -> Caller:
        """Who shows this key. Raises NotAuthenticated; ControlUnavailable: keys were last seen too long ago."""
        self._check_age()
        hung = self._hung.get(shown.id)
        # An id that nobody has is compared too: it takes as long as a wrong secret.
        fits = hmac.compare_digest(_NO_HASH if hung is None else hung.key.secret_hash, shown.secret_hash)
        if hung is None or not fits:
            raise NotAuthenticated("unknown_key" if hung is None else "wrong_secret", claimed=shown.id)
        return self._used(hung)

    def holder_of(self, key_id: str) -> Caller:
        """Who showed the key of this id when a session began. Raises as `caller_of`."""
        self._check_age()
        hung = self._hung.get(key_id)
        if hung is None:
            raise NotAuthenticated("unknown_key", claimed=key_id)
        return self._used(hung)

    def _used(self, hung: _Hung) -> Caller:
        now_us = self._clock()
        if (standing := hung.key.standing(now_us)) != "in_force":
            raise NotAuthenticated(standing, claimed=hung.key.id)
        self._used_us[hung.key.id] = now_us
        return hung.caller

    def note_uses(self, *, every_us: int = NOTED_EVERY_US) -> None:
        """Writes when keys were last used, those that were not written within `every_us`."""
        used = dict(self._used_us)
        due = {key_id: us for key_id, us in used.items() if us - self._noted_us.get(key_id, -every_us) >= every_us}
        if not due:
            return
        try:
            self._keys.note_use(due)
        except ControlUnavailable as away:
            _log.warning("when keys were used is noted later", reason=str(away))
            return
        self._noted_us |= due

    def _check_age(self) -> None:
        if self._seen is None or self._clock() - self._seen_us > KEEP_US:
            raise ControlUnavailable("API keys cannot be read, so that nobody is known")


def _caller(key: StoredKey, tenants: frozenset[str]) -> Caller:
    role = Role(key.role)
    return Caller(f"key:{key.id}", key.name, role, view_of(role, key.grants, tenants))
