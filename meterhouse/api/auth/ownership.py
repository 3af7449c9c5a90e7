"""Whose a reservation is: its name outside carries a proof of who made it, so that nothing has to be kept for it."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field
from typing import Final

from meterhouse.api.auth.caller import LOCAL, Caller

_PROOF_BYTES: Final = 8
"""A reservation stands for a quarter of an hour: nobody tries 2^64 names within it."""


@dataclass(frozen=True)
class Ownership:
    """Of one server, as the reservations are."""

    _secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))

    def outside(self, reservation: str, who: Caller) -> str:
        """The name that the caller is told."""
        return reservation if who is LOCAL else f"{reservation}.{self._proof(reservation, who)}"

    def inside(self, name: str, who: Caller) -> str | None:
        """The reservation that a caller names; None: it is not theirs, or none at all."""
        if who is LOCAL:
            return name
        reservation, _, proof = name.rpartition(".")
        fits = hmac.compare_digest(proof.encode(), self._proof(reservation, who).encode())
        return reservation if fits else None

    def _proof(self, reservation: str, who: Caller) -> str:
        # A NUL parts the two: a caller's id has none.
        made = hmac.digest(self._secret, f"{who.id}\0{reservation}".encode("utf-8", "surrogatepass"), "sha256")
        return made[:_PROOF_BYTES].hex()
