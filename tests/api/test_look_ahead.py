"""A new snapshot of the lake is looked at before anybody asks for it, if somebody asked lately."""

from __future__ import annotations

from pathlib import Path

from meterhouse.api.figures import Reports
from meterhouse.api.look_ahead import LookAhead
from meterhouse.warehouse.view import EVERYTHING
from tests.api.sites import event, opened
from tests.services.waiting import until


def test_a_commit_is_looked_at_at_once_by_a_server_that_is_asked_for_reports(tmp_path: Path) -> None:
    with opened(tmp_path) as site:
        reports = Reports(site.house, EVERYTHING)
        site.publish(event(1))
        site.work()
        with LookAhead(site.house, reports):
            assert site.house.sums.held_bytes == 0, "nobody asked"
            site.get("/v1/chargeback", group_by="tenant")
            asked = site.house.sums.held_bytes
            site.publish(event(2))
            site.work()
            until(lambda: site.house.sums.held_bytes > asked)


def test_a_lake_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    with opened(tmp_path) as site, LookAhead(site.house, Reports(site.house, EVERYTHING)):
        assert site.house.opened_lake is None
        site.publish(event(1))
        site.work()
        assert site.house.opened_lake is not None
        assert site.get("/v1/chargeback")["total"]["requests"] == 1
