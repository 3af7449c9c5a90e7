"""Shapes of the audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field


class AuditEntry(BaseModel):
    """What someone did. `hash` follows from the entry and the hash of the one before."""

    seq: int = Field(ge=1, description="its number: without gap from 1")
    at: datetime
    actor: str = Field(description="`key:<id>`, `oidc:<subject>`, `local`, or a user of the server's machine")
    action: str = Field(examples=["control.applied"], description="noun.verb")
    subject: str = Field(description="what it was done to")
    detail: dict[str, Any]
    hash: str = Field(pattern=r"^[0-9a-f]{64}$")


class AuditEntries(BaseModel):
    entries: list[AuditEntry]
    next: str | None = Field(description="give it as `after` for the next page; null: this is the last")
