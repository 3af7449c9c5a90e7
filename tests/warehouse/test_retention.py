"""Rows go when they are old; sums stay, and the books balance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from meterhouse.warehouse.books import SeenBooks
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.maintenance import maintain
from meterhouse.warehouse.reports.burn_down import burn_down
from meterhouse.warehouse.reports.chargeback import chargeback
from meterhouse.warehouse.reports.charges import Wanted, charges
from meterhouse.warehouse.reports.errors import ReportError
from meterhouse.warehouse.reports.groups import Selection
from meterhouse.warehouse.reports.latencies import latencies
from meterhouse.warehouse.reports.slo import slo
from meterhouse.warehouse.reports.usage import usage
from meterhouse.warehouse.retention import retain
from meterhouse.warehouse.retention_terms import Retention
from meterhouse.warehouse.verify import verify
from meterhouse.warehouse.view import EVERYTHING, Grant, View
from tests.builders import DAY_US, HOUR_US, T0_US
from tests.warehouse.filled import SNAPSHOT, fill, reject

WINDOW_HOURS = 24
NOW_US = T0_US + 45 * DAY_US
ROWS: list[dict[str, Any]] = [
    {"input_tokens": 5, "duration_us": 700},
    {"input_tokens": 6, "status": "error", "duration_us": 900, "time_to_first_token_us": 30},
    {"input_tokens": 7, "model": "unknown", "tenant": "bolt", "environment": "prod"},
    {"input_tokens": 8, "time": T0_US + DAY_US, "tenant": "bolt", "application": "search"},
    {"input_tokens": 9, "time": T0_US + 2 * DAY_US, "arrived": NOW_US - HOUR_US},  # late by weeks
    {"input_tokens": 10, "time": T0_US + 40 * DAY_US, "arrived": T0_US + 40 * DAY_US},
]
NODES = [{"node": "n1", "id": f"n{n}", "offset": 20 + n, "time": T0_US + n * 30 * DAY_US} for n in range(2)]
REJECTS = [reject(30), reject(31, tenant=None), reject(32, arrived_us=T0_US + 40 * DAY_US)]
EVER = Selection(T0_US - DAY_US, T0_US + 60 * DAY_US)
AGED = Retention(charges=10, node_events=20, rejects=3)


@pytest.fixture
def lake(lake_config: LakeConfig) -> Iterator[Lake]:
    with Lake.open(lake_config) as opened:
        fill(opened, ROWS, NODES, REJECTS)
        yield opened


def sums(lake: Lake) -> list[Any]:
    seen = SeenBooks(lake, EVERYTHING)
    bill = chargeback(seen, SNAPSHOT, EVER, ("tenant", "application", "model", "hour"))
    used = usage(seen, SNAPSHOT, EVER, ("tenant",), "minute")
    return [bill.lines, bill.total, used.lines]


def rows(lake: Lake, table: str) -> int:
    with lake.read() as cursor:
        [(count,)] = cursor.execute(f"SELECT count(*) FROM {table}").fetchall()
    return int(count)


def test_old_rows_go_and_every_sum_and_law_stays(lake: Lake) -> None:
    wanted = sums(lake)
    report = retain(lake, NOW_US, AGED, WINDOW_HOURS, 0)
    assert report.trouble is None
    assert report.rows == {"charges": 4, "node_events": 1, "rejects": 2}
    assert [rows(lake, table) for table in ("charges", "node_events", "rejects")] == [2, 1, 1]
    assert sums(lake) == wanted
    laws = verify(lake, SNAPSHOT, window_hours=WINDOW_HOURS).laws
    assert [law for law in laws if not law.balanced] == []
    [removed] = [law for law in laws if law.name == "charges removed and left = rollup_day: requests"]
    assert (removed.left, removed.right) == (4, 4)
    assert retain(lake, NOW_US, AGED, WINDOW_HOURS, 0).rows == {"charges": 0, "node_events": 0, "rejects": 0}
    fill(lake, [{"id": "late", "offset": 50, "input_tokens": 3}])  # of a day whose rows are gone
    maintain(lake, NOW_US)
    assert verify(lake, SNAPSHOT, window_hours=WINDOW_HOURS).balanced


def test_what_was_removed_is_told_apart_from_what_is_lost(lake: Lake) -> None:
    retain(lake, NOW_US, AGED, WINDOW_HOURS, 0)
    with lake.borrowed() as cursor:
        cursor.execute("DELETE FROM charges WHERE input_tokens = 10")
    failed = {law.name for law in verify(lake, SNAPSHOT, window_hours=WINDOW_HOURS).laws if not law.balanced}
    assert "counts of the positions = rows of charges, node_events, rejects: rows" in failed
    assert "charges = rollup_minute: requests" in failed


def test_a_removal_that_was_not_written_down_is_seen(lake: Lake) -> None:
    retain(lake, NOW_US, AGED, WINDOW_HOURS, 0)
    with lake.borrowed() as cursor:
        cursor.execute("DELETE FROM removed WHERE tenant = 'acme'")
        cursor.execute("DELETE FROM removed_latency")
    failed = {law.name for law in verify(lake, SNAPSHOT, window_hours=WINDOW_HOURS).laws if not law.balanced}
    assert "charges = chargeback lines: requests, billed and unpriced" in failed
    assert "charges = latency_hour: requests" in failed or "latency removed and left = latency_hour: requests" in failed


def test_nothing_goes_that_arrived_within_the_dedupe_window_or_that_objectives_look_at(lake: Lake) -> None:
    assert retain(lake, NOW_US, Retention(charges=10), WINDOW_HOURS, 0).rows == {"charges": 4}  # not the late one
    assert retain(lake, NOW_US + 2 * DAY_US, Retention(charges=10), WINDOW_HOURS, 90).rows == {"charges": 0}
    assert retain(lake, NOW_US + 2 * DAY_US, Retention(charges=10), WINDOW_HOURS, 30).rows == {"charges": 1}


def test_a_drill_down_says_what_was_removed(lake: Lake) -> None:
    everybody, bolt = SeenBooks(lake, EVERYTHING), SeenBooks(lake, View((Grant("bolt"),)))
    assert charges(everybody, SNAPSHOT, Wanted(EVER)).removed is None
    total = charges(everybody, SNAPSHOT, Wanted(EVER)).total
    retain(lake, NOW_US, AGED, WINDOW_HOURS, 0)
    page = charges(everybody, SNAPSHOT, Wanted(EVER))
    assert page.removed is not None
    assert (page.removed.requests, page.removed.until_us, len(page.lines)) == (4, T0_US + 2 * DAY_US, 2)
    costs = sum(line.cost_pico or 0 for line in page.lines)
    assert page.total == total
    assert costs + int(page.removed.cost * 10**12) == int(total.cost * 10**12)
    theirs = charges(bolt, SNAPSHOT, Wanted(EVER)).removed
    assert theirs is not None
    assert theirs.requests == 2
    assert charges(everybody, SNAPSHOT, Wanted(Selection(T0_US + 30 * DAY_US, EVER.to_us))).removed is None


def test_a_report_of_single_requests_that_are_gone_is_refused_and_says_from_when_on(lake: Lake) -> None:
    retain(lake, NOW_US, AGED, WINDOW_HOURS, 0)
    seen = SeenBooks(lake, EVERYTHING)
    with pytest.raises(ReportError, match="ask from 2026-11-03 on"):
        slo(seen, SNAPSHOT, NOW_US, (T0_US, T0_US + DAY_US))
    with pytest.raises(ReportError, match="ask from 2026-11-03 on"):
        chargeback(seen, SNAPSHOT, Selection(T0_US, T0_US + HOUR_US + 1))
    with pytest.raises(ReportError, match="ask from 2026-11-03 on"):
        burn_down(seen, SNAPSHOT, SNAPSHOT.objectives[0], T0_US + DAY_US)
    with pytest.raises(ReportError, match="ask from 2026-11-03 on"):
        latencies(seen, Selection(T0_US, T0_US + HOUR_US + 1))
    assert latencies(seen, Selection(T0_US, T0_US + HOUR_US)).total["duration"]["p50"] is not None
    chargeback(seen, SNAPSHOT, Selection(T0_US, T0_US + HOUR_US))
    slo(seen, SNAPSHOT, NOW_US, (T0_US + 2 * DAY_US, NOW_US))
