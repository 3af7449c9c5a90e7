"""A plain Faust agent that does the meter's work an event at a time, to compare with: decode, validate, dedupe, rate,
roll up, append to Parquet. Prints what it took as a line of JSON and ends.

`python -m bench.faust_agent BOOTSTRAP EVENTS FOLDER CORE memory|tables`

What it has seen and added up is in its own memory, and lost with it; or in Faust's tables, which outlive it, as the
meter's books do.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import MutableMapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import faust
import pyarrow as pa
import pyarrow.parquet as pq

from bench.kafka_feed import PARTITIONS
from meterhouse.ingest.event import STATUSES
from meterhouse.ingest.log import USAGE_EVENTS

FLUSH_EVENTS: Final = 20_000
PRICES: Final = {"input": 2_500_000, "cache_read": 250_000, "output": 10_000_000}
REQUIRED: Final = ("application", "model", "provider", "status")


Numbers = MutableMapping[str, int]


class Books:
    """What the agent keeps."""

    def __init__(
        self, events: int, folder: Path, seen: MutableMapping[str, int], sums: MutableMapping[str, int]
    ) -> None:
        self.events, self.folder = events, folder
        self.seen, self.sums = seen, sums
        self.rows: list[dict[str, Any]] = []
        self.read = self.files = 0
        self.start_cpu = self.start = 0.0

    def take(self, value: bytes) -> None:
        if not self.read:
            self.start_cpu, self.start = time.process_time(), time.perf_counter()
        event = json.loads(value)
        for one in event if isinstance(event, list) else (event,):
            self.one(one)

    def one(self, event: dict[str, Any]) -> None:
        self.read += 1
        data = event["data"]
        if event["specversion"] != "1.0" or data["status"] not in STATUSES:
            return
        if any(not isinstance(data.get(name), str) or not data[name] for name in REQUIRED):
            return
        counts = [data.get(name, 0) for name in ("input_tokens", "cache_read_input_tokens", "output_tokens")]
        if any(type(count) is not int or count < 0 for count in counts) or counts[1] > counts[0]:
            return
        key = (event["subject"], event["source"], event["id"])
        if (text := "|".join(key)) in self.seen:
            return
        self.seen[text] = 1
        moment = datetime.fromisoformat(event["time"])
        kinds = {"input": counts[0] - counts[1], "cache_read": counts[1], "output": counts[2]}
        cost = sum(kinds[kind] * price for kind, price in PRICES.items())
        minute = moment.replace(second=0, microsecond=0)
        group = f"{key[0]}|{data['application']}|{data['model']}|{minute.isoformat()}"
        self.sums[f"{group}|cost"] += cost
        self.sums[f"{group}|requests"] += 1
        self.rows.append({"tenant": key[0], "source": key[1], "id": key[2], "time": moment, "cost": cost, **data})
        if len(self.rows) >= FLUSH_EVENTS:
            self.flush()

    def flush(self) -> None:
        if self.rows:
            pq.write_table(pa.Table.from_pylist(self.rows), self.folder / f"{self.files}.parquet", compression="zstd")
            self.files += 1
            self.rows = []

    def done(self) -> None:
        self.flush()
        took = {
            "committed": self.read,
            "cpu_s": time.process_time() - self.start_cpu,
            "wall_s": time.perf_counter() - self.start,
        }
        os.write(1, json.dumps(took).encode() + b"\n")  # Faust makes log lines of what is printed
        os._exit(0)  # a worker takes seconds to stop, and nothing of it is wanted


def main() -> None:
    bootstrap, events, folder, core, where = sys.argv[1:6]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core)})
    app = faust.App(
        f"bench-plain-agent-{where}", broker=f"kafka://{bootstrap}", datadir=folder, topic_disable_leader=True,
        web_enabled=False, consumer_auto_offset_reset="earliest",
    )  # fmt: skip
    if where == "tables":
        tables = [app.Table(name, default=int, partitions=PARTITIONS) for name in ("seen", "sums")]
        books = Books(int(events), Path(folder), *tables)
    else:
        books = Books(int(events), Path(folder), {}, Counter())
    topic = app.topic(USAGE_EVENTS, value_serializer="raw", value_type=bytes)

    async def agent(stream: Any) -> None:
        async for value in stream:
            books.take(value)
            if books.read >= books.events:
                books.done()

    app.agent(topic)(agent)
    sys.argv = ["faust", "worker", "--loglevel", "error"]
    app.main()


if __name__ == "__main__":
    main()
