"""Chargeback of a month by cost center where tenants moved, on the lake of `bench.chargeback` (ten million events).

The limit is the same report where nobody moved. Charges are there for the last day only: moves at a microsecond are put
there, where they are dearest. Run: python -m bench.moves
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from bench.chargeback import DAYS, FROM_US, TO_US, build, timed
from meterhouse.streams.control import EVER_US, Place, Snapshot, Tenant
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.reports.chargeback import chargeback
from meterhouse.warehouse.reports.groups import Selection
from meterhouse.warehouse.reports.query import DAY_US, HOUR_US

TENANTS: Final = [f"tenant-{number}" for number in range(50)]
LAST_DAY_US: Final = FROM_US + (DAYS - 1) * DAY_US


def moved(tenants: int, times: list[int]) -> Snapshot:
    """So many of the tenants moved at each of these times."""
    places = [
        Place(tenant, at_us, (), f"CC-{number % 7}")
        for tenant in sorted(TENANTS[:tenants])
        for number, at_us in enumerate([EVER_US, *times])
    ]
    last = {place.tenant: place.cost_center for place in places}
    return Snapshot(
        1, "USD", tuple(Tenant(t, t, (), last.get(t)) for t in TENANTS), places=tuple(places) if times else ()
    )


def main() -> None:
    within_hours = [LAST_DAY_US + n * HOUR_US + 123_456_789 for n in range(20)]
    midnights = [FROM_US + day * DAY_US for day in range(1, DAYS)]
    cases = {
        "limit: nobody moved": moved(0, []),
        "one moved once, at a midnight": moved(1, midnights[14:15]),
        "one moved once, at a microsecond": moved(1, within_hours[5:6]),
        "one moved 20 times, at microseconds": moved(1, within_hours),
        "all 50 moved at one midnight": moved(50, midnights[14:15]),
        "all 50 moved at each of 29 midnights": moved(50, midnights),
        "all 50 moved 20 times, at microseconds": moved(
            50, [LAST_DAY_US + n * HOUR_US + 123_456_789 for n in range(20)]
        ),
    }
    with tempfile.TemporaryDirectory() as folder:
        config = LakeConfig(Path(folder) / "lake.sqlite", Path(folder) / "data")
        with Lake.open(config) as lake:
            build(lake)
            whole = Selection(FROM_US, TO_US)
            timings = {
                name: timed(lambda snapshot=snapshot: chargeback(lake, snapshot, whole, ("cost_center",)))  # type: ignore[misc]
                for name, snapshot in cases.items()
            }
    limit = timings["limit: nobody moved"]
    for name, timing in timings.items():
        ratio = timing.p50_ms / limit.p50_ms
        print(f"{name:<42} p50 {timing.p50_ms:6.1f} ms   p95 {timing.p95_ms:6.1f} ms   {ratio:4.1f} x")


if __name__ == "__main__":
    main()
