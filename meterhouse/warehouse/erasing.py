"""Rows without a user: what an erasure leaves of them. Figures, keys and places stay, so every sum does.

Of a row of the user: `user` and `labels` go; where the id stands as a word of its own in `request_id`,
`reservation_id` or `source`, a digest stands in its place, the same for the same text, so that both sides of a request
still meet. Of a reject that names the user the bytes and the detail go.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from meterhouse.ingest.batch import Reject
from meterhouse.streams.ledger import Processed

ERASED: Final = "the bytes named a user whose rows were erased: they are gone, discard this reject"
"""What such a reject says in place of its detail."""

_DROPPED: Final = ("user", "labels")
_TEXTS: Final = ("request_id", "reservation_id", "source")
_PREFIX: Final = "erased-"
_HEX: Final = 32
"""Of a digest: 128 bits, which no two of a lake's texts share."""


def digest(key: bytes, tenant: str | None, text: str) -> str:
    """What stands for a user, or for a text that names one. Without the key nobody can try ids until one fits."""
    said = json.dumps([tenant, text], ensure_ascii=False).encode("utf-8", "surrogatepass")
    return hmac.digest(key, said, "sha256").hex()[:_HEX]


def names(text: str, user: str) -> bool:
    """Whether the user's id stands in the text as a word of its own."""
    return re.search(rf"(?<!\w){re.escape(user)}(?!\w)", text) is not None


def payload_names(payload: bytes, user: str) -> bool:
    """Whether an event's bytes hold the user's id as a JSON text, in whichever way it may be written there."""
    forms = {json.dumps(user, ensure_ascii=ascii_only) for ascii_only in (True, False)}
    return any(form.encode("utf-8", "surrogatepass") in payload for form in forms)


@dataclass(frozen=True, slots=True)
class Erased:
    """Users who were erased: (tenant, digest) → until when events that arrived are without them, microseconds."""

    key: bytes
    until_us: Mapping[tuple[str, str], int]

    def named(self, tenant: str, user: str) -> int | None:
        return self.until_us.get((tenant, digest(self.key, tenant, user)))


def without(unit: Processed, erased: Erased) -> Processed:
    """A unit that a meter is about to commit, without users who were erased since their events arrived: those that the
    log still has, and a replay reads again."""
    if not erased.until_us:
        return unit
    tenants = {tenant for tenant, _ in erased.until_us}
    charges = unit.charges
    mine = pc.and_(pc.is_in(charges["tenant"].cast(pa.string()), pa.array(sorted(tenants))), charges["user"].is_valid())
    rows = np.flatnonzero(mine.to_numpy(zero_copy_only=False))
    if len(rows):
        found = charges.select(["tenant", "user", "arrived"]).take(rows)
        arrivals = pc.cast(found["arrived"], pa.int64()).to_numpy()
        told = zip(found["tenant"].to_pylist(), found["user"].to_pylist(), arrivals, strict=True)
        known: dict[tuple[str, str], int] = {}
        hits = [_until(erased, known, str(tenant), str(user)) >= arrived for tenant, user, arrived in told]
        charges = erased_rows(charges, rows[np.array(hits, bool)], erased.key)
    rejects = [_without(reject, erased) if reject.tenant in tenants else reject for reject in unit.rejects]
    return replace(unit, charges=charges, rejects=rejects)


def erased_rows(charges: pa.Table, rows: npt.NDArray[np.int64], key: bytes) -> pa.Table:
    """Charges of which `rows` are without their user. Columns keep their types."""
    if not len(rows):
        return charges
    tenants, users = (charges[name].take(rows).to_pylist() for name in ("tenant", "user"))

    def told(values: Sequence[str | None]) -> list[str | None]:
        return [
            value if value is None or not names(value, str(user)) else _PREFIX + digest(key, tenant, value)
            for value, tenant, user in zip(values, tenants, users, strict=True)
        ]

    for name in _TEXTS:
        charges = _replaced(charges, name, rows, told)
    for name in _DROPPED:
        charges = _replaced(charges, name, rows, lambda values: [None] * len(values))
    return charges


def renamed_requests(charges: pa.Table, key: bytes) -> dict[str, str]:
    """Request ids of a user's charges that name the user → what stands in their place; nodes tell of the same."""
    return {
        request: _PREFIX + digest(key, tenant, request)
        for tenant, user, request in zip(*(charges[name].to_pylist() for name in _KEYS), strict=True)
        if request is not None and names(request, user)
    }


_KEYS: Final = ("tenant", "user", "request_id")


def renamed(nodes: pa.Table, requests: Mapping[str, str], tenant: str) -> pa.Table:
    """Node events of the tenant with these requests under their other names."""
    ids, tenants = nodes["request_id"].to_pylist(), nodes["tenant"].to_pylist()
    rows = [row for row, (id_, of) in enumerate(zip(ids, tenants, strict=True)) if of == tenant and id_ in requests]
    return _replaced(nodes, "request_id", np.array(rows, np.int64), lambda values: [requests[str(v)] for v in values])


def erased_rejects(rejects: pa.Table, tenant: str, user: str) -> pa.Table:
    """Rejects of the tenant, or of nobody known, without the bytes of those that name the user."""
    told = zip(*(rejects[name].to_pylist() for name in ("tenant", "payload", "detail")), strict=True)
    rows = np.array(
        [
            row
            for row, (of, payload, detail) in enumerate(told)
            if of in (None, tenant) and (payload_names(payload, user) or names(detail, user))
        ],
        np.int64,
    )
    rejects = _replaced(rejects, "detail", rows, lambda values: [ERASED] * len(values))
    return _replaced(rejects, "payload", rows, lambda values: [b""] * len(values))


def _without(reject: Reject, erased: Erased) -> Reject:
    """A reject of which the bytes are gone when its event says an erased user."""
    try:
        event = json.loads(reject.payload)
        user = event["data"]["user"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return reject
    if reject.tenant is None or not isinstance(user, str):
        return reject
    until_us = erased.named(reject.tenant, user)
    if until_us is None or reject.arrived_us > until_us:
        return reject
    return replace(reject, payload=b"", detail=ERASED)


def _until(erased: Erased, known: dict[tuple[str, str], int], tenant: str, user: str) -> int:
    if (tenant, user) not in known:
        until_us = erased.named(tenant, user)
        known[tenant, user] = -1 if until_us is None else until_us
    return known[tenant, user]


def _replaced(
    table: pa.Table, name: str, rows: npt.NDArray[np.int64], told: Callable[[Sequence[Any]], Sequence[Any]]
) -> pa.Table:
    """The table with `told` of the values of column `name` in these rows."""
    if not len(rows) or name not in table.schema.names:
        return table
    place = table.schema.get_field_index(name)
    field = table.schema.field(place)
    plain = field.type.value_type if isinstance(field.type, pa.DictionaryType) else field.type
    column = table[name].cast(plain).combine_chunks()
    mask = np.zeros(len(table), bool)
    mask[rows] = True
    values = pa.array(told(table[name].take(rows).to_pylist()), plain)
    made = pc.replace_with_mask(column, pa.array(mask), values)
    return table.set_column(place, field, made.cast(field.type) if plain != field.type else made)
