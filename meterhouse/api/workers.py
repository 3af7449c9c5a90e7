"""The workers in one process: meter, budget worker, alert sender."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

import structlog

from meterhouse.api.wiring import House
from meterhouse.streams.meter import Progress

if TYPE_CHECKING:
    from meterhouse.streams.alert_sender import AlertSender

_log = structlog.get_logger("meterhouse.workers")


def send_until_idle(sender: AlertSender, stop: threading.Event) -> None:
    """Returns when each alert that is due was tried once."""
    while not stop.is_set() and not sender.idle():
        sender.run_once()


class Workers:
    """Opens the workers of a house whose lake this process writes; `close` releases them."""

    def __init__(self, house: House) -> None:
        with ExitStack() as opening:
            self.meter = house.meter()
            opening.callback(self.meter.close)
            self.budgets = house.budget_worker()
            opening.callback(self.budgets.close)
            self.sender = house.alert_sender()
            self._closing = opening.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def run_until_idle(self, stop: threading.Event, progress: Callable[[Progress], None] | None = None) -> None:
        """Returns when all that the log holds is committed, its budgets are judged and its alerts were tried once."""
        self.meter.run(stop, until_idle=True, progress=progress)
        self.budgets.run_until_idle(stop)
        send_until_idle(self.sender, stop)

    def run(self, stop: threading.Event, progress: Callable[[Progress], None] | None = None) -> None:
        """Runs all three until `stop` is set. The first to fail stops the others, and its error is raised."""
        with ThreadPoolExecutor(2, thread_name_prefix="worker") as pool:
            beside = [pool.submit(self.budgets.run, stop), pool.submit(self.sender.run, stop)]
            for future in beside:
                future.add_done_callback(lambda _: stop.set())
            try:
                self.meter.run(stop, progress=progress)
            finally:
                stop.set()
        for future in beside:
            future.result()
