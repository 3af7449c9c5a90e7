"""A running server over a temporary home, as foreign clients meet it."""

from __future__ import annotations

import json
import threading
from typing import Any

import httpx

from meterhouse.api.auth.caller import LOCAL
from meterhouse.api.clock import now_us
from meterhouse.api.wiring import House
from meterhouse.api.workers import Workers
from meterhouse.warehouse.control_file import parse
from meterhouse.warehouse.control_plan import plan

CONTROL = """
currency: USD
tenants:
  - {id: acme}
  - {id: team-search}
rate_card:
  - provider: anthropic
    model: sonnet
    valid_from: 2026-01-01T00:00:00Z
    per_million: {input: "3.00", cache_read: "0.30", cache_write: "3.75", output: "15.00", reasoning: "15.00"}
  - provider: anthropic
    model: claude-sonnet-4-5-20250929
    valid_from: 2026-01-01T00:00:00Z
    per_million: {input: "3.00", cache_read: "0.30", cache_write: "3.75", output: "15.00", reasoning: "15.00"}
event_types:
  - type: job.finished
    application: jobs
    model: $.data.model
    input_tokens: $.data.tokens_in
    output_tokens: $.data.tokens_out
"""


class Site:
    def __init__(self, house: House, http: httpx.Client) -> None:
        self.house, self.http = house, http
        self.caller = LOCAL

    async def caller_of(self, request: Any) -> Any:
        return self.caller

    def post(self, path: str, body: Any, media_type: str = "application/json", **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.post(path, content=content, headers={"content-type": media_type, **named})

    def apply(self, control: str) -> None:
        store = self.house.control
        store.apply(plan(parse(control), store.snapshot(), now_us()), now_us())

    def work(self) -> None:
        with Workers(self.house) as workers:
            workers.run_until_idle(threading.Event())

    def get(self, path: str, **params: Any) -> Any:
        answer = self.http.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def bill(self) -> tuple[int, str]:
        """(billed requests, cost), after the meter has read all."""
        self.work()
        total = self.get("/v1/chargeback")["total"]
        return total["billed_requests"], total["cost"]

    def rejected(self) -> list[str]:
        self.work()
        return [line["reason"] for line in self.get("/v1/rejects")["rejects"]]

    def stored(self) -> bytes:
        """All bytes of the home: log, lake, control data."""
        files = [file for file in self.house.settings.home.rglob("*") if file.is_file()]
        return b"".join(file.read_bytes() for file in files)
