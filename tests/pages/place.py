"""A server with two tenants' fortnight behind it, and a browser before it."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

from meterhouse.api.auth.caller import PERMITTED, Role
from meterhouse.api.clock import now_us
from meterhouse.api.pages.menu import MENU
from meterhouse.api.workers import Workers
from meterhouse.ingest.log import USAGE_EVENTS, Message
from meterhouse.warehouse.control_file import parse
from meterhouse.warehouse.control_plan import plan
from tests.api.doors import CONTROL, Gatehouse, gatehouse
from tests.services.waiting import until

ROOT: Final = Path(__file__).parents[2]
AXE: Final = ROOT / "node_modules" / "axe-core" / "axe.min.js"
DAYS: Final = 16
CANARIES: Final = ("zebra", "borea")
"""In every name of the second tenant's: a page of the first shows none of them."""
ROLES: Final = ("finance", "auditor", "product_owner")
"""Those who read pages, beside admin, who walks them on a narrow screen."""
MORE: Final = """
  - {id: acme-month, scope: {tenant: acme}, window: {every: month, time_zone: UTC}, limit: "0.1", thresholds: [50, 100],
     on_exceeded: block}
  - {id: zebra-month, scope: {tenant: borea}, window: {every: month, time_zone: UTC}, limit: "9999", thresholds: [50]}
objectives:
  - {id: assistant-up, scope: {application: assistant}, sli: availability, target: "0.9", window_days: 30}
  - {id: search-fast, scope: {application: search}, sli: duration, below_ms: 1000, target: "0.5", window_days: 2}
  - {id: zebra-up, scope: {tenant: borea}, sli: availability, target: "0.9", window_days: 7}
"""
"""What the place has beside the tenants' control data."""
PAGES: Final = (
    "/overview",
    "/overview/risks",
    "/chargeback",
    "/chargeback?range=last-7-days&by=application&then=model",
    "/chargeback?range=last-30-days&by=kind",
    "/charges?range=last-7-days",
    "/filters?range=last-7-days",
    "/application",
    "/application?application=search&range=last-30-days",
    "/slo?objective=assistant-up",
    "/budgets?budget=acme-month&limit=1000000",
    "/rejects",
    "/rejects/usage.events/0/0/0",
    "/rejects/usage.events/0/0/0?view=hex",
    "/rate-cards",
    "/rate-cards?provider=atlas&model=large",
    "/pipeline",
    "/audit",
)
OF_ADMINS: Final = ("/rejects/matching", "/docs")
"""Those that only some of who may open their neighbours in the menu may open, and those of nobody's menu."""
WITHOUT_NAMES: Final = ("by=kind", "application=search", "/rejects/", "/pipeline", "/audit")
"""Parts of the paths of those that name nothing of the second tenant's to anyone."""


def pages_of(role: str) -> list[str]:
    """Those that a role may open."""
    refused = tuple(entry.path for entry in MENU if entry.permission not in PERMITTED[Role(role)])
    return [path for path in PAGES if not path.startswith(refused)]


def event(tenant: str, number: int, when: datetime) -> dict[str, Any]:
    application = ("assistant", "search")[number % 2] if tenant == "acme" else "zebra-desk"
    return {
        "specversion": "1.0",
        "id": f"{tenant}-{number}",
        "source": "/gateway",
        "type": "meterhouse.request.v1",
        "subject": tenant,
        "time": when.isoformat(),
        "data": {
            "application": application,
            "model": "large" if number % 5 else "unheard-of" if tenant == "acme" else "zebra-model",
            "provider": "atlas",
            "status": "error" if number % 7 == 3 else "ok",
            "input_tokens": 100_000 + 1_000 * number,
            "output_tokens": 10_000 + number,
            "duration_us": 1_500_000,
        },
    }


@contextmanager
def place(folder: Path) -> Iterator[Gatehouse]:
    """A gatehouse where something was spent: more each day."""
    with gatehouse(folder) as doors:
        control = doors.house.control
        control.apply(plan(parse(CONTROL + MORE), control.snapshot(), now_us()), now_us())
        now = datetime.now(UTC) - timedelta(minutes=2)
        moments = [now - timedelta(days=day) for day in range(DAYS)]
        events = [
            event(tenant, 10 * day + each, moment)
            for day, moment in enumerate(moments)
            for tenant in ("acme", "borea")
            for each in range(1 + (DAYS - day) // 4)
        ]
        for tenant in ("acme", "borea"):  # at 0/0/0 and 0/1/0
            wrong = event(tenant, 1_000, now)
            wrong["data"]["status"] = "<b>zebra</b>" if tenant == "borea" else "<b>wrong</b>"
            doors.house.log.append(USAGE_EVENTS, [Message(tenant.encode(), json.dumps(wrong).encode(), partition=0)])
        answer = doors.ask("admin", "/v1/events", "POST", json=events)
        assert answer.status_code == 204, answer.text
        with Workers(doors.house) as workers:
            workers.run_until_idle(threading.Event())
        until(lambda: doors.house.admissions.gate.ready)
        yield doors


@contextmanager
def browser() -> Iterator[Browser]:
    """Debian's Chromium. A machine without it skips, unless it must not."""
    found = shutil.which("chromium")
    if found is None or not AXE.is_file():
        why = "tests of pages need chromium (apt-get install chromium) and `make pages`"
        if os.environ.get("METERHOUSE_REQUIRE_CHROMIUM"):
            pytest.fail(why)
        pytest.skip(why)
    with sync_playwright() as driver:
        # Within a container its own sandbox is not to be had; it visits our own server only.
        opened = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            yield opened
        finally:
            opened.close()


@dataclass
class Reader:
    """Someone at a browser. `complaints`: what its console said, which includes what the policy refused."""

    page: Page
    base: str
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def open(self, path: str) -> None:
        self.page.goto(f"{self.base}{path}")

    def sign_in(self, key: str) -> None:
        self.open("/sign-in")
        self.page.get_by_label("API key or token").fill(key)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.locator("nav").wait_for()

    def figure(self, selector: str) -> str:
        """The exact figure that stands there."""
        value = self.page.locator(f"{selector} data").first.get_attribute("value")
        assert value is not None
        return value

    def faults(self, *rules: str) -> list[str]:
        """What axe finds in the page, by these rules or by all of them."""
        if not self.page.evaluate("'axe' in window"):
            self.page.evaluate(_axe())
        only = {"runOnly": {"type": "rule", "values": list(rules)}} if rules else {}
        found = self.page.evaluate("asked => axe.run(document, asked)", {"resultTypes": ["violations"], **only})
        return [
            f"{each['id']}: {node['target']} {node['failureSummary']}"
            for each in found["violations"]
            for node in each["nodes"]
        ]


@cache
def _axe() -> str:
    return AXE.read_text(encoding="utf-8")


@contextmanager
def reading(opened: Browser, doors: Gatehouse, **how: Any) -> Iterator[Reader]:
    """A reader with a browser's fresh profile."""
    context: BrowserContext = opened.new_context(**how)
    try:
        yield Reader(context.new_page(), str(doors.http.base_url))
    finally:
        context.close()
