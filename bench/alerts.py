"""How long an alert takes from raised to received, on SQLite and PostgreSQL, alone and beside a receiver that hangs;
what asking the outbox costs while there is nothing to deliver.

`python -m bench.alerts`. The outbox is durable, the receiver an HTTP server of this process. Alerts are raised one at a
time at random moments, so that they fall anywhere between two rounds of the sender.
"""

from __future__ import annotations

import random
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.report import Row, show
from meterhouse.api.clock import now_us
from meterhouse.streams.alert import Alert
from meterhouse.streams.alert_sender import AlertSender
from meterhouse.streams.alertmanager import Alertmanager
from meterhouse.streams.channels import Channel, Webhook
from meterhouse.warehouse.alert_outbox import SqlAlertOutbox
from meterhouse.warehouse.database import open_database, sqlite_url
from meterhouse.warehouse.silences import SqlSilences
from tests.services.databases import with_driver
from tests.services.postgres import own_postgres
from tests.services.receiver import Receiver, own_receiver

ALERTS = 300
MEAN_GAP_S = 0.05
POLLS = 2_000
GOAL = "1 s (stretch 300 ms)"


class Timed(Webhook):
    """A webhook that notes when each alert was received."""

    def __init__(self, receiver: Receiver) -> None:
        super().__init__(receiver.url, clock=now_us)
        self.received_us: dict[str, int] = {}

    def post(self, entry: object, about: object) -> str | None:
        error = super().post(entry, about)  # type: ignore[arg-type]
        self.received_us[entry.alert.id] = now_us()  # type: ignore[attr-defined]
        return error


def alert(number: int) -> Alert:
    created_us = now_us()
    return Alert(
        id=f"{created_us}-{number}",
        kind="threshold",
        subject="acme-month",
        summary="budget acme-month has reached 80 % of its limit",
        created_us=created_us,
        budget_id="acme-month",
        window_start_us=created_us - 10**9,
        window_end_us=created_us + 10**9,
        threshold="80",
        spent="81.000000000000",
        limit="100.000000000000",
    )


@contextmanager
def hanging() -> Iterator[str]:
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def delays_ms(url: str, *, beside_hanging: bool) -> list[float]:
    """Raised to received of each alert, ascending."""
    with ExitStack() as parts:
        engine = open_database(url)
        parts.callback(engine.dispose)
        timed = Timed(parts.enter_context(own_receiver()))
        channels: list[Channel] = [timed]
        if beside_hanging:
            channels.append(Alertmanager(parts.enter_context(hanging())))
        outbox = SqlAlertOutbox(engine)
        sender = AlertSender(outbox, SqlSilences(engine), channels, clock=now_us)
        parts.callback(sender.close)
        stop = threading.Event()
        thread = threading.Thread(target=sender.run, args=(stop,))
        thread.start()
        parts.callback(thread.join)
        parts.callback(stop.set)
        raised_us: dict[str, int] = {}
        gaps, pause = random.Random(7), threading.Event()
        for number in range(ALERTS):
            news = alert(number)
            raised_us[news.id] = news.created_us
            outbox.add([news])
            pause.wait(gaps.expovariate(1 / MEAN_GAP_S))
        deadline_s = time.monotonic() + 60
        while len(timed.received_us) < ALERTS and time.monotonic() < deadline_s:
            pause.wait(0.05)
        return sorted((at_us - raised_us[id_]) / 1e3 for id_, at_us in timed.received_us.items())


def poll_us(url: str) -> tuple[float, float]:
    """Processor and clock time of one question for due alerts, among a thousand that are delivered."""
    engine = open_database(url)
    outbox = SqlAlertOutbox(engine)
    outbox.add([alert(number) for number in range(1_000)])
    for entry in outbox.due(now_us(), 1_000):
        outbox.silence(entry.alert.id, now_us())
    outbox.due(now_us(), 100)
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(POLLS):
        outbox.due(now_us(), 100)
    told = (time.process_time() - cpu) / POLLS * 1e6, (time.perf_counter() - wall) / POLLS * 1e6
    engine.dispose()
    return told


def main() -> None:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, own_postgres() as postgres:

        def database(name: str, number: int) -> str:
            if name == "SQLite":
                return sqlite_url(Path(folder) / f"{number}.sqlite")
            return with_driver(postgres.new_database())

        for name in ("SQLite", "PostgreSQL"):
            for number, beside_hanging in enumerate((False, True)):
                found = delays_ms(database(name, number), beside_hanging=beside_hanging)
                beside = ", beside one that hangs" if beside_hanging else ""
                p50, p99 = found[len(found) // 2], found[int(len(found) * 0.99)]
                figure = f"raised to received, {name}{beside}: p50, p99, worst of {len(found)}"
                rows.append(Row(figure, f"{p50:.0f}, {p99:.0f}, {found[-1]:.0f} ms", goal=GOAL))
            cpu_us, wall_us = poll_us(database(name, 2))
            rows.append(Row(f"an empty round, {name}: processor, clock", f"{cpu_us:.0f}, {wall_us:.0f} µs"))
    show("Alerts", rows)


if __name__ == "__main__":
    main()
