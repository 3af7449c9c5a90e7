"""How Meterhouse connects to PostgreSQL, as parameters of libpq."""

from __future__ import annotations

from typing import Final

LINK: Final[dict[str, str | int]] = {
    "connect_timeout": 5,  # seconds: a server that is down is met as trouble, not as silence
    "keepalives_idle": 5,  # and so is one that vanished without a word: after some 15 s
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,  # milliseconds
    "application_name": "meterhouse",
}
"""Bounds on every wait for the server."""
