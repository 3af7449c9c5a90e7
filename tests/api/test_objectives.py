"""Burn-downs and latencies over HTTP are those of the report of objectives, and of the pages."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pyarrow.parquet as pq
import pytest

from meterhouse.api.figures import Reports, Span
from meterhouse.api.forms import Form
from meterhouse.warehouse.view import EVERYTHING
from tests.api.sites import Site, event, opened, problem

DURATIONS_US = (500_000, 1_500_000, 2_500_000, 9_000_000)
"""Of the objective `fast`, below 2 s, two are good."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with opened(tmp_path_factory.mktemp("site")) as site:
        site.publish(*(event(n, data={"duration_us": us}) for n, us in enumerate(DURATIONS_US)))
        site.work()
        yield site


def test_a_burn_down_ends_at_what_the_objectives_say_is_left(site: Site) -> None:
    burnt, [objective] = site.get("/v1/slo/burn-down", objective="fast"), site.get("/v1/slo")["objectives"]
    assert (burnt["good"], burnt["total"]) == (objective["good"], objective["total"]) == (2, 4)
    assert burnt["steps"][-1]["error_budget_left"] == objective["error_budget_left"] == -49.0
    assert len(burnt["steps"]) in (30, 31)
    assert sum(minute["total"] - minute["good"] for minute in burnt["worst_minutes"]) == 2
    assert burnt["worst_minutes"] == Reports(site.house, EVERYTHING).burn_down("fast", Span())["worst_minutes"]


def test_of_a_short_range_it_is_by_the_hour_and_as_a_file_it_is_its_steps(site: Site) -> None:
    window = site.get("/v1/slo")["objectives"][0]["window"]
    asked = {"objective": "fast", "from": window["from"][:10], "to": window["from"][:11] + "05:00:00Z"}
    told = site.get("/v1/slo/burn-down", **asked)
    assert (told["step_seconds"], len(told["steps"]), told["worst_minutes"]) == (3600, 5, [])
    answer = site.http.get("/v1/slo/burn-down", params=asked, headers={"accept": Form.parquet.value})
    rows = pq.read_table(io.BytesIO(answer.content)).to_pylist()
    assert [(row["good"], row["even"]) for row in rows] == [(step["good"], step["even"]) for step in told["steps"]]


def test_an_objective_that_is_none_is_told_with_where_they_are(site: Site) -> None:
    answer = site.http.get("/v1/slo/burn-down", params={"objective": "nobody"})
    assert "/v1/slo" in problem(answer, 404, "not-found")["detail"]
    assert "objective" in problem(site.http.get("/v1/slo/burn-down"), 400, "invalid-parameter")["detail"]


def test_latencies_are_those_of_the_objective_and_by_group(site: Site) -> None:
    window, [objective] = site.get("/v1/slo")["objectives"][0]["window"], site.get("/v1/slo")["objectives"]
    span = {"from": window["from"], "to": window["to"]}
    told = site.get("/v1/latencies", every="whole", group_by="application,model", application="assistant", **span)
    assert told["total"] == {name: objective[name] for name in ("duration_ms", "time_to_first_token_ms")}
    assert [{name: line.get(name) for name in ("time", "application", "provider")} for line in told["lines"]] == [
        {"time": None, "application": "assistant", "provider": None}
    ]
    assert site.get("/v1/latencies", application="search", **span)["lines"] == []
    by_place = site.http.get("/v1/latencies", params={"group_by": "org_unit"})
    assert "tenant, application, model, provider" in problem(by_place, 400, "invalid-parameter")["detail"]
