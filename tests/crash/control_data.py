"""The control file of what is struck: prices that change among the events, and budgets of every kind."""

from __future__ import annotations

from typing import Any, Final

import yaml

from tests.oracle import books

MINUTE_US: Final = 60_000_000
DAY_US: Final = 1_440 * MINUTE_US
THRESHOLDS: Final = (0.1, 0.5, 1, 2, 5, 10, 20, 50, 80, 100, 150, 300, 600, 1000)
"""From a thousandth of the limit to ten times it: a stream of a few hundred events crosses some on its way, and one of
some hundred thousand goes on crossing them."""


def control_text(now_us: int) -> str:
    """A control file for events of the last 85 minutes. One model is not yet priced; one budget's days end among the
    events."""
    return yaml.safe_dump(
        {
            "currency": "USD",
            "tenants": [
                {"id": f"tenant-{number}", "name": f"Tenant {number}", "org": ["group", f"unit-{number % 2}"]}
                for number in range(7)
            ],
            "rate_card": _prices(now_us),
            "budgets": _budgets(now_us),
        }
    )


def _prices(now_us: int) -> list[dict[str, Any]]:
    long_ago, middle = now_us - 300 * DAY_US, now_us - 41 * MINUTE_US - 250_001

    def price(provider: str, model: str, since_us: int, rate: str, tenant: str | None = None) -> dict[str, Any]:
        whole = {kind: f"{int(rate) * (number + 1)}.00000{number}" for number, kind in enumerate(books.KINDS)}
        return {
            "provider": provider, "model": model, "tenant": tenant, "valid_from": books.rfc3339(since_us),
            "per_million": whole, "approved_by": "finance@example.com",
        }  # fmt: skip

    return [
        price("atlas", "atlas-large", long_ago, "3"),
        price("borea", "borea-swift", long_ago, "1"),
        price("borea", "borea-pro", middle, "5"),
        price("atlas", "atlas-large", middle, "2"),
        price("atlas", "atlas-large", long_ago, "4", "tenant-3"),
    ]


def _budgets(now_us: int) -> list[dict[str, Any]]:
    def budget(name: str, scope: dict[str, str], window: tuple[str, str], **more: object) -> dict[str, Any]:
        every, zone = window
        return {
            "id": name, "scope": scope, "window": {"every": every, "time_zone": zone},
            "thresholds": list(THRESHOLDS), "on_exceeded": "notify", **more,
        }  # fmt: skip

    midnight = _zone_of_a_midnight(now_us)
    return [
        budget("unit-0-day", {"org_unit": "unit-0"}, ("day", "Europe/Berlin"), limit="50.00", on_exceeded="block"),
        budget("group-month", {"org_unit": "group"}, ("month", "UTC"), limit="1000.00", when_stale="closed"),
        *(
            budget(
                f"tokens-{n}", {"tenant": f"tenant-{n}"}, ("week", "Asia/Kathmandu"),
                limit_tokens=2_000_000, on_exceeded="throttle", throttle_per_minute=30,
            )
            for n in range(7)
        ),
        budget("assistant", {"application": "assistant", "model": "atlas-large"}, ("day", "UTC"), limit="10.00"),
        budget("pro", {"model": "borea-pro"}, ("week", "America/St_Johns"), limit="100.00", on_exceeded="block"),
        budget(
            "one-of-all", {"tenant": "tenant-5", "org_unit": "unit-1", "application": "search", "model": "borea-swift"},
            ("month", "Pacific/Auckland"), limit="5.00", when_stale="closed", stale_after_s=10,
        ),
        budget("night-money", {"org_unit": "group"}, ("day", midnight), limit="500.00"),
        budget("night-tokens", {"org_unit": "unit-1"}, ("day", midnight), limit_tokens=50_000_000, on_exceeded="block"),
    ]  # fmt: skip


def _zone_of_a_midnight(now_us: int) -> str:
    """A zone where it is between 0 and 1 o'clock. Names of such zones have the sign of what is added to get UTC."""
    hour = now_us // (60 * MINUTE_US) % 24
    return f"Etc/GMT+{hour}" if hour <= 12 else f"Etc/GMT-{24 - hour}"
