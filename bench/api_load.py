"""The clients of `bench.api`, each a process of its own that prints what it measured as one line of JSON.

    python -m bench.api_load send HOST:PORT ORDERS     orders: JSON of `Orders`
    python -m bench.api_load ask HOST:PORT ORDERS

The sender parses no more of HTTP than it must and makes bodies by writing ids and times into prepared ones, so that it
is the server that is measured.
"""

from __future__ import annotations

import http.client
import itertools
import json
import random
import resource
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench.workload import event

TEMPLATES: Final = 8
RETRY_S: Final = 0.2
GIVE_UP_S: Final = 60.0
NOW_DIGITS: Final = len("2026-01-01T00:00:00.000000Z")
BODY_DIGITS: Final = 8
"""Of an event's id: the number of its body, in hexadecimal."""
TENANTS: Final = tuple(f"tenant-{number}" for number in range(50))


@dataclass(frozen=True, slots=True)
class Orders:
    """What the clients do: `rate` events a second, `events` in a body, for `seconds`; a report every `ask_every_s`."""

    seconds: float
    rate: int = 10_000
    events: int = 250
    connections: int = 8
    ask_every_s: float = 0.5
    key: str = ""

    @property
    def bodies(self) -> int:
        return int(self.seconds * self.rate / self.events)

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"} if self.key else {}


class Sent(msgspec.Struct):
    """What a sender saw. `late_ms`: from the moment a body was due until its 204."""

    accepted: int  # events
    late_ms: list[float]
    answer_ms: list[float]  # from the first byte sent
    again: int  # bodies sent once more
    cpu_s: float
    took_s: float  # until the last 204


class Asked(msgspec.Struct):
    """What an asker saw: of each report milliseconds, and of chargeback those of the first one on a lake snapshot."""

    answer_ms: dict[str, list[float]]
    fresh_ms: list[float]
    known_ms: list[float]
    cpu_s: float


def events_of(seed: int, count: int) -> list[dict[str, Any]]:
    """Events of the groups that the home's history has."""
    random_ = random.Random(seed)
    made = []
    for number in range(count):
        one: dict[str, Any] = event(random_, random_.choice(TENANTS), 0)
        model = random_.randrange(4)
        one |= {"id": f"{'0' * BODY_DIGITS}-0000-7000-8000-{seed:04x}{number:08x}", "source": f"/bench/{model}"}
        one["data"] |= {
            "application": f"application-{random_.randrange(3)}", "environment": "prod",
            "model": f"model-{model}", "provider": f"provider-{model % 2}",
        }  # fmt: skip
        made.append(one)
    return made


class Template:
    """A body whose ids and times are written anew for each sending."""

    def __init__(self, seed: int, events: int) -> None:
        body = msgspec.json.encode(events_of(seed, events))
        self._bytes = np.frombuffer(bytearray(body), np.uint8)
        self._ids = _places(body, b'"id":"', BODY_DIGITS)
        self._times = _places(body, b'"time":"', NOW_DIGITS)
        assert len(self._ids) == len(self._times) == events

    def written(self, number: int, now: datetime) -> bytes:
        self._bytes[self._ids] = np.frombuffer(b"%0*x" % (BODY_DIGITS, number), np.uint8)
        self._bytes[self._times] = np.frombuffer(f"{now:%Y-%m-%dT%H:%M:%S.%f}Z".encode(), np.uint8)
        return self._bytes.tobytes()


def _places(body: bytes, before: bytes, width: int) -> NDArray[np.int64]:
    starts = []
    at = body.find(before)
    while at >= 0:
        starts.append(at + len(before))
        at = body.find(before, at + 1)
    return np.array(starts)[:, None] + np.arange(width)


class Connection:
    """Kept open; opened anew where the server closed it."""

    def __init__(self, address: str, headers: dict[str, str]) -> None:
        host, port = address.rsplit(":", 1)
        self._place = host, int(port)
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._head = f"POST /v1/events HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n{more}"
        self._socket: socket.socket | None = None

    def post(self, body: bytes) -> int:
        """The answer's status; 0: the connection broke, and whether the body arrived is not known."""
        try:
            if self._socket is None:
                self._socket = socket.create_connection(self._place, 30)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.sendall(f"{self._head}content-length: {len(body)}\r\n\r\n".encode() + body)
            return self._status(self._socket)
        except OSError:
            self.close()
            return 0

    def _status(self, opened: socket.socket) -> int:
        answer = b""
        while b"\r\n\r\n" not in answer:
            if not (more := opened.recv(65_536)):
                raise ConnectionError("closed")
            answer += more
        status = int(answer[9:12])
        if status != http.HTTPStatus.NO_CONTENT:
            self.close()  # rather than read what it says
        return status

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


