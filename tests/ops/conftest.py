"""One scrape of real processes for all tests of rules and dashboards."""

from __future__ import annotations

import pytest
from prometheus_client import generate_latest

from meterhouse.api.metrics import Metrics
from meterhouse.api.quality_metrics import QualityMetrics
from meterhouse.warehouse.quality.checks import CheckResult, Finding, SuiteResult
from meterhouse.warehouse.quality.suites import SUITES
from tests.ops.scraping import Scrape, scrapes


@pytest.fixture(scope="session")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scrape]:
    return {**scrapes(tmp_path_factory.mktemp("scraped") / "home"), "quality": quality()}


def quality() -> Scrape:
    """What a process of quality says after a run; to start one would take as long as all the others together."""
    metrics = Metrics()
    told = QualityMetrics(metrics.registry)
    found = CheckResult(SUITES["control"][0], Finding(checked=2, offending=1), whole=True)
    told.ran([SuiteResult("control", 1, 1, None, 1, (found,))], 2.0)
    return Scrape.of(generate_latest(metrics.registry).decode())


@pytest.fixture(scope="session")
def known(scraped: dict[str, Scrape]) -> dict[str, set[str]]:
    """The labels of each metric that some process says."""
    found: dict[str, set[str]] = {}
    for scrape in scraped.values():
        for name, labels in scrape.labels().items():
            found.setdefault(name, set()).update(labels)
    return found
