"""Grafana's dashboards: made by their generator, of queries that Prometheus takes and processes answer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.ops.test_rules import promtool
from tools.dashboards.__main__ import FOLDER, ROOT, dashboards, runbook
from tools.dashboards.boards import BOARDS
from tools.dashboards.panels import SOURCE, Ground

QUERIES: Final = {
    f"{board.title}: {panel.title} ({legend})": query
    for board in BOARDS
    for panel in board.panels
    for query, legend in panel.queries
}
PROVISIONING: Final = ROOT / "ops" / "grafana" / "provisioning"


def shown() -> list[dict[str, Any]]:
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(FOLDER.glob("*.json"))]


def test_the_files_are_what_the_generator_makes() -> None:
    there = {file.name: file.read_text(encoding="utf-8") for file in FOLDER.glob("*.json")}
    assert there == dashboards(), "run `python -m tools.dashboards`"


def test_prometheus_takes_every_query(tmp_path: Path) -> None:
    rules = [
        {"record": f"board:{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, query in enumerate(QUERIES.values())
    ]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "boards", "rules": rules}]}), encoding="utf-8")
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(file))


def test_each_panel_has_a_unit_and_a_title_of_its_own_and_asks_the_source_that_is_provisioned() -> None:
    provisioned = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text(encoding="utf-8"))
    assert [source["uid"] for source in provisioned["datasources"]] == [SOURCE["uid"]]
    for board in shown():
        titles = [panel["title"] for panel in board["panels"]]
        assert len(titles) == len(set(titles))
        for panel in board["panels"]:
            if panel["type"] != "text":
                assert panel["fieldConfig"]["defaults"]["unit"]
                assert {target["datasource"]["uid"] for target in panel["targets"]} == {SOURCE["uid"]}
    assert len({board["uid"] for board in shown()}) == len(shown())


def test_panels_do_not_overlap() -> None:
    for board in shown():
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            at = panel["gridPos"]
            cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
            assert not cells & taken
            assert at["x"] + at["w"] <= 24
            taken |= cells


def test_a_limit_is_a_line_and_a_link_to_what_to_do() -> None:
    panels = {panel["title"]: panel for board in shown() for panel in board["panels"]}
    stale, disk = panels["Age of the spend that admissions go by"], panels["Free disk"]
    assert stale["fieldConfig"]["defaults"]["thresholds"]["steps"] == [
        {"value": None, "color": "green"},
        {"value": 30.0, "color": "red"},
    ]
    assert disk["fieldConfig"]["defaults"]["thresholds"]["steps"] == [
        {"value": None, "color": "red"},
        {"value": 0.03, "color": "orange"},
        {"value": 0.15, "color": "green"},
    ]
    assert [link["title"] for link in disk["links"]] == ["Runbook: the disk is full"]
    assert disk["fieldConfig"]["defaults"]["custom"]["thresholdsStyle"]["mode"] == "line"


def test_links_to_the_runbook_lead_to_its_sections() -> None:
    boards = {board["uid"]: {panel["id"]: panel for panel in board["panels"]} for board in shown()}
    sections = boards["meterhouse-runbook"]
    assert [panel["title"] for panel in sections.values()] == [title for title, _ in runbook()]
    links = re.findall(r"/d/([a-z-]+)/\?viewPanel=(\d+)", json.dumps(shown()))
    assert links
    for uid, number in links:
        assert int(number) in boards[uid]


def test_a_rule_without_a_number_at_its_end_has_no_line() -> None:
    with pytest.raises(ValueError, match="no line to draw"):
        Ground({"Lost": {"expr": "max(a) == Inf"}}, {}).limit("Lost")
