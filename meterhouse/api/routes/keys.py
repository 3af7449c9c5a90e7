"""API keys over HTTP, and who one is."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends
from fastapi.responses import Response

from meterhouse.api.auth.caller import PERMITTED, Permission
from meterhouse.api.auth.guard import CallerOf, only
from meterhouse.api.dependencies import HouseOf, body_of, request_body
from meterhouse.api.key_desk import KeyDesk, grants_json
from meterhouse.api.once import OnceOf
from meterhouse.api.problems import responses
from meterhouse.api.schemas import keys as schemas
from meterhouse.warehouse.idempotency import Keep
from meterhouse.warehouse.reports.groups import microseconds_of
from meterhouse.warehouse.view import Grant

router = APIRouter(
    prefix="/v1", tags=["keys"], responses=responses("unauthenticated", "forbidden", "rate-limited", "unavailable")
)

MANAGE: Final = only(Permission.manage_keys)


def _desk(house: HouseOf, who: CallerOf) -> KeyDesk:
    return KeyDesk(house, who.id)


DeskOf = Annotated[KeyDesk, Depends(_desk)]


@router.get("/me", dependencies=only(Permission.read_self), response_model=schemas.Me, summary="Who am I?")
async def me(who: CallerOf) -> dict[str, Any]:
    """The caller as this server knows it: role, what it may do, and what it sees."""
    return {
        "id": who.id,
        "name": who.name,
        "role": who.role,
        "grants": grants_json(who.view.grants),
        "permissions": sorted(PERMITTED[who.role]),
    }


@router.get("/keys", dependencies=MANAGE, response_model=schemas.Keys, summary="API keys")
def keys(desk: DeskOf) -> dict[str, Any]:
    """Those in force, and those that were over less than 90 days ago; never with their secrets."""
    return desk.list()


@router.post(
    "/keys",
    dependencies=MANAGE,
    response_model=schemas.MadeKey,
    status_code=201,
    summary="Create an API key",
    responses=responses("invalid-parameter", "malformed-body", "too-large", "too-slow", "conflict"),
    openapi_extra=request_body(schemas.NewKey),
)
def create_key(
    desk: DeskOf, once: OnceOf, asked: Annotated[schemas.NewKey, Depends(body_of(schemas.NewKey))]
) -> Response:
    """A new key. Its text is in this answer and nowhere else: who loses it makes another. With an `Idempotency-Key` it
    is made once; sent again, this is answered with 409, since its text is not kept."""
    grants = None if asked.grants is None else [Grant(each.tenant, each.application) for each in asked.grants]
    expires_us = None if asked.expires is None else microseconds_of(asked.expires)

    def make(keep: Keep) -> dict[str, Any]:
        return desk.create(asked.name, asked.role, grants, expires_us, keep)

    return once.answered(asked, make, 201, secret=True)


@router.post(
    "/keys/{key_id}/rotation",
    dependencies=MANAGE,
    response_model=schemas.MadeKey,
    status_code=201,
    summary="Replace an API key",
    responses=responses("invalid-parameter", "malformed-body", "not-found", "conflict", "too-large", "too-slow"),
    openapi_extra=request_body(schemas.Rotation),
)
def rotate_key(
    desk: DeskOf, once: OnceOf, key_id: str, asked: Annotated[schemas.Rotation, Depends(body_of(schemas.Rotation))]
) -> Response:
    """A new key with the role and grants of an old one, made for as long. The old one goes on for the overlap, a day if
    nothing is said, and expires. With an `Idempotency-Key` as for a new key."""

    def make(keep: Keep) -> dict[str, Any]:
        return desk.rotate(key_id, asked.overlap_s * 1_000_000, keep)

    return once.answered(asked, make, 201, secret=True)


@router.delete(
    "/keys/{key_id}",
    dependencies=MANAGE,
    status_code=204,
    summary="Revoke an API key",
    responses=responses("not-found"),
)
def revoke_key(desk: DeskOf, key_id: str) -> Response:
    """It is void from now on; servers know within a second."""
    desk.revoke(key_id)
    return Response(status_code=204)
