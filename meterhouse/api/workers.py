"""The workers in one process: meter, budget worker, alert sender with the lookout."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Final, Self

import structlog

from meterhouse.api.wiring import House
from meterhouse.streams.meter import Progress

if TYPE_CHECKING:
    from meterhouse.streams.alert_sender import AlertSender
    from meterhouse.warehouse.lookout import Lookout

_log = structlog.get_logger("meterhouse.workers")


NICE: Final = 5
"""Of threads that nobody waits for: a quarter of a busy core where requests want it too, all of an idle one."""


def give_way() -> None:
    """This thread, and all that it starts, let others of the process go first. Only Linux schedules single threads."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def send_until_idle(sender: AlertSender, stop: threading.Event) -> None:
    """Returns when each alert that is due was tried once."""
    while not stop.is_set() and not sender.idle():
        sender.run_once()


def run_together(stop: threading.Event, here: Callable[[], object], *beside: Callable[[threading.Event], None]) -> None:
    """Runs `here` in this thread, and the others in threads of their own until `stop` is set. The first to fail stops
    all, and its error is raised."""
    with ThreadPoolExecutor(len(beside), thread_name_prefix="worker") as pool:
        futures = [pool.submit(run, stop) for run in beside]
        for future in futures:
            future.add_done_callback(lambda _: stop.set())
        try:
            here()
        finally:
            stop.set()
    for future in futures:
        future.result()


def alert_until_idle(lookout: Lookout, sender: AlertSender, stop: threading.Event) -> None:
    """One look, then each alert that is due is tried once."""
    if not stop.is_set():
        lookout.try_look()
    send_until_idle(sender, stop)


class Workers:
    """Opens the workers of a house whose lake this process writes; `close` releases them."""

    def __init__(self, house: House) -> None:
        with ExitStack() as opening:
            self.meter = house.meter()
            opening.callback(self.meter.close)
            self.budgets = house.budget_worker()
            opening.callback(self.budgets.close)
            self.sender = house.alert_sender()
            self.lookout = house.lookout()
            self._closing = opening.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def run_until_idle(self, stop: threading.Event, progress: Callable[[Progress], None] | None = None) -> None:
        """Returns when all that the log holds is committed and its budgets are judged, the lookout has looked, and all
        alerts were tried once."""
        self.meter.run(stop, until_idle=True, progress=progress)
        self.budgets.run_until_idle(stop)
        alert_until_idle(self.lookout, self.sender, stop)

    def run(self, stop: threading.Event, progress: Callable[[Progress], None] | None = None) -> None:
        """Runs all of them until `stop` is set. The first to fail stops the others, and its error is raised."""
        metering = partial(self.meter.run, stop, progress=progress)
        run_together(stop, metering, self.budgets.run, self.sender.run, self.lookout.run)
