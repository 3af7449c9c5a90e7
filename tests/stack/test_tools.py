"""What runs and judges the stack can be wrong itself: it is held to cases whose answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.stack.compose import document, seconds, services, unescaped
from tests.stack.judge import Judge
from tests.stack.place import Place, Town
from tests.stack.soak import Answer, Outage, Outcome

SERVICES = services(document())
TRUTH = Judge(
    charges=4,
    distinct=4,
    sums={0: (np.array([0, 0, 7]), np.array([5, 15, 35])), 1: (np.array([3]), np.array([100]))},
    oldest_us={0: (np.array([0, 7]), np.array([1_000_000, 3_000_000])), 1: (np.array([3]), np.array([2_000_000]))},
)


def bill(requests: int, cost: str, offsets: dict[str, int], watermark: str | None = None) -> dict[str, Any]:
    return {"total": {"requests": requests, "cost": cost}, "as_of": {"offsets": offsets, "watermark": watermark}}


@pytest.mark.parametrize(
    ("said", "is_right"),
    [
        (bill(2, "0.000000000015", {"0": 1}), True),
        (bill(4, "0.000000000135", {"0": 8, "1": 4}), True),
        (bill(0, "0.000000000000", {}), True),
        (bill(4, "0.000000000134", {"0": 8, "1": 4}), False),
        (bill(3, "0.000000000135", {"0": 8, "1": 4}), False),
        (bill(4, "0.000000000135", {"0": 7, "1": 4}), False),
    ],
)
def test_a_bill_is_right_to_the_last_digit_or_wrong(said: dict[str, Any], is_right: bool) -> None:
    assert (TRUTH.wrong(said) == "") == is_right


@pytest.mark.parametrize(
    ("offsets", "watermark", "late_s"),
    [
        ({"0": 8, "1": 4}, "1970-01-01T01:00:00Z", 0.0),  # it lacks nothing
        ({"0": 1, "1": 4}, "1970-01-01T00:00:03Z", 0.0),
        ({"0": 1, "1": 4}, "1970-01-01T00:00:03.5Z", 0.5),
        ({"0": 8}, "1970-01-01T00:00:03Z", 1.0),  # nothing of a partition that has a record
        ({}, None, 0.0),  # it does not say
    ],
)
def test_a_bill_says_to_be_newer_than_what_it_lacks(
    offsets: dict[str, int], watermark: str | None, late_s: float
) -> None:
    assert TRUTH.late_s(bill(0, "0", offsets, watermark)) == late_s


def test_a_question_is_within_an_outage_that_began_while_it_waited() -> None:
    answers = [Answer(1, 2, 200), Answer(3, 6, 0), Answer(9, 9, 200), Answer(11, 12, 200)]
    outcome = Outcome(None, answers, [], 0.0)  # type: ignore[arg-type]
    assert outcome.during(Outage(["api-1"], 5, 10)) == answers[1:3]


@pytest.fixture
def meter(tmp_path: Path) -> Place:
    names = {f"{name}-1": 40_000 + number for number, name in enumerate(SERVICES)} | {"meter-2": 41_000}
    place = Place(Town(tmp_path, SERVICES, names, tmp_path), SERVICES["meter"], "meter-2")
    place._paths.update({"/tmp": "/here/tmp", "/run/secrets": "/here/secrets"})
    return place


def test_names_ports_and_paths_of_a_container_become_those_of_this_machine(meter: Place) -> None:
    kafka = meter.town.ports["kafka-1"]
    for text, local in {
        "kafka:9092": f"127.0.0.1:{kafka}",
        "a://u:9092@kafka:9092/b": f"a://u:9092@127.0.0.1:{kafka}/b",
        "u.urlopen('http://127.0.0.1:9464/metrics')": "u.urlopen('http://127.0.0.1:41000/metrics')",
        "9464": "41000",
        "--port :9464 x": "--port :41000 x",
        "/run/secrets/s3_access_key": "/here/secrets/s3_access_key",
        "/tmp": "/here/tmp",
        "/tmpfile /a/tmp s3://meterhouse/lake 94640": "/tmpfile /a/tmp s3://meterhouse/lake 94640",
    }.items():
        assert meter.local(text) == local


@pytest.mark.parametrize(
    ("text", "said"),
    [("kafka:9093", "kafka does not listen on 9093"), ("grafana:9464", "does not"), ("localhost:80", "does not")],
)
def test_a_port_that_nobody_listens_on_is_refused(meter: Place, text: str, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        meter.local(text)


def test_a_service_on_no_network_in_common_is_refused(tmp_path: Path) -> None:
    place = Place(Town(tmp_path, SERVICES, {"s3-1": 1, "budget-worker-1": 2}, tmp_path), SERVICES["budget-worker"], "x")
    place._paths["/tmp"] = "/here/tmp"
    with pytest.raises(AssertionError, match="on no network with it"):
        place.local("http://s3:7070")


def test_lengths_of_time_and_dollars_are_read_as_compose_reads_them() -> None:
    assert [seconds(text) for text in ("15s", "1m30s", "2h")] == [15, 90, 7_200]
    assert unescaped('export A="$$(cat b)"') == 'export A="$(cat b)"'
    for wrong in ("15", "1x", ""):
        with pytest.raises(AssertionError, match="length of time"):
            seconds(wrong)
    with pytest.raises(AssertionError, match="variable of the shell"):
        unescaped("$HOME")
