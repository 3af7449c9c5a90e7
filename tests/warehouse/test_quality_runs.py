"""Runs of data quality: what is kept of them, and which failures are news."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sqlalchemy as sa

from meterhouse.ingest.event import Lateness
from meterhouse.streams.alerts import MemoryOutbox
from meterhouse.warehouse.control import ControlStore
from meterhouse.warehouse.database import open_database, sqlite_url
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.quality import results as module
from meterhouse.warehouse.quality.checks import MAX_NAMED, Check, CheckResult, Extract, Finding, Suite, SuiteResult
from meterhouse.warehouse.quality.results import QualityResults
from meterhouse.warehouse.quality.runs import Quality
from meterhouse.warehouse.quality.suites import SUITES
from meterhouse.warehouse.reports.as_of import Freshness
from tests.builders import T0_US
from tests.warehouse.filled import fill

BAD = Finding(3, 2, ("tenant acme: fewest_tokens -5", "tenant bolt: fewest_tokens -1"))


@dataclass
class Scene:
    """Suites whose checks find what the test says, by `suite/check`; everything else passes."""

    lake: Lake
    engine: sa.Engine
    found: dict[str, Finding] = field(default_factory=dict)
    outbox: MemoryOutbox = field(default_factory=MemoryOutbox)
    now_us: int = T0_US

    def validate(self, suite: Suite, work: Sequence[tuple[Extract, Sequence[Check]]]) -> Mapping[str, Finding]:
        checks = [check for _, those in work for check in those]
        return {check.id: self.found.get(f"{suite}/{check.id}", Finding(3, 0)) for check in checks}

    def run(self, *suites: Suite) -> None:
        self.now_us += 1
        control, results = ControlStore(self.engine), QualityResults(self.engine)
        quality = Quality(lambda: self.lake, control, results, self.outbox, Lateness())
        quality.run(suites or tuple(SUITES), Freshness(self.now_us, {0: 1}), self.validate)

    def told(self) -> list[tuple[str, str]]:
        """Status and subject of all that was ever raised, the oldest first."""
        entries = reversed(self.outbox.list(limit=1_000))
        return [(entry.alert.status, entry.alert.subject) for entry in entries]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    engine = open_database(sqlite_url(tmp_path / "control.sqlite"))
    with Lake.open(LakeConfig(tmp_path / "lake.sqlite", tmp_path / "data", threads=1)) as lake:
        fill(lake, [{}])
        yield Scene(lake, engine)
    engine.dispose()


def test_a_failure_is_raised_once_and_resolved_when_its_check_passes_and_raised_again_after_that(scene: Scene) -> None:
    scene.run()
    assert scene.told() == []
    scene.found = {"events/tokens-low": BAD}
    scene.run()
    scene.run()
    (alert,) = [entry.alert for entry in scene.outbox.list()]
    assert alert.summary == (
        "data quality of events: token counts are not negative: fails in 2 of 3 rows (tenant acme: fewest_tokens -5);"
        " ask who publishes for this tenant what changed; `meterhouse charges --where tenant=...` lists the events"
    )
    assert alert.payload["rows"] == list(BAD.rows)
    scene.found = {"events/tokens-high": BAD}
    scene.run("rollups")  # says nothing of events
    assert len(scene.told()) == 1
    scene.run()
    scene.found = {"events/tokens-low": BAD}
    scene.run("events")
    assert Counter(scene.told()) == {
        ("firing", "events/tokens-low"): 2,
        ("resolved", "events/tokens-low"): 1,
        ("firing", "events/tokens-high"): 1,
        ("resolved", "events/tokens-high"): 1,
    }


def test_two_processes_that_find_the_same_raise_one_alert(scene: Scene) -> None:
    scene.found = {"control/gaps": BAD}
    scene.run("control")
    raised, scene.outbox = scene.outbox.list()[0].alert, MemoryOutbox()
    scene.run("control")  # as if it had not seen the other's
    assert scene.outbox.list()[0].alert.id == raised.id


def test_a_check_that_could_not_be_made_is_news(scene: Scene) -> None:
    scene.found = {"events/status": Finding(3, 0, trouble="there is no such column")}
    scene.run("events")
    (alert,) = [entry.alert for entry in scene.outbox.list()]
    assert "statuses are known: could not be checked (there is no such column)" in alert.summary


def test_a_check_that_is_not_made_any_more_is_nobodys_news(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.found = {"control/gaps": BAD}
    scene.run("control")
    monkeypatch.setitem(SUITES, "control", tuple(check for check in SUITES["control"] if check.id != "gaps"))
    scene.run("control")
    assert scene.told() == [("firing", "control/gaps"), ("resolved", "control/gaps")]


# -- what is kept -----------------------------------------------------------------------------------------------------


def result(at_us: int, suite: Suite = "events", finding: Finding = BAD) -> SuiteResult:
    return SuiteResult(suite, at_us, 7, None, 3, (CheckResult(SUITES[suite][0], finding, True),))


def test_the_newest_run_of_each_suite_is_told_and_old_ones_go(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEEP", 2)
    kept = QualityResults(engine)
    passes = Finding(1, 0)
    for at_us, finding in ((1, passes), (2, BAD), (2, BAD), (3, BAD)):
        kept.add(result(at_us, finding=finding))
    kept.add(result(2, "control", Finding(3, 1, ("model a\x00\ud800: gap_s 1",) * MAX_NAMED)))
    assert {(run.suite, run.at_us, run.passed) for run in kept.last()} == {("events", 3, False), ("control", 2, False)}
    assert kept.passed_us("events", 3) == {}  # the one that passed is not kept any more
    kept.add(result(4, finding=passes))
    assert kept.passed_us("events", 4) == {}
    assert kept.passed_us("events", 5) == {"tokens-low": 4}
