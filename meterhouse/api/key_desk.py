"""API keys as JSON: one way for the command line and the HTTP API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meterhouse.api.alert_desk import NoSuch
from meterhouse.api.auth.caller import Role, RoleMisfit, check_grants
from meterhouse.api.clock import now_us
from meterhouse.api.wiring import House
from meterhouse.streams.alert import rfc3339
from meterhouse.warehouse.api_keys import Beside, KeyRefused, MadeKey, NewKey, NoSuchKey, StoredKey
from meterhouse.warehouse.idempotency import Keep
from meterhouse.warehouse.reports.errors import ReportError
from meterhouse.warehouse.view import Grant

Json = dict[str, Any]


class KeyDesk:
    """Keys of a house, for an `actor` whom the audit log names. Wrong input raises ReportError, an unknown id NoSuch, a
    database that does not answer ControlUnavailable."""

    def __init__(self, house: House, actor: str) -> None:
        self._house, self._actor = house, actor

    def create(
        self, name: str, role: Role, grants: Sequence[Grant] | None, expires_us: int | None, keep: Keep | None = None
    ) -> Json:
        """A new key, with its text for this once. `keep`: keeps with it that it was made."""
        try:
            check_grants(role, grants)
            self._check_known(grants or ())
            new = NewKey(name=name, role=role, grants=None if grants is None else tuple(grants), expires_us=expires_us)
            made = self._house.keys.create(new, self._actor, now_us(), _beside(keep))
        except (RoleMisfit, KeyRefused) as wrong:
            raise ReportError(str(wrong)) from None
        return made_json(made)

    def list(self) -> Json:
        """Keys in force, and those that were over less than 90 days ago; the oldest first."""
        at_us = now_us()
        return {"keys": [key_json(key, at_us) for key in self._house.keys.all(at_us)]}

    def rotate(self, key_id: str, overlap_us: int, keep: Keep | None = None) -> Json:
        """A new key in place of an old one, which goes on for the overlap. `keep` as `create` has it."""
        try:
            return made_json(self._house.keys.rotate(key_id, overlap_us, self._actor, now_us(), _beside(keep)))
        except KeyRefused as wrong:
            raise ReportError(str(wrong)) from None
        except NoSuchKey as none:
            raise NoSuch(str(none)) from None

    def revoke(self, key_id: str) -> Json:
        """Ends a key now. Revoked again it stays as it is."""
        try:
            return key_json(self._house.keys.revoke(key_id, self._actor, now_us()), now_us())
        except NoSuchKey as none:
            raise NoSuch(str(none)) from None

    def _check_known(self, grants: Sequence[Grant]) -> None:
        known = {tenant.id for tenant in self._house.control.snapshot().tenants}
        if unknown := sorted({grant.tenant for grant in grants} - known):
            raise ReportError(
                f"control data has no tenant {', '.join(unknown)}: `meterhouse apply` it first, or mend the grant"
            )


def _beside(keep: Keep | None) -> Beside | None:
    return None if keep is None else lambda made: keep(made_json(made))


def key_json(key: StoredKey, at_us: int) -> Json:
    """A key without its secret, as it stands at `at_us`."""
    return {
        "id": key.id,
        "name": key.name,
        "role": key.role,
        "grants": grants_json(key.grants),
        "standing": key.standing(at_us),
        "created": rfc3339(key.created_us),
        "created_by": key.created_by,
        "expires": rfc3339(key.expires_us),
        "revoked": rfc3339(key.revoked_us),
        "replaces": key.replaces,
        "last_used": rfc3339(key.last_used_us),
    }


def made_json(made: MadeKey) -> Json:
    return {**key_json(made.key, made.key.created_us), "key": made.text}


def grants_json(grants: Sequence[Grant] | None) -> list[Json] | None:
    if grants is None:
        return None
    return [{"tenant": grant.tenant, "application": grant.application} for grant in grants]