@dataclass(slots=True)
class _Sending:
    """What threads share."""

    address: str
    orders: Orders
    begin_s: float
    numbers: Iterator[int]
    lock: threading.Lock = field(default_factory=threading.Lock)
    sent: Sent = field(default_factory=lambda: Sent(0, [], [], 0, 0, 0))
    trouble: list[str] = field(default_factory=list)

    def run(self) -> None:
        templates = [Template(seed, self.orders.events) for seed in range(TEMPLATES)]
        connection = Connection(self.address, self.orders.headers)
        for number in self.numbers:
            due_s = self.begin_s + number * self.orders.events / self.orders.rate
            time.sleep(max(0.0, due_s - time.perf_counter()))
            body = templates[number % TEMPLATES].written(number, datetime.now(UTC))
            self._deliver(connection, body, due_s)
            if self.trouble:
                break
        connection.close()

    def _deliver(self, connection: Connection, body: bytes, due_s: float) -> None:
        begin_s = time.perf_counter()
        while (status := connection.post(body)) != http.HTTPStatus.NO_CONTENT:
            with self.lock:
                self.sent.again += 1
                if status in range(400, 500) or time.perf_counter() - begin_s > GIVE_UP_S:
                    self.trouble.append(f"a body was answered with {status}")
                    return
            time.sleep(RETRY_S)
        end_s = time.perf_counter()
        with self.lock:
            self.sent.accepted += self.orders.events
            self.sent.late_ms.append((end_s - due_s) * 1e3)
            self.sent.answer_ms.append((end_s - begin_s) * 1e3)


def send(address: str, orders: Orders) -> Sent:
    """Sends bodies at the moments they are due, whether or not those before were answered."""
    shared = _Sending(address, orders, time.perf_counter() + 0.5, iter(range(orders.bodies)))
    threads = [threading.Thread(target=shared.run) for _ in range(orders.connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if shared.trouble:
        raise SystemExit(shared.trouble[0])
    shared.sent.took_s = time.perf_counter() - shared.begin_s
    shared.sent.cpu_s = _cpu_s()
    return shared.sent


def ask(address: str, orders: Orders) -> Asked:
    """Asks for reports, one after another, at even moments: every other one is the month's chargeback."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    first, inside = today - timedelta(days=29), today - timedelta(days=20)
    month = f"from={first:%Y-%m-%d}&to={today + timedelta(days=1):%Y-%m-%d}"
    others = itertools.cycle(
        {
            "chargeback by model, tenant": f"/v1/chargeback?{month}&group_by=model,tenant",
            "chargeback by tenant, day": f"/v1/chargeback?{month}&group_by=tenant,day",
            "chargeback of an open range": f"/v1/chargeback?from={inside:%Y-%m-%d}T03:14:15Z&group_by=tenant,model",
            "usage by day": f"/v1/usage?{month}&every=day&group_by=tenant",
            "budgets": "/v1/budgets",
            "slo": "/v1/slo",
        }.items()
    )
    chargeback = ("chargeback", f"/v1/chargeback?{month}&group_by=tenant,model")
    client = http.client.HTTPConnection(address, timeout=60)
    asked = Asked({}, [], [], 0)
    snapshot = None
    due_s = time.perf_counter()
    end_s = due_s + orders.seconds
    for number in itertools.count():
        due_s = max(due_s + orders.ask_every_s, time.perf_counter())  # what it is late with it does not make up for
        if due_s > end_s:
            break
        time.sleep(max(0.0, due_s - time.perf_counter()))
        name, path = next(others) if number % 2 else chargeback
        asked_s = time.perf_counter()
        client.request("GET", path, headers=orders.headers)
        answer = client.getresponse()
        text = answer.read()
        took_ms = (time.perf_counter() - asked_s) * 1e3
        if answer.status != http.HTTPStatus.OK:
            raise SystemExit(f"{path}: {answer.status} {text[:500]!r}")
        asked.answer_ms.setdefault(name, []).append(took_ms)
        if name == "chargeback":
            newest = json.loads(text)["as_of"]["snapshot"]
            (asked.known_ms if newest == snapshot else asked.fresh_ms).append(took_ms)
            snapshot = newest
    asked.cpu_s = _cpu_s()
    return asked


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    command, address, orders = sys.argv[1:]
    do = {"send": send, "ask": ask}[command]
    print(msgspec.json.encode(do(address, msgspec.json.decode(orders, type=Orders))).decode())


if __name__ == "__main__":
    main()
