"""OpenSLO v1 documents in a control file: what becomes an objective, and what is told instead of guessed."""

from __future__ import annotations

from decimal import Decimal

import pytest

from meterhouse.streams.control import Objective, Scope
from meterhouse.warehouse.control_file import parse
from tests.warehouse.control_texts import TEXT, applied, edited, planned

RATIO = """\
apiVersion: openslo/v1
kind: SLO
metadata:
  name: assistant-up
  displayName: The assistant answers
  labels: {team: [assistant, platform]}
spec:
  description: Most requests end well.
  service: assistant
  indicator:
    metadata: {name: answers}
    spec:
      ratioMetric:
        counter: true
        good:
          metricSource:
            type: meterhouse
            spec: {sli: availability, scope: {application: assistant}}
        total:
          metricSource:
            type: meterhouse
            spec: {sli: availability, scope: {application: assistant}}
  timeWindow:
    - duration: 4w
      isRolling: true
  budgetingMethod: Occurrences
  objectives:
    - displayName: Answers
      target: 0.999
"""
THRESHOLD = """\
apiVersion: openslo/v1
kind: SLI
metadata: {name: first-token}
spec:
  thresholdMetric:
    metricSource:
      type: meterhouse
      spec: {sli: time_to_first_token, scope: {tenant: acme, model: large}}
---
apiVersion: openslo/v1
kind: SLO
metadata: {name: acme-first}
spec:
  service: acme
  indicatorRef: first-token
  timeWindow: [{duration: 30d, isRolling: true}]
  budgetingMethod: Occurrences
  objectives: [{op: lt, value: 800, targetPercent: 99.5}]
"""
POLICY = """\
apiVersion: openslo/v1
kind: AlertPolicy
metadata: {name: by-mail}
spec: {anything: [goes, here]}
"""
UP = Objective("assistant-up", Scope(application="assistant"), "availability", None, Decimal("0.999"), 28)
FIRST = Objective("acme-first", Scope("acme", model="large"), "time_to_first_token", 800, Decimal("0.995"), 30)


def told(text: str) -> list[str]:
    return [str(problem) for problem in parse(text).problems]


def objectives(text: str) -> list[Objective]:
    file = parse(text)
    assert file.problems == (), told(text)
    return [entry.value for entry in file.objectives or ()]


def test_a_ratio_and_a_threshold_are_objectives() -> None:
    assert objectives(RATIO) == [UP]
    assert objectives(THRESHOLD) == [FIRST]
    assert objectives(f"{RATIO}---\n{THRESHOLD}---\n") == [UP, FIRST]


def test_a_ratio_of_a_latency_says_below_what() -> None:
    good, total = "{sli: duration, below_ms: 20000,", "{sli: duration,"
    text = RATIO.replace("{sli: availability,", good, 1).replace("{sli: availability,", total, 1)
    assert objectives(text) == [
        Objective("assistant-up", Scope(application="assistant"), "duration", 20_000, Decimal("0.999"), 28)
    ]


def test_several_targets_of_a_ratio_are_numbered_objectives() -> None:
    text = edited(("      target: 0.999\n", "      target: 0.999\n    - targetPercent: 99.9999\n"), text=RATIO)
    assert [(each.id, each.target) for each in objectives(text)] == [
        ("assistant-up-1", Decimal("0.999")),
        ("assistant-up-2", Decimal("0.999999")),
    ]


def test_slos_stand_beside_our_sections_and_are_all_the_objectives_of_the_file() -> None:
    ours = applied()
    made = planned(f"{TEXT}---\n{RATIO}", ours)
    assert made.problems == ()
    assert made.target.objectives == (*ours.objectives, UP)
    only = planned(f"{RATIO}---\n{THRESHOLD}", made.target)
    assert only.target.objectives == (UP, FIRST)
    assert (only.target.tenants, only.target.budgets) == (ours.tenants, ours.budgets)
    assert planned(f"{RATIO}---\n{THRESHOLD}", only.target).changes == ()


def test_other_kinds_are_noted_and_leave_the_objectives_alone() -> None:
    before = applied()
    made = planned(POLICY, before)
    assert made.target == before
    assert str(made.warnings[0]) == (
        "openslo[0] (AlertPolicy by-mail, line 1) is of kind AlertPolicy, which is not read: SLO and SLI are"
    )
    text = edited(
        ("  budgetingMethod:", "  alertPolicies: [{alertPolicyRef: by-mail}]\n  budgetingMethod:"), text=RATIO
    )
    assert [note.path for note in parse(text).notes] == ["openslo[0].spec.alertPolicies"]


