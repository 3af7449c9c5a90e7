"""Admissions over HTTP on loopback: a real `meterhouse serve`, keep-alive clients, each admission settled.

    python -m bench.admissions [--requests 5000]

The client parses no more of HTTP than it must, in one thread, so that it is the server that is measured. Of twenty
clients that never pause, the latency is what the server's one core makes of it: it is shown beside twenty that ask
five hundred times a second in all. Events that are metered at the same time are metered in the server's own process.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import re
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, perf_counter
from typing import Final

import httpx

from bench.report import Row, show
from bench.serving import apply_control, serving

CLIENTS: Final = 20
PACED_PER_S: Final = 500
EVENTS_PER_S: Final = 2_000
START_S: Final = 60
GOAL: Final = "p99 5 ms"
CONTROL: Final = """
currency: USD
tenants: [{id: acme, name: Acme, org: [group]}, {id: borg, name: Borg}]
rate_card:
  - provider: atlas
    model: large
    valid_from: 2026-01-01T00:00:00Z
    per_million: {input: "2.50", cache_read: "0.25", cache_write: "3.125", output: "10.00", reasoning: "10.00"}
budgets:
  - {id: month, scope: {tenant: acme}, window: {every: month, time_zone: UTC}, limit: "1000000", on_exceeded: block}
  - {id: day, scope: {org_unit: group}, window: {every: day, time_zone: Europe/Berlin}, limit: "1000000", on_exceeded: block}
  - {id: tokens, scope: {application: bench}, window: {every: day, time_zone: UTC}, limit_tokens: 1000000000000, on_exceeded: throttle}
"""  # noqa: E501
ASK: Final = {"tenant": "acme", "application": "bench", "model": "large", "input_tokens": 1_000, "max_tokens": 500}


def await_ready(address: str) -> None:
    """Until budgets are known: an admission is then reserved in all of them."""
    deadline = monotonic() + START_S
    while monotonic() < deadline:
        answer = httpx.post(f"http://{address}/v1/admissions", json=ASK)
        if answer.status_code == httpx.codes.OK and answer.json()["reservation"]:
            return
    raise SystemExit(f"no budgets within {START_S} s: {answer.text}")


class Client:
    """One connection that is kept open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader, self._writer, self._host = reader, writer, host

    async def post(self, path: str, body: bytes) -> tuple[int, bytes, float]:
        """(status, body, seconds)."""
        head = f"POST {path} HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: application/json\r\n"
        request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
        begin_s = perf_counter()
        self._writer.write(request)
        answered = await self._reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", answered)
        content = b"" if length is None else await self._reader.readexactly(int(length[1]))
        return int(answered[9:12]), content, perf_counter() - begin_s

    def close(self) -> None:
        self._writer.close()

    async def run(self, requests: int, every_s: float) -> tuple[list[float], list[float]]:
        """Seconds of each admission, and of each settlement. `every_s` 0: without a pause."""
        ask, admitted, settled = json.dumps(ASK).encode(), [], []
        next_s = perf_counter() + random.random() * every_s  # clients ask at moments of their own
        for _ in range(requests):
            if every_s:
                next_s += every_s
                await asyncio.sleep(max(0, next_s - perf_counter()))
            status, content, took_s = await self.post("/v1/admissions", ask)
            assert status == 200, content
            admitted.append(took_s)
            path = f"/v1/admissions/{json.loads(content)['reservation']}/settlement"
            status, content, took_s = await self.post(path, b'{"cost": "0.0041", "tokens": 1200}')
            assert status == 204, content
            settled.append(took_s)
        return admitted, settled


async def publish(client: Client, per_s: int) -> None:
    """Events of another tenant's, ten batches a second, without end."""
    event = json.dumps(
        {
            "specversion": "1.0", "id": "ID", "source": "/bench", "type": "meterhouse.request.v1", "subject": "borg",
            "time": datetime.now(UTC).isoformat(),
            "data": {
                "application": "bench", "model": "large", "provider": "atlas", "status": "ok", "input_tokens": 1_000,
                "output_tokens": 500,
            },
        }
    )  # fmt: skip
    for batch in itertools.count():
        pause = asyncio.create_task(asyncio.sleep(0.1))
        events = ",".join(event.replace('"ID"', f'"{batch}-{number}"') for number in range(per_s // 10))
        status, content, _ = await client.post("/v1/events", f"[{events}]".encode())
        assert status == 204, content
        await pause


async def connect(address: str) -> Client:
    host, port = address.split(":")
    return Client(*await asyncio.open_connection(host, int(port)), address)


async def measure(
    address: str, clients: int, requests: int, per_s: float = 0, events_per_s: int = 0
) -> tuple[list[float], list[float], float]:
    """Seconds of all admissions and all settlements, sorted, and admissions per second."""
    opened = [await connect(address) for _ in range(clients)]
    beside = asyncio.create_task(publish(await connect(address), events_per_s)) if events_per_s else None
    begin_s = perf_counter()
    every_s = clients / per_s if per_s else 0.0
    runs = await asyncio.gather(*(client.run(requests // clients, every_s) for client in opened))
    took_s = perf_counter() - begin_s
    if beside is not None:
        beside.cancel()
    for client in opened:
        client.close()
    admitted, settled = (sorted(each for run in runs for each in run[kind]) for kind in (0, 1))
    return admitted, settled, len(admitted) / took_s


def text(sorted_s: list[float]) -> str:
    p50, p99 = (sorted_s[int(len(sorted_s) * share)] * 1e3 for share in (0.5, 0.99))
    return f"p50 {p50:.2f} ms, p99 {p99:.2f} ms"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=5_000)
    requests = parser.parse_args().requests
    rows = []
    with ExitStack() as parts:
        home = Path(parts.enter_context(tempfile.TemporaryDirectory())) / "home"
        apply_control(home, CONTROL)
        address = parts.enter_context(serving(home)).address
        await_ready(address)
        asyncio.run(measure(address, 1, 500))  # warms up
        for name, clients, per_s, events_per_s in (
            ("one client", 1, 0, 0),
            (f"one client, beside {EVENTS_PER_S:,} events/s", 1, 0, EVENTS_PER_S),
            (f"{CLIENTS} clients, {PACED_PER_S}/s in all", CLIENTS, PACED_PER_S, 0),
            (f"{CLIENTS} clients without a pause", CLIENTS, 0, 0),
        ):
            admitted, settled, rate = asyncio.run(measure(address, clients, requests, per_s, events_per_s))
            rows.append(Row(f"admit, {name} ({rate:,.0f}/s)", text(admitted), goal=GOAL))
            rows.append(Row(f"settle, {name}", text(settled)))
    show("admissions over HTTP, loopback, keep-alive", rows)


if __name__ == "__main__":
    main()
