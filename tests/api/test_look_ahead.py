"""A new snapshot of the lake is looked at before anybody asks for it, if somebody asked lately."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from meterhouse.api import figures
from meterhouse.api.figures import Reports
from meterhouse.api.look_ahead import LookAhead
from meterhouse.warehouse import lake_writing
from meterhouse.warehouse.books import look_ahead
from meterhouse.warehouse.kept_sums import KeptSums
from meterhouse.warehouse.lake import Cursor
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


def test_a_snapshot_is_looked_at_once_and_readers_are_given_the_one_before_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, go_on = list[int](), threading.Event()

    def slow(sums: KeptSums, cursor: Cursor) -> None:
        looks.append(sums._lake.snapshot_id(cursor))
        assert go_on.wait(60)
        look_ahead(sums, cursor)

    monkeypatch.setattr(figures, "look_ahead", slow)
    monkeypatch.setattr(lake_writing, "BEHIND_S", 600.0)
    with opened(tmp_path) as site:
        reports = Reports(site.house, EVERYTHING)
        site.publish(event(1))
        site.work()
        site.get("/v1/chargeback", group_by="tenant")
        with LookAhead(site.house, reports):
            until(lambda: len(looks) == 1)
            go_on.set()
            until(lambda: not site.house.lake.writing.moved.is_set())
            go_on.clear()
            before = site.get("/v1/chargeback")["as_of"]["snapshot"]
            site.publish(event(2))
            site.work()
            until(lambda: len(looks) == 2)
            given = site.get("/v1/chargeback")
            assert (given["as_of"]["snapshot"], given["total"]["requests"]) == (before, 1)
            go_on.set()
            until(lambda: site.get("/v1/chargeback")["total"]["requests"] == 2)
            for _ in range(3):
                reports.look_ahead()
    assert len(looks) == len(set(looks))