@pytest.mark.parametrize(
    ("swap", "says"),
    [
        (("openslo/v1", "openslo/v2alpha"), 'openslo[0].apiVersion (SLO assistant-up, line 1) is "openslo/v2alpha"'),
        (("kind: SLO", "kind: Slo"), "it must be one of `SLO`, `SLI`, `DataSource`"),
        (("metadata:\n  name: assistant-up\n", "metadata:\n"), "openslo[0].metadata.name (SLO, line 4) is missing"),
        (
            ("duration: 4w", "duration: 1M"),
            'timeWindow[0].duration (SLO assistant-up, line 24) is "1M": a window is of',
        ),
        (("duration: 4w", "duration: 400d"), "it must be a whole number from 1 to 366"),
        (("isRolling: true", "isRolling: false"), "only rolling windows are supported"),
        (("isRolling: true", "calendar: {startTime: 2026-01-01 00:00:00, timeZone: UTC}"), "windows are rolling here"),
        (("  timeWindow:\n    - duration: 4w\n      isRolling: true\n", ""), "must be a list of exactly one"),
        (("Occurrences", "Timeslices"), "only Occurrences is supported"),
        (("target: 0.999", "target: 99.9"), "it must lie between 0 and 1"),
        (("target: 0.999", "{target: 0.9, targetPercent: 90}"), "is not YAML"),
        (("      target: 0.999", "      target: 0.9\n      targetPercent: 90"), "needs either target"),
        (("      target: 0.999", "      target: 0.9\n      op: lt"), "has a meaning only with a thresholdMetric"),
        (("        counter: true\n", "        bad: {}\n"), "is not supported: say good and total"),
        (("  service: assistant\n", "  indicatorRef: other\n"), "needs either indicator, or indicatorRef"),
        (("  service: assistant\n", "  sevice: assistant\n"), "did you mean `service`?"),
    ],
)
def test_what_cannot_be_an_objective_is_told_with_its_line(swap: tuple[str, str], says: str) -> None:
    assert any(says in problem for problem in told(edited(swap, text=RATIO))), told(edited(swap, text=RATIO))


@pytest.mark.parametrize(
    ("swap", "says"),
    [
        (("indicatorRef: first-token", "indicatorRef: last-token"), "no SLI document of this file has that name"),
        (("type: meterhouse", "type: Prometheus"), "only sources of type `meterhouse` are supported"),
        (("op: lt", "op: lte"), "must be lt: a request is good strictly below the value"),
        (("value: 800, ", ""), "value (SLO acme-first, line 18) is missing"),
        (("sli: time_to_first_token, ", "sli: availability, "), "it must be one of `duration`, `time_to_first_token`"),
        ((", scope: {tenant: acme, model: large}", ""), "scope (SLI first-token, line 8) is missing"),
    ],
)
def test_what_a_threshold_lacks_is_told_with_its_line(swap: tuple[str, str], says: str) -> None:
    assert any(says in problem for problem in told(edited(swap, text=THRESHOLD))), told(edited(swap, text=THRESHOLD))


def test_good_and_total_look_at_the_same_requests() -> None:
    other = RATIO.replace("scope: {application: assistant}", "scope: {application: search}", 1)
    assert ["must have the sli and the scope of good" in problem for problem in told(other)] == [True]


def test_an_id_stands_for_one_objective_wherever_it_is_written() -> None:
    [problem] = told(f"{RATIO}---\n{RATIO}")
    assert problem.startswith("openslo[1].spec.objectives[0] (assistant-up, line 58)")
    assert problem.endswith('has the id "assistant-up" of openslo[0].spec.objectives[0] again: rename one')
    both = edited(("id: up", "id: assistant-up"), text=TEXT) + "---\n" + RATIO
    assert ['has the id "assistant-up" of objectives[1] again' in problem for problem in told(both)] == [True]
    sli = THRESHOLD.partition("---")[0]
    assert ['a second SLI "first-token"' in problem for problem in told(f"{sli}---\n{THRESHOLD}")] == [True]


def test_an_unknown_name_in_a_scope_is_told() -> None:
    [problem] = planned(RATIO.replace("application: assistant}", "tenant: nobody}"), applied()).problems
    assert 'scope.tenant (assistant-up, line 28) is "nobody", which is unknown' in str(problem)
