"""Who was refused for who they are, and who signed in, on the way into the audit log: outside the request's path, and
so few that nobody can fill the log by asking."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa
import structlog

from meterhouse.streams.alerts import storable
from meterhouse.warehouse import audit
from meterhouse.warehouse.database import ControlUnavailable, available, writing

EVERY_US: Final = 60 * 1_000_000
"""One entry a minute for who is told of for the same reason: with a number, the others would say no more."""
MAX_TOLD_APART: Final = 1_000
"""Who and why, within a minute. Beyond it all go into one entry: whoever has many addresses gets no more lines."""
OTHERS: Final = "others"
MAX_TEXT: Final = 200
"""Characters of a text, some of which whoever asked has chosen."""

_log = structlog.get_logger("meterhouse.auth")


@dataclass(slots=True)
class _Told:
    subject: str = ""
    address: str = ""
    count: int = 0
    last_us: int | None = None  # when it was last written


@dataclass(frozen=True, slots=True)
class Notice:
    """`who`: the caller's id, or the address of someone not known. `subject`: the key that was claimed, or a route."""

    who: str
    action: str  # authentication.failed, access.refused, session.begun
    reason: str
    subject: str
    address: str


@dataclass
class Notices:
    """`note` waits for nothing; `write` is called by one thread."""

    engine: sa.Engine
    clock: Callable[[], int]
    _told: dict[tuple[str, str, str], _Told] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, notice: Notice) -> None:
        with self._lock:
            which = (notice.who, notice.action, notice.reason)
            if which not in self._told and len(self._told) >= MAX_TOLD_APART:
                which = (OTHERS, notice.action, OTHERS)
            told = self._told.setdefault(which, _Told())
            told.count += 1
            told.subject, told.address = notice.subject, notice.address

    def write(self, *, every_us: int = EVERY_US) -> None:
        """Writes an entry for each that was not told of within `every_us`, and forgets those that ended."""
        now_us = self.clock()
        with self._lock:
            due = {
                which: (told, told.count)
                for which, told in self._told.items()
                if told.last_us is None or now_us - told.last_us >= every_us
            }
            for which, (_, count) in due.items():
                if not count:
                    del self._told[which]
        due = {which: told for which, told in due.items() if told[1]}
        if not due:
            return
        try:
            with available(), writing(self.engine) as connection:
                for which, (told, count) in due.items():
                    audit.append(connection, _deed(which, told, count), now_us)
        except ControlUnavailable as away:
            _log.warning("refusals and sign-ins are told to the audit log later", reason=str(away))
            return
        with self._lock:
            for told, count in due.values():
                told.count -= count
                told.last_us = now_us


def _deed(which: tuple[str, str, str], told: _Told, count: int) -> audit.Deed:
    who, action, reason = which
    texts = [storable(text[:MAX_TEXT]) for text in (who, told.subject, reason, told.address)]
    detail = {"reason": texts[2], "address": texts[3], "count": count}
    return audit.Deed(texts[0], action, texts[1], detail)
