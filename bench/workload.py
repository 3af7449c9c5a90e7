"""Seeded records for benchmarks: events of about 400 bytes, as a gateway's publisher writes them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec

from meterhouse.ingest.event import REQUEST_TYPE
from meterhouse.ingest.log import BATCH, CONTENT_TYPE, STRUCTURED, USAGE_EVENTS, Records

START_US: Final = 1_767_225_600_000_000
"""2026-01-01T00:00:00Z."""
TENANTS: Final = tuple(f"tenant-{n:03d}" for n in range(40))
MODELS: Final = (
    ("atlas", "atlas-large"),
    ("atlas", "atlas-small"),
    ("borealis", "borealis-70b"),
    ("borealis", "borealis-8b-instruct"),
    ("cirrus", "cirrus-embed-3"),
)
APPLICATIONS: Final = ("assistant", "search", "batch-summaries", "code-review")


@dataclass(frozen=True, slots=True)
class Workload:
    """How many events, how they are packed, and where they start."""

    events: int
    events_per_record: int = 100
    partition: int = 0
    seed: int = 1
    first_offset: int = 0
    start_us: int = START_US
    events_per_second: int = 1_000


def event(random_: random.Random, tenant: str, time_us: int) -> dict[str, object]:
    """One usage event as its JSON object: compact about 400 bytes, no `request_id`, ids like UUIDv7."""
    provider, model = random_.choice(MODELS)
    input_tokens = int(random_.lognormvariate(6.5, 1.2)) + 1
    output_tokens = int(random_.lognormvariate(5, 1)) + 1
    first_us = 50_000 + 30 * input_tokens
    seconds, micros = divmod(time_us, 1_000_000)
    id_ = f"{time_us // 1000:012x}7{random_.getrandbits(12):03x}8{random_.getrandbits(60):015x}"
    return {
        "specversion": "1.0",
        "id": f"{id_[:8]}-{id_[8:12]}-{id_[12:16]}-{id_[16:20]}-{id_[20:]}",
        "source": f"/gateway/{random_.randrange(8)}",
        "type": REQUEST_TYPE,
        "subject": tenant,
        "time": f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{micros:06d}Z",
        "data": {
            "application": random_.choice(APPLICATIONS),
            "environment": random_.choice(("prod", "test")),
            "model": model,
            "provider": provider,
            "operation": "chat",
            "status": "ok" if random_.random() < 0.97 else "error",
            "streamed": True,
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "cache_read_input_tokens": input_tokens // 3,
            "duration_us": first_us + 20_000 * output_tokens,
            "time_to_first_token_us": first_us,
        },
    }


def records(workload: Workload) -> Records:
    """The workload as one run of records of one partition; each record is of one tenant, keyed by it."""
    random_ = random.Random(workload.seed)
    per_record = workload.events_per_record
    step_us = 1_000_000 // workload.events_per_second
    content_type = STRUCTURED if per_record == 1 else BATCH
    header = ((CONTENT_TYPE, content_type.encode()),)
    values: list[bytes | None] = []
    keys: list[bytes | None] = []
    appended_us: list[int] = []
    for first in range(0, workload.events, per_record):
        tenant = random_.choice(TENANTS)
        numbers = range(first, min(first + per_record, workload.events))
        events = [event(random_, tenant, workload.start_us + number * step_us) for number in numbers]
        values.append(msgspec.json.encode(events[0] if per_record == 1 else events))
        keys.append(tenant.encode())
        appended_us.append(workload.start_us + numbers[-1] * step_us + 5_000)
    count = len(values)
    return Records(
        topic=USAGE_EVENTS,
        partition=workload.partition,
        offsets=range(workload.first_offset, workload.first_offset + count),
        appended_us=appended_us,
        keys=keys,
        values=values,
        headers=[header] * count,
    )
