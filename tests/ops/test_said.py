"""Rules and boards ask for what processes really say. In one file, as the processes are started once for all of it."""

from __future__ import annotations

import re
from pathlib import Path

from tests.ops.answers import unanswered_test
from tests.ops.promql import named, sides
from tests.ops.scraping import Scrape
from tests.ops.test_dashboards import QUERIES
from tests.ops.test_rules import promtool, rules


def test_rules_ask_for_metrics_and_labels_that_processes_say(
    scraped: dict[str, Scrape], known: dict[str, set[str]]
) -> None:
    assert {rule["alert"]: named(rule["expr"]).unknown(known) for rule in rules()} == {
        rule["alert"]: [] for rule in rules()
    }


def test_what_a_rule_compares_is_there_in_what_processes_say(scraped: dict[str, Scrape], tmp_path: Path) -> None:
    """Of what joins metrics, too: names alone do not say that labels meet."""
    asked = {
        f"{rule['alert']}{number}": side
        for rule in rules()
        if "absent" not in rule["expr"]  # it has an answer when there is none
        for number, side in enumerate(sides(rule["expr"]))
    }
    assert len(asked) > len(rules())
    promtool("test", "rules", str(unanswered_test(scraped, asked, tmp_path)))


def test_a_process_says_nothing_of_workers_that_it_does_not_run(scraped: dict[str, Scrape]) -> None:
    of = {
        "meter": "meterhouse_buffered_events",
        "budget-worker": "meterhouse_budget_states_said_total",
        "alert-sender": "meterhouse_alerts_waiting",
    }
    for process in of:
        assert [each for each, name in of.items() if name in scraped[process].labels()] == [process]
    assert [name for name in of.values() if name not in scraped["serve"].labels()] == []  # embedded, it runs them all


def test_no_label_names_a_tenant_a_model_or_a_user(known: dict[str, set[str]]) -> None:
    allowed = {
        "away", "channel", "check", "folder", "format", "generation", "implementation", "kind", "le", "major", "method",
        "minor", "outcome", "partition", "patchlevel", "reason", "route", "stage", "status", "suite", "table",
        "version", "worker",
    }  # fmt: skip
    assert set[str]().union(*known.values()) - allowed == set()


def test_what_processes_say_is_as_prometheus_wants_it(scraped: dict[str, Scrape]) -> None:
    for scrape in scraped.values():
        assert promtool("check", "metrics", said=scrape.text) == ""


def test_queries_and_legends_ask_for_metrics_and_labels_that_processes_say(known: dict[str, set[str]]) -> None:
    lacking = {panel: named(query).unknown(known) for panel, query in QUERIES.items()}
    assert {panel: names for panel, names in lacking.items() if names} == {}
    for panel, query in QUERIES.items():
        asked = set(re.findall(r"\{\{(\w+)\}\}", panel))
        found = named(query)
        kept = found.labels if re.search(r"\bby \(", query) else {"process", "instance"}
        assert asked <= kept, panel


def test_every_query_has_an_answer_in_what_processes_say(scraped: dict[str, Scrape], tmp_path: Path) -> None:
    asked = {f"q{number}": query.replace("$__rate_interval", "5m") for number, query in enumerate(QUERIES.values())}
    promtool("test", "rules", str(unanswered_test(scraped, asked, tmp_path)))


def test_every_metric_of_ours_is_on_a_board(known: dict[str, set[str]]) -> None:
    drawn = {name for query in QUERIES.values() for name in named(query).metrics}
    families = {re.sub(r"_(bucket|count|sum|created)$", "", name) for name in known if name.startswith("meterhouse_")}
    unseen = {each for each in families if not {each, f"{each}_total", f"{each}_bucket", f"{each}_count"} & drawn}
    assert unseen == set()
