"""Writes that may be sent again: the `Idempotency-Key` header (draft-ietf-httpapi-idempotency-key-header).

A route that makes something takes `OnceOf` and answers through it. What is idempotent by its nature (PUT, DELETE, an
acknowledgement) needs no key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

from fastapi import Depends, Header, Request
from fastapi.responses import Response
from pydantic import BaseModel

from meterhouse.api.auth.guard import CallerOf
from meterhouse.api.clock import now_us
from meterhouse.api.dependencies import HouseOf
from meterhouse.api.problems import Problem
from meterhouse.warehouse.idempotency import IdempotencyKeys, Keep, Kept, Repeated, Underway, Write

KEY_PATTERN: Final = r"^[\x21-\x7e]{1,255}$"

Make = Callable[[Keep], Mapping[str, Any]]
"""Does the write: gives its answer to `keep`, what that gives to the store's transaction, and returns the answer."""


class Once:
    """One request that writes: done once for each key of its caller. Without a key it is done."""

    def __init__(self, keys: Callable[[], IdempotencyKeys], request: Request, write: Write | None) -> None:
        self._keys = keys
        self._request = request
        self._write = write

    def answered(self, asked: BaseModel, make: Make, status: int, *, secret: bool = False) -> Response:
        """The answer of `make`, or the one that it gave before. `secret`: it holds one, so it is not kept, and who asks
        again is told so. Raises Problem (`conflict`), and whatever `make` does: then nothing was done."""
        if self._write is None:
            return _json(_body(make(lambda _: _nothing)), status)
        write, keys, digest = self._write, self._keys(), self._digest(asked)
        try:
            with keys.doing(write):
                if kept := keys.find(write, now_us()):
                    return _again(kept, digest)

                def keep(answer: Mapping[str, Any]) -> Callable[..., None]:
                    return keys.keeping(write, Kept(digest, status, None if secret else _body(answer)), now_us())

                return _json(_body(make(keep)), status)
        except Underway:
            raise Problem(
                "conflict",
                "The same request is being done. Wait, and send it again for its answer.",
                headers={"Retry-After": "1"},
            ) from None
        except Repeated:
            kept = keys.find(write, now_us())
            if kept is None:  # it was there a moment ago, and was a day old
                raise Problem("unavailable", "Try again.", headers={"Retry-After": "1"}) from None
            return _again(kept, digest)

    def _digest(self, asked: BaseModel) -> bytes:
        said = [self._request.method, self._request.url.path, asked.model_dump(mode="json", by_alias=True)]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).digest()


def _nothing(_: object) -> None:
    """Keeps nothing: there is no key."""


def _again(kept: Kept, digest: bytes) -> Response:
    if kept.digest != digest:
        raise Problem("conflict", "This Idempotency-Key was used for another request: give each request a new one.")
    if kept.body is None:
        raise Problem(
            "conflict",
            "This was done, and its answer held a secret, which is not kept. If you did not get it, replace what was"
            " made: rotate the key, or revoke it and make another.",
        )
    return _json(kept.body, kept.status)


def _body(answer: Mapping[str, Any]) -> bytes:
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _json(body: bytes, status: int) -> Response:
    return Response(body, status, media_type="application/json")


async def once(
    request: Request,
    house: HouseOf,
    who: CallerOf,
    key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            pattern=KEY_PATTERN,
            description="a new one for each thing to be made: sent again with it, this is answered the same and done"
            " once. Kept for a day",
        ),
    ] = None,
) -> Once:
    return Once(lambda: house.idempotency, request, None if key is None else Write(who.id, key))


OnceOf = Annotated[Once, Depends(once)]
