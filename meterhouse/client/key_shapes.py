"""What is sent and comes back of API keys, callers and the audit log."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from meterhouse.client.shapes import Shape


class Grant(Shape, frozen=True, kw_only=True):
    """A tenant, or one application of it."""

    tenant: str
    application: str | None = None


class NewKey(Shape, frozen=True, kw_only=True):
    name: str
    role: str
    grants: list[Grant] | None = None
    expires: datetime | None = None


class Rotation(Shape, frozen=True, kw_only=True):
    overlap_s: int


class Key(Shape, frozen=True, kw_only=True):
    id: str
    name: str
    role: str
    grants: list[Grant] | None
    standing: str
    created: datetime
    created_by: str
    expires: datetime | None
    revoked: datetime | None
    replaces: str | None
    last_used: datetime | None


class MadeKey(Key, frozen=True, kw_only=True):
    """`key` is shown this once."""

    key: str


class Keys(Shape, frozen=True, kw_only=True):
    keys: list[Key]


class Me(Shape, frozen=True, kw_only=True):
    id: str
    name: str
    role: str
    grants: list[Grant] | None
    permissions: list[str]


class AuditEntry(Shape, frozen=True, kw_only=True):
    seq: int
    at: datetime
    actor: str
    action: str
    subject: str
    detail: Mapping[str, Any]
    hash: str


class AuditPage(Shape, frozen=True, kw_only=True):
    entries: list[AuditEntry]
    next: str | None
