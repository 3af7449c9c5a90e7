"""Data quality: a clean lake passes, and bad data of each kind, planted, fails the checks that are about it by name."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pytest

from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.ingest.event import Lateness
from meterhouse.streams.control import Budget, Objective, RateCard, Scope, Snapshot, WindowSpec
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.quality import sources
from meterhouse.warehouse.quality.checks import Between, Check, Extract, Finding, Suite, SuiteResult, Validate
from meterhouse.warehouse.quality.runs import checked, extracts_of
from meterhouse.warehouse.quality.sources import Sources
from meterhouse.warehouse.quality.suites import SUITES
from meterhouse.warehouse.reports.as_of import Freshness, as_of
from tests.builders import DAY_US, HOUR_US, SECOND_US, T0_US
from tests.commands import invoked
from tests.warehouse.filled import SNAPSHOT, card, fill

NOW = T0_US + 20 * DAY_US + 12 * HOUR_US  # Saturday, 2026-11-21
BUSY: Final = 1_000
"""Requests of acme on a day: just enough for drift to be told."""
CONTROL = replace(
    SNAPSHOT, budgets=SNAPSHOT.budgets, objectives=(Objective("up", Scope(), "availability", None, Decimal("0.9"), 30),)
)


def clean_requests() -> list[dict[str, Any]]:
    """Acme's on Friday and on the Friday before; bolt's of today, an hour ago, one a minute."""
    busy = [
        {"time": at + n * 1_000, "arrived": at + n * 1_000, "input_tokens": 10, "duration_us": 5}
        for at in (T0_US + 12 * DAY_US, T0_US + 19 * DAY_US)
        for n in range(BUSY)
    ]
    today = [
        {
            "time": NOW - HOUR_US + n * 60 * SECOND_US,
            "arrived": NOW - HOUR_US + n * 60 * SECOND_US,
            "tenant": "bolt",
            "model": "atlas-small",
            "output_tokens": 7,
            "duration_us": 2_000,
            "time_to_first_token_us": 1_000,
            "http_status": 200,
        }
        for n in range(6)
    ]
    return [*busy, *today]


REQUESTS: Final = 2 * BUSY + 6


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


@dataclass(frozen=True)
class Planted:
    """Bad data, and what must be said of it: by check, the row that is named. `besides`: checks that it fails too."""

    fails: dict[str, str] = field(default_factory=dict)
    lake: Sequence[str] = ()
    control: Snapshot = CONTROL
    versions: Sequence[tuple[int, int]] = ((3, 0),)
    freshness: Freshness | None = None
    besides: frozenset[str] = frozenset()


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

TODAY = "day 2026-11-21, partition 0, tenant bolt, model atlas/atlas-small"
MINUTES = f"table rollup_minute, {TODAY}"


def bolt(number: int, changes: str, table: str = "charges") -> str:
    return f'UPDATE {table} SET {changes} WHERE "offset" = {2 * BUSY + number}'


EVENTS_RANGE = Planted(
    {
        "tokens-low": f"{TODAY}: fewest_tokens -5",
        "tokens-high": f"{TODAY}: most_tokens 20000007",
        "durations-low": f"{TODAY}: shortest_us -1",
        "durations-high": f"{TODAY}: longest_us 86400000001",
        "first-token": f"{TODAY}: first_token_after_end 1",
        "http-low": f"{TODAY}: least_http 99",
        "http-high": f"{TODAY}: most_http 600",
        "cost-low": f"{TODAY}: least_cost_pico -1",
        "cost-high": f"{TODAY}: most_cost_pico 10000000000000002",
        "not-early": f"{TODAY}: too_early_s 1",
        "not-late": "day 2026-10-17, partition 0, tenant bolt, model atlas/atlas-small: too_late_s 1",
    },
    [
        bolt(0, "input_tokens = -5, http_status = 99"),
        bolt(1, "input_tokens = 20_000_000, duration_us = 86_400_000_001, http_status = 600"),
        bolt(2, "time_to_first_token_us = 2_001, cost_pico = -1"),
        bolt(3, "queue_us = -1, cost_pico = 10_000_000_000_000_002"),
        bolt(4, "time = arrived + INTERVAL 3601 SECONDS"),
        bolt(5, "time = arrived - INTERVAL 35 DAYS - INTERVAL 1 SECOND"),
    ],
)
EVENTS_SET = Planted(
    {
        "status": "tenant bolt, day 2026-11-21: status cancelled",
        "disposition": "tenant bolt, day 2026-11-21: disposition gratis",
        "status-disposition": "tenant bolt, day 2026-11-21: status blocked, disposition billed",
    },
    [bolt(0, "status = 'cancelled'"), bolt(1, "disposition = 'gratis'"), bolt(2, "status = 'blocked'")],
    besides=frozenset({"ledger-rows"}),  # `gratis` is nothing that a position counts
)
EVENTS_FRESHNESS = Planted(
    {"watermark": "partition 1: waiting_s 901"},
    freshness=Freshness(NOW, {0: REQUESTS + 1, 1: 3}, {0: NOW - 900 * SECOND_US, 1: NOW - 901 * SECOND_US}),
)
EVENTS_COMPLETENESS = Planted(
    {
        "ledger-read": f"partition 0: read {REQUESTS + 1}, became {REQUESTS}",
        "ledger-rows": f"partition 0, what billed: counted {REQUESTS}, stored {REQUESTS - 1}",
    },
    ['DELETE FROM charges WHERE "offset" = 3', "UPDATE position_0 SET read = read + 1"],
)
EVENTS_DRIFT = Planted(
    {"rejects-drift": "day 2026-11-20, tenant acme: grew_permille 51"},
    [
        f"""INSERT INTO rejects SELECT 'usage.events', 0, 10_000 + i, 0, make_timestamptz({T0_US + 19 * DAY_US}),
            'missing_field', 'data.model is missing', 'acme', '{{}}'::BLOB FROM range(54) AS numbers(i)""",
        "UPDATE position_0 SET read = read + 54, rejected = rejected + 54",
    ],
)

OF_BOLT = "WHERE tenant = 'bolt'"
ROLLUPS_RANGE = Planted(
    {
        "requests-low": f"table rollup_day, {TODAY}: least_requests -1",
        "tokens-low": f"table rollup_day, {TODAY}: least_tokens -1",
        "cost-low": f"table rollup_day, {TODAY}: least_cost -1",
        "steps": f"{MINUTES}: off_step 6",
    },
    [
        f"UPDATE rollup_day SET requests = -1, input_tokens = -1, output_cost = -0.1 {OF_BOLT}",
        f"UPDATE rollup_minute SET time = time + INTERVAL 1 SECOND {OF_BOLT}",
    ],
    besides=frozenset({"requests", "tokens", "cost"}),
)
ROLLUPS_SET = Planted(
    {
        "status": "table rollup_hour, day 2026-11-21, tenant bolt: status cancelled",
        "status-disposition": "table rollup_minute, day 2026-11-21, tenant bolt: status ok, disposition unbilled",
    },
    [
        f"UPDATE rollup_hour SET status = 'cancelled' {OF_BOLT}",
        f"UPDATE rollup_minute SET disposition = 'unbilled' {OF_BOLT}",
    ],
)
ROLLUPS_FRESHNESS = Planted(
    {"newest": "table rollup_minute, partition 0: steps_behind 3"},
    [f"DELETE FROM rollup_minute WHERE time >= make_timestamptz({NOW - 57 * 60 * SECOND_US})"],
    besides=frozenset({"requests", "tokens", "cost"}),
)
ROLLUPS_COMPLETENESS = Planted(
    {
        "requests": f"table rollup_day, {TODAY}: requests 7, charged_requests 6",
        "tokens": f"table rollup_hour, {TODAY}: tokens 43, charged_tokens 42",
        "cost": f"{MINUTES}: cost 0.000000000295, charged_cost 0.000000000294",
    },
    [
        f"UPDATE rollup_day SET requests = requests + 1 {OF_BOLT}",
        f"UPDATE rollup_hour SET output_tokens = output_tokens + 1 {OF_BOLT}",
        f"""UPDATE rollup_minute SET output_cost = output_cost + 0.000000000001
            {OF_BOLT} AND time = make_timestamptz({NOW - HOUR_US})""",
    ],
)
ROLLUPS_DRIFT = Planted(
    {
        "requests-drift": "day 2026-11-20, tenant acme: requests_percent 301",
        "cost-drift": "day 2026-11-20, tenant acme: cost_percent 400",
        "tokens-drift": "day 2026-11-20, tenant acme: tokens_a_request_percent 201",
    },
    [
        f"""UPDATE rollup_day SET requests = 3_010, input_cost = input_cost * 4, input_tokens = 3_010 * 20 + 301
            WHERE time = make_timestamptz({T0_US + 19 * DAY_US})"""
    ],
    besides=frozenset({"requests", "tokens", "cost"}),
)


def more_cards(*cards: RateCard) -> Snapshot:
    return replace(CONTROL, rate_cards=(*CONTROL.rate_cards, *cards))


def since(number: int, from_us: int, to_us: int | None, model: str = "new", **pico: int) -> RateCard:
    return replace(card(number, model, **pico), valid_from_us=from_us, valid_to_us=to_us)


LIMITLESS = Budget("free", Scope(), WindowSpec("day", "UTC"), 0, None, (Decimal(0), Decimal(1_001)), "notify")
CONTROL_RANGE = Planted(
    {
        "prices": "card 8, model atlas/new, kind input: pico_per_token -1",
        "limits": "budget free: limit_units 0",
        "thresholds-low": "budget free: lowest_threshold 0",
        "thresholds-high": "budget free: highest_threshold 1001",
        "overlaps": "card 7, model atlas/new: overlap_s 1",
    },
    control=replace(
        more_cards(since(7, 0, NOW + 1, input=1), since(8, NOW, None, input=-1)),
        budgets=(*CONTROL.budgets, LIMITLESS),
    ),
    besides=frozenset({"price-drift"}),
)
CONTROL_SET = Planted(
    {
        "kinds": "card 9, model atlas/new, kind thoughts: kind thoughts",
        "scopes": "what budget, id nobody: names tenant ghost, which is not there",
        "tenants": "tenant bolt: in_control_data no",
        "cards": "card 3, model atlas/atlas-small, tenant bolt: in_control_data no",
    },
    control=replace(
        CONTROL,
        tenants=tuple(tenant for tenant in CONTROL.tenants if tenant.id != "bolt"),
        rate_cards=(*CONTROL.rate_cards[:2], replace(CONTROL.rate_cards[2], id=30), since(9, 0, None, thoughts=1)),
        budgets=(replace(CONTROL.budgets[0], id="nobody", scope=Scope(tenant="ghost")),),
    ),
)
CONTROL_FRESHNESS = Planted(
    {"versions-fresh": "partition 0: versions_behind 1"},
    control=replace(CONTROL, version=4),
    versions=((4, NOW - 2 * HOUR_US), (3, 0)),
)
CONTROL_COMPLETENESS = Planted(
    {
        "versions-known": "partition 0: versions_ahead 1",
        "gaps": "card 7, model atlas/new: gap_s 2",
        "unpriced": "model atlas/atlas-tiny, tenants bolt: unpriced 6",
    },
    [
        f"UPDATE {table} SET model = 'atlas-tiny', disposition = 'unpriced' {OF_BOLT}"
        for table in ("rollup_day", "rollup_hour")
    ],
    control=replace(more_cards(since(7, 0, NOW), since(8, NOW + 2 * SECOND_US, None)), version=2),
    versions=((2, 0),),
)
CONTROL_DRIFT = Planted(
    {"price-drift": "card 8, model atlas/new, kind input: percent 1001"},
    control=more_cards(since(7, 0, None, input=100), since(8, NOW, None, input=1_001)),
)

PLANTED: Final[dict[tuple[Suite, str], Planted]] = {
    ("events", "range"): EVENTS_RANGE,
    ("events", "set"): EVENTS_SET,
    ("events", "freshness"): EVENTS_FRESHNESS,
    ("events", "completeness"): EVENTS_COMPLETENESS,
    ("events", "drift"): EVENTS_DRIFT,
    ("rollups", "range"): ROLLUPS_RANGE,
    ("rollups", "set"): ROLLUPS_SET,
    ("rollups", "freshness"): ROLLUPS_FRESHNESS,
    ("rollups", "completeness"): ROLLUPS_COMPLETENESS,
    ("rollups", "drift"): ROLLUPS_DRIFT,
    ("control", "range"): CONTROL_RANGE,
    ("control", "set"): CONTROL_SET,
    ("control", "freshness"): CONTROL_FRESHNESS,
    ("control", "completeness"): CONTROL_COMPLETENESS,
    ("control", "drift"): CONTROL_DRIFT,
}


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
