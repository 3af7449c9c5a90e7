"""What the log itself says beside the lake: where a charge's record is, and the newest totals of budgets."""

from __future__ import annotations

from typing import Any

from meterhouse.ingest.log import BUDGET_TOTALS, USAGE_EVENTS, EventLog, whole_topic
from meterhouse.streams.budget import BudgetTable, BudgetTotal
from meterhouse.streams.budget_totals import read_total, read_total_key
from meterhouse.warehouse.reports.charges import Charge
from meterhouse.warehouse.reports.to_json import rfc3339

Json = dict[str, Any]


def record_json(log: EventLog, charge: Charge) -> Json:
    """Where a charge's record is, and how large; not what it says, which may be a prompt."""
    _, partition, offset, index = charge.place
    kept = log.begin_offsets(USAGE_EVENTS).get(partition, 0) <= offset < log.end_offsets(USAGE_EVENTS).get(partition, 0)
    records = log.read(USAGE_EVENTS, partition, offset, 1) if kept else None
    size = len(records.values[0] or b"") if records and records.offsets[0] == offset else None
    return {
        "topic": USAGE_EVENTS,
        "partition": partition,
        "offset": offset,
        "index": index,
        "arrived": rfc3339(charge.arrived_us),
        "kept": size is not None,
        "bytes": size,
    }


def newest_totals(log: EventLog) -> list[BudgetTotal]:
    """What the compacted topic of budget totals says now: the newest total per budget, window and partition, which need
    not be the last record: a meter that lost a partition and does not know it yet repeats older ones."""
    table = BudgetTable()
    for records in whole_topic(log, BUDGET_TOTALS):
        for key, value in zip(records.keys, records.values, strict=True):
            if value is None:
                budget_id, start_us, end_us, partition = read_total_key(key or b"")
                table.forget(budget_id, (start_us, end_us), partition)
            else:
                table.hear(read_total(key or b"", value))
    return [total for which in table.windows() for total in table.totals(*which)]
