"""Bills judged afterwards, by the charges and the log's records one by one, whatever made them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.ingest.log import USAGE_EVENTS, whole_topic
from tests.stack.containers import Container

PICO: Final = 10**12
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Judge:
    """By partition: offsets of charges with the sums up to each, offsets of records with the oldest from each on."""

    charges: int
    distinct: int
    sums: Mapping[int, tuple[Ints, Ints]]
    oldest_us: Mapping[int, tuple[Ints, Ints]]

    @classmethod
    @contextmanager
    def of(cls, settings: Settings) -> Iterator[Self]:
        with House(settings) as house, house.lake.read() as cursor:
            rows = cursor.execute(
                'SELECT "partition", "offset", coalesce(cost_pico, 0) AS pico FROM charges ORDER BY ALL'
            ).fetchnumpy()
            distinct = cursor.execute('SELECT count(DISTINCT "key") FROM charges').fetchall()[0][0]
            records: dict[int, list[tuple[int, int]]] = {}
            for run in whole_topic(house.log, USAGE_EVENTS):
                records.setdefault(run.partition, []).extend(zip(run.offsets, run.appended_us, strict=True))
        sums = {}
        for partition in np.unique(rows["partition"]):
            of = rows["partition"] == partition
            sums[int(partition)] = (rows["offset"][of], np.cumsum(rows["pico"][of].astype(np.int64)))
        oldest = {
            partition: (
                np.array([offset for offset, _ in each]),
                np.minimum.accumulate(np.array([at for _, at in each])[::-1])[::-1],
            )
            for partition, each in records.items()
        }
        yield cls(len(rows["offset"]), distinct, sums, oldest)

    def wrong(self, bill: Mapping[str, Any]) -> str:
        """What a bill's total should be by its own offsets; empty: it is."""
        requests, pico = 0, 0
        for partition, offset in bill["as_of"]["offsets"].items():
            offsets, sums = self.sums.get(int(partition), (np.array([], np.int64), np.array([], np.int64)))
            before = int(np.searchsorted(offsets, offset))
            requests += before
            pico += int(sums[before - 1]) if before else 0
        said = (bill["total"]["requests"], Decimal(bill["total"]["cost"]))
        true = (requests, Decimal(pico) / PICO)
        return "" if said == true else f"a bill as of {bill['as_of']} says {said}, its records come to {true}"

    def late_s(self, bill: Mapping[str, Any]) -> float:
        """By how much it says to be newer than the oldest record that it lacks."""
        watermark = bill["as_of"]["watermark"]
        if watermark is None:
            return 0.0
        said_us = int(datetime.fromisoformat(watermark).timestamp() * 1_000_000)
        lacked = []
        for partition, (offsets, oldest_us) in self.oldest_us.items():
            at = int(np.searchsorted(offsets, bill["as_of"]["offsets"].get(str(partition), 0)))
            lacked += [int(oldest_us[at])] if at < len(offsets) else []
        return max(0, said_us - min(lacked, default=said_us)) / 1_000_000


def settings_of(container: Container) -> Settings:
    """The settings that a container was given."""
    told: dict[str, Any] = {}
    for name, value in container.settings().items():
        plain = name.removeprefix("METERHOUSE_").lower()
        file = plain.removesuffix("_file")
        told[file] = value if file == plain else Path(value).read_text(encoding="utf-8").strip()
    return Settings(**{name: value for name, value in told.items() if name in Settings.model_fields})
