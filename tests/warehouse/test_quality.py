"""Data quality: a clean lake passes, and bad data of each kind, planted, fails the checks that are about it by name."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pytest

from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.ingest.event import Lateness
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.quality import sources
from meterhouse.warehouse.quality.checks import Between, Check, Extract, Finding, Suite, SuiteResult, Validate
from meterhouse.warehouse.quality.runs import checked, extracts_of
from meterhouse.warehouse.quality.sources import Sources
from meterhouse.warehouse.quality.suites import SUITES
from meterhouse.warehouse.reports.as_of import Freshness, as_of
from tests.commands import invoked
from tests.warehouse.bad_data import CONTROL, NOW, PLANTED, REQUESTS, Planted, clean_requests
from tests.warehouse.filled import fill


@dataclass
class Scene:
    """A lake, and what is said to be the rest of the world."""

    lake: Lake
    made: Validate
    freshness: Freshness = field(default_factory=lambda: Freshness(NOW, {0: REQUESTS}))
    known: dict[tuple[Suite, str], list[tuple[Extract, Mapping[str, Finding]]]] = field(default_factory=dict)

    def validate(self, suite: Suite, work: Sequence[tuple[Extract, Sequence[Check]]]) -> Mapping[str, Finding]:
        """Each extract once: most of them are as they were when another's bad data is planted."""
        found: dict[str, Finding] = {}
        for extract, checks in work:
            known = self.known.setdefault((suite, extract.name), [])
            before = next((findings for other, findings in known if other == extract), None)
            if before is None:
                before = self.made(suite, [(extract, checks)])
                known.append((extract, before))
            found |= before
        return found

    def checked(self, suite: Suite, planted: Planted) -> SuiteResult:
        """The suite over the lake with bad data in it, which is gone again afterwards."""
        with self.lake.borrowed() as cursor:
            cursor.execute("BEGIN TRANSACTION")
            for statement in planted.lake:
                cursor.execute(statement)
            fresh = planted.freshness or self.freshness
            seen = Sources(
                cursor,
                planted.control,
                planted.control.rate_cards,
                planted.versions,
                as_of(self.lake, cursor, fresh),
                fresh,
                Lateness(),
            )
            extracts = extracts_of([suite], seen)
            cursor.execute("ROLLBACK")
        return checked(suite, seen, extracts, self.validate)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("quality")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what Great Expectations imports
        from meterhouse.warehouse.quality.expectations import Expectations
    with Lake.open(LakeConfig(folder / "lake.sqlite", folder / "data", threads=1)) as lake:
        fill(lake, clean_requests(), snapshot=CONTROL)
        yield Scene(lake, lambda suite, work: Expectations().validate(suite, work))


@pytest.mark.parametrize("suite", SUITES)
def test_a_clean_lake_passes(scene: Scene, suite: Suite) -> None:
    result = scene.checked(suite, Planted())
    assert [(each.check.id, each.finding) for each in result.failed] == []
    assert all(each.whole for each in result.checks)
    # What is checked is there: no check passes since it saw nothing, but for those of prices that follow each other.
    empty = {each.check.id for each in result.checks if not each.finding.checked}
    assert empty <= {"overlaps", "gaps", "price-drift"}


# -- planted bad data -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suite", "kind"), PLANTED, ids=lambda part: part)
def test_planted_bad_data_fails_the_checks_of_its_kind_and_is_named(scene: Scene, suite: Suite, kind: str) -> None:
    planted = PLANTED[suite, kind]
    result = scene.checked(suite, planted)
    failed = {each.check.id: each.finding for each in result.failed}
    assert {id_: finding.trouble for id_, finding in failed.items() if finding.trouble} == {}
    assert failed.keys() == planted.fails.keys() | planted.besides
    assert {id_: row for id_, row in planted.fails.items() if row not in failed[id_].rows} == {}, failed


def test_more_rows_than_are_looked_at_are_told(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_ROWS", 1)
    result = scene.checked("rollups", Planted())
    assert {each.check.extract for each in result.checks if not each.whole} == {
        "rollups", "rollup_words", "rollup_newest", "rollup_sums", "days",
    }  # fmt: skip
    assert {each.finding.checked for each in result.checks} == {1}


def test_a_check_that_cannot_be_made_does_not_pass(scene: Scene) -> None:
    check = Check("odd", "range", "odd", Between("nowhere", 0, None), "there is such a column", "see why not")
    finding = scene.made("events", [(Extract("odd", ("a",), pa.table({"a": [1]})), [check])])["odd"]
    assert not finding.passed
    assert "nowhere" in (finding.trouble or "")


def test_names_that_senders_made_up_are_text_on_the_pages(scene: Scene, tmp_path: Path) -> None:
    from meterhouse.warehouse.quality.expectations import Expectations

    name = "<script>alert('&amp;')</script>"
    check = Check("odd", "range", "odd", Between("n", 0, None), "none is negative", "see why")
    made = Expectations()
    extract = Extract("odd", ("model",), pa.table({"model": [name], "n": [-1]}))
    assert made.validate("events", [(extract, [check])])["odd"].rows == (f"model {name}: n -1",)
    made.write_docs(tmp_path)
    (page,) = tmp_path.glob("validations/**/*.html")
    text = page.read_text(encoding="utf-8")
    assert "&lt;script&gt;alert" in text
    assert name not in text


def test_bad_data_of_each_check_is_planted() -> None:
    checks = {(suite, check.kind, check.id) for suite, those in SUITES.items() for check in those}
    assert {(suite, kind, id_) for (suite, kind), planted in PLANTED.items() for id_ in planted.fails} == checks


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command_names_what_failed_raises_an_alert_and_ends_it_when_it_passes(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("Great Expectations tells nobody anything")

    monkeypatch.setattr("socket.socket.connect", refuse)
    home, pages = tmp_path / "home", tmp_path / "pages"

    def forge(statement: str) -> None:
        with House(Settings(home=home), writer=True) as house, house.lake.borrowed() as cursor:
            cursor.execute(statement)

    with House(Settings(home=home), writer=True) as house:
        fill(house.lake, [{"model": "atlas-large"}, {}])
    assert json.loads(invoked(home, "quality", "--suite", "events", "--format", "json").output)["passed"]

    forge('DELETE FROM charges WHERE "offset" = 1')
    done = invoked(home, "quality", "--suite", "events", "--docs", str(pages))
    assert done.exit_code == 1
    assert "events/ledger-rows: partition 0, what billed: counted 2, stored 1" in done.output
    assert "do: run `meterhouse verify`" in done.output
    assert "events.ledger" in (pages / "index.html").read_text(encoding="utf-8")
    (alert,) = json.loads(invoked(home, "alerts", "--kind", "quality", "--format", "json").output)["alerts"]
    assert (alert["subject"], alert["standing"]) == ("events/ledger-rows", "open")

    forge("UPDATE position_0 SET read = 1, billed = 1")
    assert invoked(home, "quality", "--suite", "events").exit_code == 0
    told = json.loads(invoked(home, "alerts", "--kind", "quality", "--format", "json").output)["alerts"]
    assert sorted((each["status"], each["standing"]) for each in told) == [("firing", "resolved"), ("resolved", None)]
