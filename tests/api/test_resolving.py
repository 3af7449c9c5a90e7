"""Rejects, dealt with: sent again, repaired, discarded; whatever is interrupted, nothing is billed twice."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from meterhouse.api.clock import now_us
from meterhouse.api.figures import Reports, Span, place_of
from meterhouse.api.resolving import RejectDesk, parse_place
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.api.workers import Workers
from meterhouse.ingest.log import USAGE_EVENTS, LogUnavailable, Message
from meterhouse.warehouse.control_file import parse
from meterhouse.warehouse.control_plan import plan
from meterhouse.warehouse.reject_resolutions import RejectPlace
from meterhouse.warehouse.reports.errors import ReportError
from meterhouse.warehouse.reports.rejects import RejectFilter, RejectLine
from meterhouse.warehouse.view import EVERYTHING
from tests.api.test_http import CONTROL, event

GLOBEX = CONTROL.replace("rate_card:", "  - {id: globex, name: Globex, org: [group], cost_center: CC-2}\nrate_card:")
CANARY = "c4n4ry-of-a-payload"


@pytest.fixture(params=["sqlite", "postgres"])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    control = request.getfixturevalue("postgres").new_database() if request.param == "postgres" else None
    with House(Settings(home=tmp_path / "home", control=control), writer=True) as house:
        apply(house, CONTROL)
        yield house


def apply(house: House, control: str) -> None:
    house.control.apply(plan(parse(control), house.control.snapshot(), now_us()), now_us())


def send(house: House, *payloads: bytes) -> None:
    house.log.append(USAGE_EVENTS, [Message(None, payload) for payload in payloads])
    work(house)


def work(house: House) -> None:
    with Workers(house) as workers:
        workers.run_until_idle(threading.Event())


def rejected(house: House, **matching: Any) -> list[RejectLine]:
    return list(Reports(house, EVERYTHING).open_rejects(RejectFilter(**matching), 1_000))


def billed(house: House) -> dict[str, int]:
    lines = Reports(house, EVERYTHING).chargeback(Span(), ("tenant",), {})["lines"]
    return {line["tenant"]: line["billed_requests"] for line in lines}


def states(house: House) -> list[str]:
    return sorted(
        line["state"]
        for line in Reports(house, EVERYTHING).rejects(RejectFilter(), None, 1_000, resolved=True)["rejects"]
    )


def encoded(*events: dict[str, Any]) -> bytes:
    return json.dumps(events[0] if len(events) == 1 else events).encode()


def test_events_of_a_tenant_that_was_added_later_are_sent_again_and_billed_once(house: House) -> None:
    send(house, encoded(event(1, subject="globex"), event(2)), encoded(event(3, subject="globex")), b"{rubbish")
    desk = RejectDesk(house, "ada")
    before = desk.requeue(rejected(house), dry_run=False)
    assert [each.done for each in before] == [False] * 3
    assert "unknown" in before[1].told + before[2].told
    apply(house, GLOBEX)
    assert sorted(each.done for each in desk.requeue(rejected(house), dry_run=True)) == [False, True, True]
    assert len(rejected(house)) == 3
    assert sorted(each.done for each in desk.requeue(rejected(house), dry_run=False)) == [False, True, True]
    work(house)
    assert billed(house) == {"acme": 1, "globex": 2}
    assert [line.payload for line in rejected(house)] == [b"{rubbish"]
    assert states(house) == ["open", "requeued", "requeued"]
    assert Reports(house, EVERYTHING).verify()["balanced"]


class Broken:
    """A log that takes what is appended, and whose answer is lost."""

    def __init__(self, house: House) -> None:
        self._log = house.log

    def append(self, topic: str, messages: list[Message]) -> None:
        self._log.append(topic, messages)
        raise LogUnavailable("the answer was lost")


def interrupted(house: House, monkeypatch: pytest.MonkeyPatch, *resolve: Any) -> None:
    """Runs a resolution whose process ends between sending and the note that it was sent."""
    with monkeypatch.context() as patched:
        patched.setattr(house, "log", Broken(house))
        with pytest.raises(LogUnavailable):
            resolve[0](*resolve[1:])


def test_a_requeue_that_was_interrupted_is_finished_and_billed_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(house, encoded(event(1, subject="globex")))
    apply(house, GLOBEX)
    desk, lines = RejectDesk(house, "ada"), rejected(house)
    interrupted(house, monkeypatch, lambda: desk.requeue(lines, dry_run=False))
    assert states(house) == ["pending"]
    assert not desk.discard(lines, "never mind")[0].done
    assert desk.requeue(rejected(house), dry_run=False)[0].done
    work(house)
    assert billed(house) == {"globex": 1}
    assert not desk.requeue(lines, dry_run=False)[0].done
    assert states(house) == ["requeued"]
    assert Reports(house, EVERYTHING).verify()["balanced"]


def test_a_repair_is_judged_before_it_is_sent_and_other_bytes_cannot_follow_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(house, encoded(event(1, data={"output_tokens": -1})))
    (line,) = rejected(house)
    desk, fixed, other = RejectDesk(house, "ada"), encoded(event(1)), encoded(event(2))
    with pytest.raises(ReportError, match="rejected again"):
        desk.repair(line, encoded(event(1, data={"output_tokens": -2})), None)
    with pytest.raises(ReportError, match="one event"):
        desk.repair(line, encoded(event(1), event(2)), None)
    assert states(house) == ["open"]
    interrupted(house, monkeypatch, desk.repair, line, fixed, "sign")
    refused = desk.repair(line, other, None)
    assert (refused.done, "begun" in refused.told) == (False, True)
    assert desk.repair(line, fixed, None).done
    work(house)
    assert billed(house) == {"acme": 1}
    assert states(house) == ["repaired"]


def test_a_whole_record_can_be_repaired_or_discarded_and_keeps_its_bytes(house: House) -> None:
    send(house, b"\xff\xfe", b"{half")
    first, second = rejected(house)
    assert {first.place.index, second.place.index} == {-1}
    desk = RejectDesk(house, "ada")
    assert desk.repair(first, encoded(event(9)), "from the gateway's own log").done
    assert desk.discard([second], "a port scan")[0].done
    work(house)
    assert billed(house) == {"acme": 1}
    assert states(house) == ["discarded", "repaired"]
    kept = Reports(house, EVERYTHING).rejects(RejectFilter(at=place_of(second)), None, 1, resolved=True)["rejects"][0]
    assert (kept["note"], kept["resolved_by"], kept["reason"]) == ("a port scan", "ada", second.reason)
    assert Reports(house, EVERYTHING).rejects(RejectFilter(), None, 10)["rejects"] == []


def test_pages_leave_out_what_is_done_with_and_miss_nothing(house: House) -> None:
    send(house, *(b"{%d" % number for number in range(7)))
    lines = rejected(house)
    RejectDesk(house, "ada").discard(lines[1:4], "noise")
    seen, after = [], None
    while True:
        page = Reports(house, EVERYTHING).rejects(RejectFilter(), after, 1)
        seen += [line["payload"] for line in page["rejects"]]
        if (after := page["next"]) is None:
            break
    assert seen == [line.payload.decode() for line in [lines[0], *lines[4:]]]


@pytest.mark.parametrize("text", ["", "1/2", "a/b/c", "t/1/2/3/4", "1/2/x"])
def test_a_text_that_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(ReportError, match="no place"):
        parse_place(text)


def test_places_are_read_as_the_report_shows_them() -> None:
    assert parse_place("1/22/-1") == RejectPlace(USAGE_EVENTS, 1, 22, -1)
    assert parse_place("other.topic/1/22/0") == RejectPlace("other.topic", 1, 22, 0)


def test_no_payload_is_ever_logged(house: House) -> None:
    with structlog.testing.capture_logs() as logs:
        send(
            house, b"{" + CANARY.encode(), encoded(event(1, subject="globex", secret=CANARY)), b"\xff" + CANARY.encode()
        )
        apply(house, GLOBEX)
        RejectDesk(house, "ada").requeue(rejected(house), dry_run=False)
        work(house)
    assert CANARY not in str(logs)
    assert billed(house) == {"globex": 1}
