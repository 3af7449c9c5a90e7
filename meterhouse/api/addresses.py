"""Addresses that an operator sets: which are taken, and how they are shown."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from pydantic import SecretStr

LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
"""Names of this machine that nobody else reaches."""


def is_safe_address(url: str) -> bool:
    """Whether it is https:// of a host, or http:// within this machine, without user or fragment."""
    try:
        parts = urlsplit(url)
        safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
        return safe and bool(parts.hostname) and "@" not in parts.netloc and not parts.fragment and parts.port != 0
    except ValueError:  # a port that is no number
        return False


def is_postgresql(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme == "postgresql" and bool(parts.hostname) and len(parts.path) > 1 and parts.port != 0
    except ValueError:  # a port that is no number
        return False


def without_secrets(url: SecretStr | None) -> str | None:
    """Host, port and database of a URL: neither its user nor its password, nor its options."""
    if url is None:
        return None
    parts = urlsplit(url.get_secret_value())
    return f"PostgreSQL {parts.netloc.rpartition('@')[2]}{parts.path}"
