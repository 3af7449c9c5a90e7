"""Brings the audit log's head to the lake, in the process of the lake's writer, on a thread of its own: metering waits
neither for the control database nor for this, and a head comes where no event does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import structlog

from meterhouse.warehouse.audit_chain import START, Head
from meterhouse.warehouse.audit_heads import note_head
from meterhouse.warehouse.database import ControlUnavailable
from meterhouse.warehouse.lake import Lake
from meterhouse.warehouse.lake_trouble import TROUBLE

EVERY_S: Final = 60.0
"""How often it looks, and so how much of the log's end the lake cannot vouch for. A head that has moved costs the lake
one commit."""

_log = structlog.get_logger("meterhouse.audit")


class HeadKeeper:
    """Looks at once, every EVERY_S seconds and at the end; writes the head where it has moved since."""

    def __init__(self, read: Callable[[], Head], lake: Lake, clock: Callable[[], int]) -> None:
        self._read, self._lake, self._clock = read, lake, clock
        self._noted = START
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit-head", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Ends it after a last look."""
        self._stop.set()
        self._thread.join()
        self.look()

    def look(self) -> None:
        """Trouble of either database is told in the log; the next look makes up for it."""
        try:
            head = self._read()
            if head != self._noted:
                note_head(self._lake, head, self._clock())
                self._noted = head
        except ControlUnavailable as away:
            _log.warning("the audit log's head is not to be had", reason=str(away))
        except TROUBLE as trouble:
            _log.warning("the audit log's head was not written to the lake", reason=self._lake.config.told(trouble))

    def _run(self) -> None:
        while not self._stop.is_set():
            self.look()
            self._stop.wait(EVERY_S)
