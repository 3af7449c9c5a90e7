"""Looks at each new snapshot of the lake before people ask for it, on a thread of its own.

The first report of a snapshot asks for its positions, its files and the sums of the new ones: as much processor time as
the report itself. While somebody asks for reports, that is done as soon as a commit is there.
"""

from __future__ import annotations

import threading
from typing import Final, Self

import structlog

from meterhouse.api.figures import Reports
from meterhouse.api.wiring import House
from meterhouse.api.workers import give_way
from meterhouse.warehouse.lake import Lake, LakeError
from meterhouse.warehouse.lake_trouble import TROUBLE

EVERY_S: Final = 0.5
"""How often it looks for the commits of other processes, which tell nobody: a look costs 3 ms."""

_log = structlog.get_logger("meterhouse.reports")


class LookAhead:
    """Looks from `with` on until its end."""

    def __init__(self, house: House, reports: Reports) -> None:
        self._house, self._reports = house, reports
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="look-ahead", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if (lake := self._house.opened_lake) is not None:
            lake.writing.moved.set()
        self._thread.join()

    def _run(self) -> None:
        give_way()
        while not self._stop.is_set():
            lake = self._house.opened_lake
            moved = self._stop if lake is None else lake.writing.moved
            moved.wait(EVERY_S)
            if lake is not None and not self._stop.is_set():
                moved.clear()
                self._look(lake)
                lake.writing.made_ready()

    def _look(self, lake: Lake) -> None:
        """Trouble is the next report's to tell."""
        lake.writing.is_followed = bool(self._house.sums.asked_lately())
        if not lake.writing.is_followed:
            return
        try:
            self._reports.look_ahead()
        except (LakeError, *TROUBLE) as trouble:
            _log.debug("nothing is kept ahead", reason=lake.config.told(trouble))
