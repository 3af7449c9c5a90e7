"""However the events of a trace come in, and however the meter cuts them, the bill is the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import GROUPS, Books
from tests.e2e.house import START, House
from tests.oracle.traces import FILES


@dataclass(frozen=True)
class Way:
    """How a trace is published, and how the meter is set to cut its work."""

    replay: tuple[str, ...] = ()
    commit_events: int = 100_000
    poll_records: int = 20_000

    @property
    def settings(self) -> dict[str, str]:
        return {
            "METERHOUSE_COMMIT_EVENTS": str(self.commit_events),
            "METERHOUSE_POLL_RECORDS": str(self.poll_records),
        }


WAYS = {
    "1 event a record": Way(("--batch", "1")),
    "7 events a record": Way(("--batch", "7")),
    "1,000 events a record": Way(("--batch", "1000")),
    "50,000 events a record": Way(("--batch", "50000")),
    "shuffled": Way(("--shuffle-seed", "3")),
    "shuffled, 7 events a record": Way(("--shuffle-seed", "4", "--batch", "7")),
    "commits of 500, polls of 7 records of 7": Way(("--batch", "7"), commit_events=500, poll_records=7),
}


@pytest.mark.parametrize(
    ("trace_format", "name"),
    # Each way with one trace or the other; a process is started thrice for each.
    [(sorted(FILES)[number % len(FILES)], name) for number, name in enumerate(WAYS)],
)
def test_the_bill_does_not_depend_on_how_events_come_in(
    replayed: Callable[[str], Books], applied: House, tmp_path: Path, trace_format: str, name: str
) -> None:
    kept, way, house = replayed(trace_format), WAYS[name], applied.copy(tmp_path / "home")
    house.run("replay", str(kept.trace.path), "--format", trace_format, "--start", START, *way.replay)
    house.run("work", "--until-idle", settings=way.settings)
    assert house.bill(GROUPS) == kept.bill()
    house.ask("verify")


@pytest.mark.parametrize("trace_format", sorted(FILES))
def test_a_trace_replayed_again_later_is_billed_once(
    replayed: Callable[[str], Books], applied: House, tmp_path: Path, trace_format: str
) -> None:
    """The second time in another order, at other times and in other batches: the ids say that it is a repeat."""
    kept, house = replayed(trace_format), applied.copy(tmp_path / "home")
    trace = (str(kept.trace.path), "--format", trace_format)
    house.run("replay", *trace, "--start", START)
    house.run("work", "--until-idle")
    house.run("replay", *trace, "--start", START)
    house.run("replay", *trace, "--start", "2026-03-28T20:00:00Z", "--shuffle-seed", "9", "--batch", "13")
    house.run("work", "--until-idle")
    assert house.bill(GROUPS) == kept.bill()
    house.ask("verify")


def test_a_repeat_in_the_same_run_is_billed_once(
    replayed: Callable[[str], Books], applied: House, tmp_path: Path
) -> None:
    kept, house = replayed("azure-llm"), applied.copy(tmp_path / "home")
    for _ in range(2):
        house.run("replay", str(kept.trace.path), "--format", "azure-llm", "--start", START)
    house.run("work", "--until-idle")
    assert house.bill(GROUPS) == kept.bill()
