"""The processes of docker-compose.yml, run as it says: started together, watched, killed under load, stopped."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.blocks import blocks
from tests.services.waiting import until
from tests.stack.compose import ROOT, document, services
from tests.stack.soak import soaked
from tests.stack.stack import LEFT_OUT, Stack, running

README = ROOT / "README.md"
SECONDS = 30
RATE = 1_000

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("stack")) as started:
        yield started


def test_each_service_is_up_after_those_that_it_waits_for(stack: Stack) -> None:
    of = {name: instance.service for name, instance in stack.containers.items()}
    assert set(of) == {
        f"{service.name}-{number + 1}"
        for service in services(document()).values()
        for number in range(service.replicas)
        if service.name not in LEFT_OUT
    }
    for number, name in enumerate(stack.order):
        before = {of[each].name for each in stack.order[:number]}
        assert set(of[name].depends_on) <= before


def test_prometheus_scrapes_each_process_and_knows_alertmanager(stack: Stack) -> None:
    def up() -> Counter[str]:
        targets = stack.json("prometheus-1", "/api/v1/targets")["data"]["activeTargets"]
        return Counter(each["labels"]["process"] for each in targets if each["health"] == "up")

    until(lambda: up().total() == 7, 60)
    assert up() == {"api": 1, "meter": 2, "budget-worker": 2, "alert-sender": 1, "quality": 1}
    (told,) = stack.json("prometheus-1", "/api/v1/alertmanagers")["data"]["activeAlertmanagers"]
    assert told["url"].startswith(stack.url("alertmanager-1"))
    groups = stack.json("prometheus-1", "/api/v1/rules")["data"]["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} <= {"ok", "unknown"}  # not looked at yet


def test_nothing_is_lost_and_no_bill_is_wrong_while_processes_die(stack: Stack) -> None:
    outcome = soaked(stack, SECONDS, RATE, ["meter-1", "api-1", "meter-1+meter-2"])
    assert outcome.differences == []
    assert outcome.sent.accepted == SECONDS * RATE
    assert all(outcome.during(outage) for outage in outcome.outages)


def test_the_commands_of_the_readme_work_in_the_stack(stack: Stack) -> None:
    lines = [line for block in blocks(README) if block.language == "sh" for line in block.text.splitlines()]
    typed = [words for line in lines if (words := shlex.split(line, comments=True))[:2] == ["docker", "compose"]]
    asked = {words[2]: words for words in typed}
    assert asked.keys() == {"-f", "up", "run", "exec"}
    assert asked["up"][3:] == ["--build", "--wait"]
    *options, _, mount, service, command, file = asked["run"][3:]
    here, there, _ = mount.split(":")
    assert (options, there, command) == (["--rm", "--no-deps"], file, "apply")
    stack.meterhouse(service, command, str(Path(here.replace("$PWD", str(ROOT)))))
    for words in (words for words in typed if words[2] == "exec"):
        assert words[4] == "meterhouse"
        stack.meterhouse(words[3], *words[5:])


def test_each_process_leaves_well_and_wrote_nowhere_that_it_may_not(stack: Stack) -> None:
    assert {name: code for name, code in stack.stop().items() if code != 0} == {}
    assert [path for container in stack.containers.values() for path in container.place.strays()] == []
