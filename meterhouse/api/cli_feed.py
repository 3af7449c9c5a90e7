"""The commands that publish events: replay a trace, simulate a workload."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, BinaryIO, Final, TypeVar

import typer

from meterhouse.api.cli_common import WRONG_USE, err, errors, fail, progress_bar, register, settings_of, time_of
from meterhouse.api.clock import now_us
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.ingest.encode import Encoded, to_json
from meterhouse.ingest.event import Event
from meterhouse.ingest.formats import TRACE_FORMATS
from meterhouse.ingest.formats.replay_rule import ReplayRule, TraceError, replayed, span
from meterhouse.ingest.log import USAGE_EVENTS
from meterhouse.ingest.publisher import append_events
from meterhouse.ingest.simulate import Arrival, Workload, arrivals, records
from meterhouse.ingest.topics import DAY_US
from meterhouse.streams.control import Snapshot
from meterhouse.warehouse.reports.groups import microseconds_of


class TraceFormat(StrEnum):
    azure_llm = "azure-llm"
    mooncake = "mooncake"


MAX_SHUFFLED: Final = 5_000_000
"""Shuffling holds the trace in memory: so many events are about 3 GB."""

_RUN_EVENTS: Final = 20_000
"""Events in one append of the log: some MB, and the bar moves."""
_RUN_RECORDS: Final = 500
"""Records in one append of a simulated workload: at most some 20 MB."""

T = TypeVar("T")

BatchOption = Annotated[int, typer.Option("--batch", min=1, max=100_000, help="Events of a tenant in one record.")]


def replay(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A trace file.")],
    form: Annotated[TraceFormat, typer.Option("--format", help="What the file is.")],
    start: Annotated[
        str | None, typer.Option(metavar="TIME", help="Time of the first row. (Default: now, less the trace's length.)")
    ] = None,
    speed: Annotated[
        float | None,
        typer.Option(min=0.001, help="1: as fast as it happened, 60: a minute in a second. (Default: at once.)"),
    ] = None,
    batch: BatchOption = 100,
    shuffle_seed: Annotated[int | None, typer.Option(help="Publish in an order drawn with this seed.")] = None,
) -> None:
    """Publishes a real trace: tenants, models and applications are dealt to its rows by the replay rule, so the same
    file always gives the same events. Records carry the events' own times, so that the past is judged as of then."""
    begin_us = _start_us(start, settings_of(ctx))
    with errors(), House(settings_of(ctx)) as house:
        snapshot = _with_models(house.control.snapshot())
        try:
            with file.open("rb") as lines:
                length = span(TRACE_FORMATS[form](lines))
            rule = ReplayRule(
                stem=file.stem,
                tenants=tuple(tenant.id for tenant in snapshot.tenants),
                models=snapshot.models,
                start_us=now_us() - length.length_us if begin_us is None else begin_us,
            )
            with file.open("rb") as lines:
                events = _events(form, lines, rule, shuffle_seed)
                paced = events if speed is None else _paced(events, rule.start_us, speed)
                count = _publish(house, paced, length.rows, batch, live=speed is not None)
        except TraceError as wrong:
            fail(f"{file}: {wrong}", WRONG_USE)
    err.print(f"published {count:,} events of {file.name}")


def simulate(
    ctx: typer.Context,
    events: Annotated[int, typer.Option(min=1, max=1_000_000_000, help="How many arrive in all.")] = 100_000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed, start and control data: the same bytes.")] = 1,
    rate: Annotated[float, typer.Option(min=0.001, help="Arrivals a second, the mean over a week.")] = 50.0,
    start: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="When the first request ends. (Default: now, less events / rate.)"),
    ] = None,
    batch: BatchOption = 100,
) -> None:
    """Publishes a seeded workload of gateways and model nodes: daily rhythm, heavy tails, resends, late events and some
    poison. Records carry their simulated time of arrival."""
    begin_us = _start_us(start, settings_of(ctx))
    with errors(), House(settings_of(ctx)) as house:
        started_us = now_us() - int(events / rate * 1e6) if begin_us is None else begin_us
        count = publish_workload(house, events=events, seed=seed, rate=rate, start_us=started_us, batch=batch)
    err.print(f"published {count:,} events")


