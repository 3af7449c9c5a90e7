"""A run of the suites: extracts from one snapshot of the lake, checks, results that are kept, alerts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from meterhouse.ingest.event import Lateness
from meterhouse.streams.alert import resolution_of
from meterhouse.streams.alerts import AlertOutbox
from meterhouse.warehouse.control import ControlStore
from meterhouse.warehouse.lake import Lake
from meterhouse.warehouse.quality import control_extracts, event_extracts, rollup_extracts
from meterhouse.warehouse.quality.alerts import quality_alert, quality_is_back, subject_of
from meterhouse.warehouse.quality.checks import CheckResult, Extract, Suite, SuiteResult, Validate, needed
from meterhouse.warehouse.quality.results import QualityResults
from meterhouse.warehouse.quality.sources import Sources
from meterhouse.warehouse.quality.suites import SUITES
from meterhouse.warehouse.reports.as_of import Freshness, as_of

MAX_OPEN: Final = 200
"""Open alerts of quality: several times the checks there are."""

EXTRACTS: Final[Mapping[str, Callable[[Sources], Extract]]] = {
    function.__name__: function
    for function in (
        event_extracts.events,
        event_extracts.event_words,
        event_extracts.partitions,
        event_extracts.ledger,
        event_extracts.ledger_read,
        event_extracts.rejects,
        rollup_extracts.rollups,
        rollup_extracts.rollup_words,
        rollup_extracts.rollup_newest,
        rollup_extracts.rollup_sums,
        rollup_extracts.days,
        control_extracts.prices,
        control_extracts.card_spans,
        control_extracts.price_steps,
        control_extracts.budgets,
        control_extracts.scopes,
        control_extracts.used_tenants,
        control_extracts.used_cards,
        control_extracts.used_models,
        control_extracts.versions,
    )
}
"""By the name that checks call them."""


class Quality:
    """The suites over a lake and its control data. One thread runs it; `results` may be read by any. `lake` opens what
    it returns when it is not open yet."""

    def __init__(
        self,
        lake: Callable[[], Lake],
        control: ControlStore,
        results: QualityResults,
        outbox: AlertOutbox,
        lateness: Lateness,
    ) -> None:
        self._lake, self._control, self._outbox = lake, control, outbox
        self._lateness = lateness
        self.results = results

    def run(self, suites: Sequence[Suite], freshness: Freshness, validate: Validate) -> list[SuiteResult]:
        """Runs the suites, keeps what they came to, raises what is news and resolves what no longer is.

        `freshness` says the time of the run. Raises LakeError, ControlUnavailable, OutboxUnavailable.
        """
        results = self._results_of(suites, freshness, validate)
        for result in results:
            self.results.add(result)
        self._tell(results, freshness.read_at_us)
        return results

    def _results_of(self, suites: Sequence[Suite], freshness: Freshness, validate: Validate) -> list[SuiteResult]:
        lake, control = self._lake(), self._control
        with lake.read() as cursor:
            now = as_of(lake, cursor, freshness)
            # Behind the lake's snapshot, so that control data knows what charges name.
            versions = [(each.version, each.recorded_us) for each in control.history()]
            snapshot, cards = control.snapshot(), control.every_card()
            sources = Sources(cursor, snapshot, cards, versions, now, freshness, self._lateness)
            extracts = extracts_of(suites, sources)
        return [checked(suite, sources, extracts, validate) for suite in suites]

    def _tell(self, results: Sequence[SuiteResult], now_us: int) -> None:
        """Raises what fails and is not open, and resolves what is open and over."""
        standing = [entry.alert for entry in self._outbox.open(now_us, MAX_OPEN, "quality")]
        told = {alert.subject for alert in standing}
        news = [
            resolution_of(alert, now_us, why)
            for alert in standing
            if (why := quality_is_back(alert, results)) is not None
        ]
        for result in results:
            new = [each for each in result.failed if subject_of(result.suite, each.check) not in told]
            passed_us = self.results.passed_us(result.suite, result.at_us) if new else {}
            news += [quality_alert(result.suite, each, passed_us.get(each.check.id), now_us) for each in new]
        if news:
            self._outbox.add(news)


def extracts_of(suites: Sequence[Suite], sources: Sources) -> dict[str, Extract]:
    """What the checks of these suites look at, by name."""
    names = dict.fromkeys(check.extract for suite in suites for check in SUITES[suite])
    return {name: EXTRACTS[name](sources) for name in names}


def checked(suite: Suite, sources: Sources, extracts: Mapping[str, Extract], validate: Validate) -> SuiteResult:
    """One suite over its extracts; the lake is not read any more."""
    checks = SUITES[suite]
    findings = validate(suite, [(extracts[name], those) for name, those in needed(checks).items()])
    return SuiteResult(
        suite=suite,
        at_us=sources.now_us,
        lake_snapshot=sources.as_of.snapshot,
        watermark_us=sources.as_of.watermark_us,
        control_version=sources.snapshot.version,
        checks=tuple(CheckResult(check, findings[check.id], extracts[check.extract].whole) for check in checks),
    )
