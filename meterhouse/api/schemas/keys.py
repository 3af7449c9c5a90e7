"""Shapes of API keys and callers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field

from meterhouse.api.auth.caller import Permission, Role
from meterhouse.api.schemas.admissions import EventText
from meterhouse.api.schemas.common import as_whole
from meterhouse.warehouse.api_keys import MAX_GRANTS, MAX_NAME

_DAY_S = 86_400


class Grant(BaseModel):
    """A tenant, or one application of it."""

    model_config = ConfigDict(extra="forbid")
    tenant: EventText = Field(examples=["acme-retail"])
    application: EventText | None = Field(None, description="null: all of the tenant")


class NewKey(BaseModel):
    """A key to be made."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME)] = Field(description="who or what uses it")
    role: Role
    grants: Annotated[list[Grant], Field(max_length=MAX_GRANTS)] | None = Field(
        None, description="a product_owner has one at least; a gateway may: null, and it publishes for all tenants"
    )
    expires: AwareDatetime | None = Field(None, description="within five years; null: it does not")


class Rotation(BaseModel):
    """How a key is replaced."""

    model_config = ConfigDict(extra="forbid")
    overlap_s: Annotated[int, Field(strict=True, ge=0, le=30 * _DAY_S), BeforeValidator(as_whole)] = Field(
        _DAY_S, description="how long the old key goes on, seconds"
    )


class Key(BaseModel):
    """A key without its secret."""

    id: str = Field(description="public: the audit log names the key by it")
    name: str
    role: Role
    grants: list[Grant] | None = Field(description="null: the role's own view")
    standing: Literal["in_force", "expired", "revoked"]
    created: datetime
    created_by: str
    expires: datetime | None
    revoked: datetime | None
    replaces: str | None = Field(description="the key that this one was made for, by rotation")
    last_used: datetime | None = Field(description="to about a minute")


class MadeKey(Key):
    key: str = Field(description="the key itself: shown this once, and stored nowhere")


class Keys(BaseModel):
    keys: list[Key]


class Me(BaseModel):
    """Who asks."""

    id: str = Field(description="`key:<id>`, `oidc:<subject>`, or `local`: authentication is off")
    name: str
    role: Role
    grants: list[Grant] | None = Field(description="what is seen; null: everything")
    permissions: list[Permission]
