"""How fast pages are with the roll-ups of 100 million events behind them: server time, first contentful paint, weight.

A real server over a lake as `bench.chargeback` builds it, the month that ends today, with budgets and objectives; it
runs without authentication, and nothing is written meanwhile. Server time is until the whole answer is there. Paint and
weight are Chromium's, each time with an empty cache. Needs chromium and `make pages`; other pages may be named, but for
charges: those of this lake cost what no price says.
Run: python -m bench.page_speed
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

import httpx
from playwright.sync_api import Browser, sync_playwright

from bench.chargeback import DAYS, build
from bench.report import Row, show
from bench.serving import apply_control, serving
from meterhouse.api.clock import now_us
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.warehouse.reports.query import DAY_US

PAGES: Final = (
    "/overview",
    "/overview/risks",
    "/chargeback",
    "/chargeback?range=last-30-days&by=application&then=model",
    "/filters",
    "/application",
    "/slo",
    "/budgets",
    "/rejects",
    "/rate-cards",
    "/pipeline",
    "/audit",
)
REQUESTS: Final = 340
"""The most of a group in an hour: some 100 million in the month."""
ASKED: Final = 20
PAINTED: Final = 5
GOAL_MS, GOAL_PAINT_MS, GOAL_KB = 300, 1_000, 400
_TENANTS: Final = range(50)
_PAINT: Final = """() => {
    const paint = performance.getEntriesByName("first-contentful-paint")[0];
    const all = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")];
    return [paint ? paint.startTime : null, all.reduce((sum, each) => sum + each.transferSize, 0)];
}"""


def control() -> str:
    """50 tenants with a price for each model, a budget each, and ten objectives."""
    lines = ["currency: USD", "tenants:"]
    lines += [
        f"  - {{id: tenant-{t}, name: Tenant {t}, org: [unit-{t % 5}], cost_center: CC-{t % 7}}}" for t in _TENANTS
    ]
    lines.append("rate_card:")
    for model in range(4):
        lines += [
            f"  - provider: provider-{model % 2}",
            f"    model: model-{model}",
            "    valid_from: 2020-01-01T00:00:00Z",
        ]
        lines.append('    per_million: {input: "2.50", cache_read: "0.25", output: "10.00", reasoning: "10.00"}')
    lines.append("budgets:")
    for t in _TENANTS:
        window = f"{{every: {'day' if t % 3 else 'month'}, time_zone: {'UTC' if t % 10 else 'Europe/Berlin'}}}"
        lines.append(f'  - {{id: budget-{t}, scope: {{tenant: tenant-{t}}}, window: {window}, limit: "1000000"}}')
    lines.append("objectives:")
    for t in range(10):
        scope = f"{{tenant: tenant-{t}}}"
        lines.append(f'  - {{id: slo-{t}, scope: {scope}, sli: availability, target: "0.99", window_days: 28}}')
    return "\n".join(lines)


def served_ms(client: httpx.Client, path: str) -> list[float]:
    taken = []
    for _ in range(ASKED + 1):
        began = time.perf_counter()
        client.get(path).raise_for_status()
        taken.append((time.perf_counter() - began) * 1000)
    return sorted(taken[1:])  # the first warms up


def painted(browser: Browser, url: str) -> tuple[float, float]:
    """Median first contentful paint, milliseconds, and weight on the wire, kilobytes."""
    found = []
    for _ in range(PAINTED):
        context = browser.new_context()
        page = context.new_page()
        page.goto(url, wait_until="networkidle")
        found.append(page.evaluate(_PAINT))
        context.close()
    return median(each[0] for each in found), median(each[1] for each in found) / 1000


def main(paths: Sequence[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        apply_control(home, control())
        first_us = now_us() // DAY_US * DAY_US - (DAYS - 1) * DAY_US
        with House(Settings(home=home), writer=True) as house:
            rows = build(house.lake, first_us, REQUESTS)
            with house.lake.read() as cursor:
                [(requests,)] = cursor.execute("SELECT sum(requests) FROM rollup_day").fetchall()
        print(f"{requests:,} requests; rows: " + ", ".join(f"{table} {count:,}" for table, count in rows.items()))
        with serving(home) as server, sync_playwright() as driver:
            base = f"http://{server.address}"
            with httpx.Client(base_url=base, headers={"accept": "text/html"}, timeout=60) as client:
                served = {path: served_ms(client, path) for path in paths}
            browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            lines = [line for path in paths for line in _lines(path, served[path], painted(browser, base + path))]
            browser.close()
        show("Pages (goal: server time at p95)", lines)


def _lines(path: str, taken: list[float], paint: tuple[float, float]) -> list[Row]:
    p50, p95 = taken[len(taken) // 2], taken[len(taken) * 95 // 100 - 1]
    return [
        Row(f"{path} server time", f"p50 {p50:.0f} ms, p95 {p95:.0f} ms", goal=f"{GOAL_MS} ms"),
        Row("  first contentful paint", f"{paint[0]:.0f} ms", goal=f"{GOAL_PAINT_MS:,} ms"),
        Row("  weight on the wire", f"{paint[1]:.0f} kB", goal=f"{GOAL_KB} kB"),
    ]


if __name__ == "__main__":
    main(sys.argv[1:] or PAGES)
