"""The commands that publish events: replay a trace, simulate a workload."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import typer

from meterhouse.api.cli_common import WRONG_USE, err, errors, fail, progress_bar, settings_of, time_of
from meterhouse.api.clock import now_us, to_us
from meterhouse.api.wiring import House
from meterhouse.ingest.encode import Encoded, to_json
from meterhouse.ingest.event import Event
from meterhouse.ingest.formats import azure_llm, mooncake
from meterhouse.ingest.formats.replay_rule import ReplayRule, TraceError, TraceRow, replayed, span
from meterhouse.ingest.publisher import append_events
from meterhouse.streams.control import Snapshot


class TraceFormat(StrEnum):
    azure_llm = "azure-llm"
    mooncake = "mooncake"


_ROWS: Final[dict[TraceFormat, Callable[[Iterable[bytes]], Iterator[TraceRow]]]] = {
    TraceFormat.azure_llm: azure_llm.rows,
    TraceFormat.mooncake: mooncake.rows,
}
MAX_SHUFFLED: Final = 5_000_000
"""Shuffling holds the trace in memory: so many events are about 3 GB."""

BatchOption = Annotated[int, typer.Option("--batch", min=1, max=100_000, help="Events of a tenant in one record.")]


def replay(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A trace file.")],
    form: Annotated[TraceFormat, typer.Option("--format", help="What the file is.")],
    start: Annotated[
        str | None, typer.Option(metavar="TIME", help="Time of the first row. [now, less the trace's length]")
    ] = None,
    speed: Annotated[
        float | None, typer.Option(min=0.001, help="1: as fast as it happened, 60: a minute in a second. [at once]")
    ] = None,
    batch: BatchOption = 100,
    shuffle_seed: Annotated[int | None, typer.Option(help="Publish in an order drawn with this seed.")] = None,
) -> None:
    """Publishes a real trace: tenants, models and applications are dealt to its rows by the replay rule, so the same
    file always gives the same events. Records carry the events' own times, so that the past is judged as of then."""
    begin_us = time_of(start, "--start")
    with errors(), House(settings_of(ctx)) as house:
        snapshot = _with_models(house.control.snapshot())
        try:
            with file.open("rb") as lines:
                length = span(_ROWS[form](lines))
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


def _events(form: TraceFormat, lines: BinaryIO, rule: ReplayRule, shuffle_seed: int | None) -> Iterator[Encoded]:
    events = (_encoded(event) for event in replayed(_ROWS[form](lines), rule))
    if shuffle_seed is None:
        return events
    drawn = list(events)
    if len(drawn) > MAX_SHUFFLED:
        fail(f"--shuffle-seed takes at most {MAX_SHUFFLED:,} rows", WRONG_USE)
    random.Random(shuffle_seed).shuffle(drawn)
    return iter(drawn)


def _encoded(event: Event) -> Encoded:
    return Encoded(event.tenant, to_json(event), to_us(event.time))


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


_RUN_EVENTS: Final = 20_000  # one append of the log: some MB, and the bar moves


def _runs(events: Iterable[Encoded], size: int) -> Iterator[list[Encoded]]:
    run: list[Encoded] = []
    for event in events:
        run.append(event)
        if len(run) == size:
            yield run
            run = []
    if run:
        yield run


def add_to(app: typer.Typer) -> None:
    for command in (replay,):
        app.command(rich_help_panel="Publish")(command)
