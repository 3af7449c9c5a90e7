"""The meter with a dedupe window beyond memory."""

from __future__ import annotations

from pathlib import Path
from threading import Event

from meterhouse.streams.dedupe_store import TieredDedupe
from meterhouse.streams.ledger import Counts
from meterhouse.streams.memory_ledger import MemoryLedger
from meterhouse.streams.meter import Meter, MeterSettings
from meterhouse.streams.watch import MeterHooks
from tests.dedupe_house import SMALL
from tests.streams.test_meter import NOW, NOW_US, Bench, closed, event, made, truth


def meter(bench: Bench, folder: Path) -> Meter:
    return Meter(
        log=bench.log,
        ledger=MemoryLedger(bench.store),
        snapshots=lambda: bench.control,
        clock=lambda: NOW_US,
        settings=MeterSettings(control_every_s=0.0, poll_records=7),
        hooks=MeterHooks(dedupe=TieredDedupe(folder, MeterSettings().window_hours, 2**30, limits=SMALL)),
    )


def test_a_meter_goes_on_from_local_files_and_bills_nothing_twice(tmp_path: Path) -> None:
    bench, events = made(tmp_path), [event(i) for i in range(200)]
    for first in range(0, 200, 50):
        bench.publish(events[first : first + 50])
        bench.publish([event(i, time=NOW) for i in range(0, first, 3)])
        one = meter(bench, tmp_path / "dedupe")
        one.run(Event(), until_idle=True)
        one.close()
    assert bench.billed() == truth(events)
    repeats = sum(len(range(0, first, 3)) for first in range(0, 200, 50))
    assert bench.counts() == Counts(read=200 + repeats, billed=200, duplicates=repeats)
    assert len(list(tmp_path.glob("dedupe/*/*.run"))) > 1
    closed(bench)


def test_a_meter_that_meets_a_damaged_file_starts_again_from_the_lake(tmp_path: Path) -> None:
    bench, events = made(tmp_path), [event(i) for i in range(200)]
    bench.publish(events)
    one = meter(bench, tmp_path / "dedupe")
    one.run(Event(), until_idle=True)
    one.close()
    two = meter(bench, tmp_path / "dedupe")
    runs = list(tmp_path.glob("dedupe/*/*.run"))
    assert runs
    for path in runs:
        data = bytearray(path.read_bytes())
        data[100] ^= 1
        path.write_bytes(data)
    more = [event(i) for i in range(200, 230)]
    bench.publish([*(event(i, time=NOW) for i in range(200)), *more])
    two.run(Event(), until_idle=True)
    assert bench.billed() == truth([*events, *more])
    assert bench.counts() == Counts(read=430, billed=230, duplicates=200)
    assert not [path for path in runs if path.exists()]
    two.close()
    closed(bench)
