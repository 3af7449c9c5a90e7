"""One scrape of real processes for all tests of rules and dashboards."""

from __future__ import annotations

import pytest

from tests.ops.scraping import Scrape, scrapes


@pytest.fixture(scope="session")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scrape]:
    return scrapes(tmp_path_factory.mktemp("scraped") / "home")


@pytest.fixture(scope="session")
def known(scraped: dict[str, Scrape]) -> dict[str, set[str]]:
    """The labels of each metric that some process says."""
    found: dict[str, set[str]] = {}
    for scrape in scraped.values():
        for name, labels in scrape.labels().items():
            found.setdefault(name, set()).update(labels)
    return found