def _start_us(text: str | None, settings: Settings) -> int | None:
    """The time of `--start`. A broker counts retention from a record's own time, so what is older would be gone before
    it is read."""
    start_us = time_of(text, "--start")
    days = settings.log_retention_days
    if settings.kafka_bootstrap and start_us is not None and start_us < now_us() - days * DAY_US:
        fail(
            f"--start is more than {days} days ago, and Kafka would remove the records unread: start later, or set"
            " METERHOUSE_LOG_RETENTION_DAYS and run `meterhouse topics apply`",
            WRONG_USE,
        )
    return start_us


def publish_workload(
    house: House, *, events: int, seed: int, rate: float, start_us: int, until_us: int | None = None, batch: int = 100
) -> int:
    """Publishes a simulated workload that fits the house's tenants and models, under a progress bar; of it what had
    arrived by `until_us`."""
    snapshot = _with_models(house.control.snapshot())
    tenants = tuple(tenant.id for tenant in snapshot.tenants)
    try:
        workload = Workload(
            seed=seed, events=events, start_us=start_us, rate=rate, tenants=tenants, models=snapshot.models
        )
    except ValueError as wrong:
        fail(str(wrong), WRONG_USE)
    count = 0

    def counted() -> Iterator[Arrival]:
        nonlocal count
        for arrival in arrivals(workload):
            if until_us is not None and arrival.arrived_us > until_us:
                break
            count += 1
            yield arrival

    with progress_bar() as bar:
        task = bar.add_task("publishing", total=events, note="")
        for run in _runs(records(counted(), max_events=batch), _RUN_RECORDS):
            house.log.append(USAGE_EVENTS, run)
            bar.update(task, completed=count)
    return count


def _events(form: TraceFormat, lines: BinaryIO, rule: ReplayRule, shuffle_seed: int | None) -> Iterator[Encoded]:
    events = (_encoded(event) for event in replayed(TRACE_FORMATS[form](lines), rule))
    if shuffle_seed is None:
        return events
    drawn = list(events)
    if len(drawn) > MAX_SHUFFLED:
        fail(f"--shuffle-seed takes at most {MAX_SHUFFLED:,} rows", WRONG_USE)
    random.Random(shuffle_seed).shuffle(drawn)
    return iter(drawn)


def _encoded(event: Event) -> Encoded:
    return Encoded(event.tenant, to_json(event), microseconds_of(event.time))


def _paced(events: Iterable[Encoded], start_us: int, speed: float) -> Iterator[Encoded]:
    """Holds each event back until its turn, as long after now as it was after the first, divided by `speed`."""
    began = time.monotonic()
    for event in events:
        due_s = ((event.appended_us or start_us) - start_us) / 1e6 / speed
        if (wait_s := began + due_s - time.monotonic()) > 0:
            time.sleep(wait_s)
        yield event


def _with_models(snapshot: Snapshot) -> Snapshot:
    if not snapshot.tenants or not snapshot.models:
        fail("there is no control data with tenants and models yet: run `meterhouse apply FILE` first", WRONG_USE)
    return snapshot


def _publish(house: House, events: Iterable[Encoded], total: int, batch: int, *, live: bool) -> int:
    """Appends the events under a progress bar; live ones one by one, so that each is there when it is due."""
    count = 0
    with progress_bar() as bar:
        task = bar.add_task("publishing", total=total, note="")
        for run in _runs(events, 1 if live else max(batch, _RUN_EVENTS)):
            count += append_events(house.log, run, max_batch_events=batch).events
            bar.update(task, completed=count)
    return count


def _runs(items: Iterable[T], size: int) -> Iterator[list[T]]:
    run: list[T] = []
    for item in items:
        run.append(item)
        if len(run) == size:
            yield run
            run = []
    if run:
        yield run


def add_to(app: typer.Typer) -> None:
    register(app, "Publish", simulate, replay)
