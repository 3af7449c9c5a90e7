"""What a page costs beside a whole report: read in a snapshot of the past, and charges by their keyset.

The lake is that of `bench.chargeback`. Run: python -m bench.pages
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.chargeback import DAYS, FROM_US, TO_US, build, timed
from meterhouse.streams.control import EMPTY
from meterhouse.warehouse.books import SeenBooks
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.reports.as_of import Freshness, positions_of
from meterhouse.warehouse.reports.chargeback import chargeback
from meterhouse.warehouse.reports.charges import ChargePlace, Wanted, charges_query
from meterhouse.warehouse.reports.groups import Selection
from meterhouse.warehouse.reports.query import DAY_US
from meterhouse.warehouse.view import EVERYTHING, Grant, View

_MIDDLE_US: Final = FROM_US + (DAYS - 1) * DAY_US + DAY_US // 2
_OWN: Final = View((Grant("tenant-7"),))


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        Lake.open(LakeConfig(Path(folder) / "lake.sqlite", Path(folder) / "data")) as lake,
    ):
        rows = build(lake)
        with lake.read() as cursor:
            positions = positions_of(lake, cursor)
        fresh = Freshness(TO_US, {}, positions=positions)
        month, at = Selection(FROM_US, TO_US), positions.snapshot

        def bill(books: SeenBooks) -> Callable[[], object]:
            return lambda: chargeback(books, EMPTY, month, ("tenant", "model"), fresh)

        def page(view: View, after: ChargePlace | None, limit: int) -> Callable[[], object]:
            query = charges_query(EMPTY, Wanted(month, None, after, limit))

            def run() -> object:
                with SeenBooks(lake, view, at).read() as cursor:
                    return query.rows(cursor)

            return run

        middle = ChargePlace(_MIDDLE_US, 0, 0, 0)
        cases: dict[str, Callable[[], object]] = {
            "a month by tenant, model": bill(SeenBooks(lake, EVERYTHING)),
            "the same in a snapshot of the past": bill(SeenBooks(lake, EVERYTHING, at)),
            "the same of one tenant's view": bill(SeenBooks(lake, _OWN, at)),
            "the first 100 charges": page(EVERYTHING, None, 100),
            "100 charges from the middle": page(EVERYTHING, middle, 100),
            "100 charges of one tenant's view": page(_OWN, None, 100),
            "10,000 charges": page(EVERYTHING, None, 10_000),
        }
        print(f"{rows['charges']:,} charges, {rows['rollup_day']:,} rows by day")
        for name, run in cases.items():
            timing = timed(run)
            print(f"{name:<40} p50 {timing.p50_ms:6.1f} ms   p95 {timing.p95_ms:6.1f} ms")


if __name__ == "__main__":
    main()
