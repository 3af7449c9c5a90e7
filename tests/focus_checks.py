"""What a FOCUS file must be beyond what `focus-toolkit` looks at, in plain Python over the text of its cells."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

TOOLKIT = Path(sys.executable).with_name("focus-toolkit")
DECIMAL = re.compile(r"-?\d+(\.\d+)?", re.ASCII)
NUMBERS = (
    "BilledCost", "ConsumedQuantity", "ContractedCost", "ContractedUnitPrice", "EffectiveCost", "ListCost",
    "ListUnitPrice", "PricingQuantity",
)  # fmt: skip
GRAIN = ("ChargePeriodStart", "SubAccountId", "x_Application", "SkuId", "SkuPriceId", "x_ListSkuPriceId")
Row = Mapping[str, str]


def csv_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def parquet_rows(data: bytes) -> list[dict[str, str]]:
    """Rows of Parquet, each value as CSV would have it."""
    table = pq.read_table(pa.BufferReader(data))
    return [{name: _text(value) for name, value in row.items()} for row in table.to_pylist()]


def _text(value: object) -> str:
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    assert value is None or isinstance(value, str), f"{value!r} is neither text, nor a DECIMAL, nor a time"
    return value or ""


def total(rows: Iterable[Row], column: str = "BilledCost") -> Decimal:
    with localcontext(prec=60):
        return sum((Decimal(row[column]) for row in rows), Decimal(0))


def faults(rows: Sequence[Row], billed: Decimal) -> list[str]:
    """What is wrong with rows that should add up to `billed`; empty: nothing."""
    found = [f"{name} {row[name]}" for row in rows for name in NUMBERS if not DECIMAL.fullmatch(row[name])]
    if found:
        return found
    for row in rows:
        found += [
            f"row {row['SubAccountId']} {row['SkuId']} {row['ChargePeriodStart']}: {what}" for what in _of_row(row)
        ]
    times = Counter(tuple(row[name] for name in GRAIN) for row in rows)
    found += [f"{key} stands {count} times" for key, count in times.items() if count > 1]
    if total(rows) != billed:
        found.append(f"rows add up to {total(rows)}, not {billed}")
    return found


def _of_row(row: Row) -> Iterable[str]:
    with localcontext(prec=60):
        number = {name: Decimal(row[name]) for name in NUMBERS}
        for price, cost in (("ListUnitPrice", "ListCost"), ("ContractedUnitPrice", "ContractedCost")):
            if number[price] * number["PricingQuantity"] != number[cost]:
                yield f"{price} x PricingQuantity is not {cost}"
        if number["PricingQuantity"] * 1_000_000 != number["ConsumedQuantity"]:
            yield "PricingQuantity is not ConsumedQuantity in millions"
    if not number["BilledCost"] == number["EffectiveCost"] == number["ContractedCost"]:
        yield "BilledCost, EffectiveCost and ContractedCost differ"
    if number["ConsumedQuantity"] <= 0:
        yield "nothing was consumed"
    start, end = (datetime.fromisoformat(row[f"ChargePeriod{edge}"]) for edge in ("Start", "End"))
    month = start.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    following = (month + timedelta(days=31)).replace(day=1)
    hour = start.replace(minute=0, second=0, microsecond=0)
    if not hour <= start < end <= hour + timedelta(hours=1):
        yield "the charge period is not within an hour"
    if [datetime.fromisoformat(row[f"BillingPeriod{edge}"]) for edge in ("Start", "End")] != [month, following]:
        yield "the billing period is not the month of the charge period"


def toolkit(file: Path) -> subprocess.CompletedProcess[str]:
    """`focus-toolkit validate` of a file, with the condition that we declare: prices per unit."""
    command = [TOOLKIT, "validate", "--dataset", "cost-and-usage", "--supports", "SupportsUnitPricing", file]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
