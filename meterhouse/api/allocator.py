"""What the C library does with memory that was given back: a server lives for months."""

from __future__ import annotations

import ctypes
import sys
from typing import Final

import structlog

ARENAS: Final = 2
"""Pools of memory, which threads share. By default each thread gets its own, up to eight a core, and what is free in
that of one is of no use to another: of a server's 980 MiB of address space some 800 were that, half of it resident."""
_M_ARENA_MAX: Final = -8  # malloc.h

_log = structlog.get_logger("meterhouse")


def share_arenas() -> None:
    """To be called before threads are started. Only with the GNU C library, whose parameter it is."""
    if sys.platform != "linux":
        return
    try:
        done = ctypes.CDLL("libc.so.6").mallopt(_M_ARENA_MAX, ARENAS)
    except (OSError, AttributeError):  # another C library
        return
    if not done:
        _log.warning("the C library does not share its arenas: more memory is kept than is used")
