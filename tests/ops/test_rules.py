"""Prometheus's rules: each fires on its symptom and is silent otherwise, asks for what processes really say, and sends
whoever it wakes to a section of the runbook."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.ops.promql import Named, named, sides
from tests.services.need import skip_or_fail

ROOT: Final = Path(__file__).parents[2]
PROMETHEUS: Final = ROOT / "ops" / "prometheus"
UNIT_TESTS: Final = sorted((Path(__file__).parent / "rules").glob("*.yml"))


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROMETHEUS / "rules.yml").read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def promtool(*words: str, said: str | None = None) -> str:
    program = shutil.which("promtool")
    if program is None:
        skip_or_fail("there is no promtool here: install it (Debian: prometheus)")
    done = subprocess.run([program, *words], input=said, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_prometheus_takes_the_configuration_and_the_rules() -> None:
    promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))


@pytest.mark.parametrize("file", UNIT_TESTS, ids=lambda file: file.stem)
def test_each_rule_fires_on_its_symptom_and_is_silent_otherwise(file: Path) -> None:
    promtool("test", "rules", str(file))


def test_no_rule_is_untested() -> None:
    fires, silent = set(), set()
    for file in UNIT_TESTS:
        for test in yaml.safe_load(file.read_text(encoding="utf-8"))["tests"]:
            for case in test["alert_rule_test"]:
                (fires if case.get("exp_alerts") else silent).add(case["alertname"])
    names = {rule["alert"] for rule in rules()}
    assert (fires, silent) == (names, names)


def test_words_of_an_alert_name_labels_that_it_has() -> None:
    for rule in rules():
        told = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        has = named(rule["expr"]).labels | ({"process", "instance", "job"} if "up{" in rule["expr"] else set())
        assert told <= has | ({"process"} if "label_replace" in rule["expr"] else set()), rule["alert"]


def test_each_alert_leads_to_a_section_of_the_runbook() -> None:
    text = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    sections = {title.lower().replace(" ", "-") for title in re.findall(r"^## (.+)$", text, re.MULTILINE)}
    for rule in rules():
        page, _, section = rule["annotations"]["runbook"].partition("#")
        assert page == "docs/runbook.md"
        assert section in sections, rule["alert"]
        assert f"`{rule['alert']}`" in text, "the runbook does not name it"
        assert rule["labels"]["severity"] in ("critical", "warning")


@pytest.mark.parametrize(
    ("expression", "metrics", "labels"),
    [
        ("up{job='x'} == 0".replace("'", '"'), {"up": {"job"}}, set()),
        ('sum by (le) (rate(a_bucket{b!="}", c=~"d|e"}[5m])) > 0.01', {"a_bucket": {"b", "c"}}, {"le"}),
        ("a / ignoring (r) group_left () sum(b[1h]) and max(c) > 3", {"a": set(), "b": set(), "c": set()}, {"r"}),
    ],
)
def test_an_expression_is_read(expression: str, metrics: dict[str, set[str]], labels: set[str]) -> None:
    assert named(expression) == Named(metrics, labels)


def test_an_expression_is_taken_apart() -> None:
    assert sides("(sum(a) or vector(0)) / sum(b) > 0.1 and max by (c) (d) == Inf") == [
        "(sum(a) or vector(0)) / sum(b)", "max by (c) (d)",
    ]  # fmt: skip


def test_what_nobody_says_is_found() -> None:
    there = {"a_total": {"reason"}}
    assert named('sum by (tenant) (rate(a_total{cause="x"}[5m])) / b').unknown(there) == [
        "a_total{cause}", "b", "by (tenant)",
    ]  # fmt: skip
