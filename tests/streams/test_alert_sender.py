"""The alert sender against real HTTP servers on this machine."""

from __future__ import annotations

import hashlib
import hmac
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from meterhouse.streams.alert import Alert, resolution_of
from meterhouse.streams.alert_sender import LANE_ALERTS, MAX_OUTBOX_FAILURES, AlertSender, RetryPolicy
from meterhouse.streams.alerts import Delivery, MemoryOutbox, OutboxEntry, OutboxUnavailable
from meterhouse.streams.channels import Channel, LogLine, Webhook
from meterhouse.streams.silence_store import MemorySilences
from meterhouse.streams.silences import Silence
from tests.services.receiver import Receiver, own_receiver
from tests.services.waiting import until

NOW = 1_795_000_000_000_000
SECOND = 1_000_000


def alert(name: str = "a1", created_us: int = NOW, **changes: Any) -> Alert:
    fields: dict[str, Any] = {
        "kind": "threshold",
        "subject": "acme-month",
        "summary": "budget acme-month has reached 80 % of its limit",
        "budget_id": "acme-month",
        "window_start_us": 0,
        "window_end_us": 10**16,
        "threshold": "80",
        "spent": "81.000000000000",
        "limit": "100.000000000000",
        "payload": {"unit": "USD"},
    }
    return Alert(**{"id": name, "created_us": created_us, **fields, **changes})


class Clock:
    def __init__(self) -> None:
        self.now_us = NOW

    def __call__(self) -> int:
        return self.now_us


class Desk:
    """A sender with its outbox, silences and clock."""

    def __init__(self) -> None:
        self.outbox = MemoryOutbox()
        self.silences = MemorySilences()
        self.clock = Clock()
        self.told: list[tuple[str, str]] = []
        self.depths: list[tuple[int, float]] = []
        self.aways: list[str] = []
        self._senders: list[AlertSender] = []

    def webhook(self, url: str, secret: bytes | None = None, timeout_s: float = 5.0) -> Webhook:
        return Webhook(url, secret, clock=self.clock, timeout_s=timeout_s)

    def sender(self, *channels: Channel, **policy: Any) -> AlertSender:
        given = RetryPolicy(**policy, chance=lambda: 0.0)
        made = AlertSender(self.outbox, self.silences, channels, clock=self.clock, policy=given, watch=self)
        self._senders.append(made)
        return made

    def tried(self, channel: str, outcome: str, seconds: float) -> None:
        self.told.append((channel, outcome))

    def waits(self, alerts: int, oldest_s: float) -> None:
        self.depths.append((alerts, oldest_s))

    def tries_again(self, away: str) -> None:
        self.aways.append(away)

    def silence(self, **changes: Any) -> None:
        fields: dict[str, Any] = {"subject": "acme-month", "from_us": NOW, "until_us": NOW + 60 * SECOND}
        self.silences.add(Silence(id="s", by="ann", reason="known", created_us=NOW, **{**fields, **changes}))

    def close(self) -> None:
        for sender in self._senders:
            sender.close()


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.close()


class Told:
    """A channel in memory that answers with `errors` in turn, then with success; it may be told again."""

    threads = 1
    every_s = 60.0

    def __init__(self, name: str = "told", errors: Sequence[str | None] = ()) -> None:
        self.name = name
        self._errors = [*errors]
        self.posts: list[tuple[str, str]] = []  # (alert, what it is about)
        self.reposts: list[list[str]] = []

    def post(self, entry: OutboxEntry, about: OutboxEntry) -> str | None:
        self.posts.append((entry.alert.id, about.alert.id))
        return self._errors.pop(0) if self._errors else None

    def repost(self, entries: Sequence[OutboxEntry]) -> str | None:
        self.reposts.append([entry.alert.id for entry in entries])
        return None

    def close(self) -> None:
        pass


def test_a_failure_is_tried_again_and_delivered_once(desk: Desk, receiver: Receiver) -> None:
    receiver.answers = [503, 302, 200]
    desk.outbox.add([alert()])
    sender = desk.sender(desk.webhook(receiver.url))
    assert (sender.run_once(), sender.run_once()) == (1, 0)  # the second waits for its time
    waiting = desk.outbox.get("a1")
    failed = Delivery(attempts=1, next_attempt_us=NOW + SECOND, last_error="the receiver answered 503")
    assert waiting == OutboxEntry(
        alert=alert(),
        attempts=1,
        next_attempt_us=NOW + SECOND,
        last_error="the receiver answered 503",
        channels={"webhook": failed},
    )
    desk.clock.now_us += SECOND
    assert sender.run_once() == 1
    desk.clock.now_us += 2 * SECOND
    assert sender.run_once() == 1
    delivered = desk.outbox.get("a1")
    assert (delivered.state, delivered.delivered_us, delivered.attempts) == ("delivered", NOW + 3 * SECOND, 2)
    assert (sender.run_once(), sender.idle(), receiver.ids) == (0, True, ["a1"] * 3)
    assert desk.told == [("webhook", "failed"), ("webhook", "failed"), ("webhook", "delivered")]


def test_killed_between_post_and_mark_it_is_posted_again_under_the_same_id(desk: Desk, receiver: Receiver) -> None:
    class Killed(MemoryOutbox):
        def record(self, *_: object) -> None:
            raise KeyboardInterrupt

    desk.outbox = Killed()
    desk.outbox.add([alert()])
    with pytest.raises(KeyboardInterrupt):
        desk.sender(desk.webhook(receiver.url)).run_once()
    left = [entry.alert for entry in desk.outbox.list() if entry.state == "waiting"]
    desk.outbox = MemoryOutbox()
    desk.outbox.add(left)
    assert desk.sender(desk.webhook(receiver.url)).run_once() == 1
    assert receiver.ids == ["a1", "a1"]
    assert [request.headers["idempotency-key"] for request in receiver.requests] == ["a1", "a1"]
    assert receiver.requests[0].body == receiver.requests[1].body


def test_a_request_is_json_and_signed(desk: Desk, receiver: Receiver) -> None:
    desk.outbox.add([alert()])
    desk.sender(desk.webhook(receiver.url, b"secret")).run_once()
    (request,) = receiver.requests
    assert request.headers["content-type"] == "application/json"
    assert request.body == alert().to_json()
    digest = hmac.new(b"secret", b"1795000000." + request.body, hashlib.sha256).hexdigest()
    assert request.headers["meterhouse-signature"] == f"t=1795000000,v1={digest}"


def test_without_a_secret_nothing_is_signed(desk: Desk, receiver: Receiver) -> None:
    desk.outbox.add([alert()])
    desk.sender(desk.webhook(receiver.url)).run_once()
    assert "meterhouse-signature" not in receiver.requests[0].headers


def test_after_the_last_attempt_it_is_given_up_and_kept(desk: Desk) -> None:
    desk.outbox.add([alert()])
    # Nobody listens on port 9 of this machine.
    sender = desk.sender(desk.webhook("http://127.0.0.1:9/"), max_attempts=3)
    with capture_logs() as lines:
        for _ in range(5):
            sender.run_once()
            desk.clock.now_us += 3_600 * SECOND
    entry = desk.outbox.get("a1")
    assert (entry.state, entry.attempts, entry.next_attempt_us) == ("given_up", 3, None)
    assert entry.last_error is not None
    assert entry.last_error.startswith("ConnectError")
    assert [line["log_level"] for line in lines] == ["warning", "warning", "error"]
    assert desk.told == [("webhook", "failed"), ("webhook", "failed"), ("webhook", "given_up")]


def test_a_receiver_that_does_not_answer_costs_its_timeout(desk: Desk, receiver: Receiver) -> None:
    receiver.hold = threading.Event()
    desk.outbox.add([alert()])
    desk.sender(desk.webhook(receiver.url, timeout_s=0.05)).run_once()
    entry = desk.outbox.get("a1")
    assert (entry.state, (entry.last_error or "").split(":")[0]) == ("waiting", "ReadTimeout")


def test_an_address_that_is_none_is_a_failure_people_can_read(desk: Desk) -> None:
    desk.outbox.add([alert()])
    desk.sender(desk.webhook("nowhere")).run_once()
    assert (desk.outbox.get("a1").last_error or "").startswith("UnsupportedProtocol")


def test_one_alert_that_fails_does_not_hold_up_the_others(desk: Desk) -> None:
    desk.outbox.add([alert("a1"), alert("a2")])
    assert desk.sender(Told(errors=["refused"])).run_once() == 2
    assert {entry.alert.id: entry.state for entry in desk.outbox.list()} == {"a1": "waiting", "a2": "delivered"}


# -- several channels ----------------------------------------------------------------------------------------------


def test_each_channel_gets_an_alert_and_a_failure_of_one_repeats_no_other(desk: Desk) -> None:
    chat, pager = Told("chat"), Told("pager", errors=["refused"])
    desk.outbox.add([alert()])
    sender = desk.sender(chat, pager)
    sender.run_once()
    assert (desk.outbox.get("a1").state, chat.posts, pager.posts) == ("waiting", [("a1", "a1")], [("a1", "a1")])
    desk.clock.now_us += SECOND
    sender.run_once()
    entry = desk.outbox.get("a1")
    assert (entry.state, entry.delivered_by) == ("delivered", "chat,pager")
    assert (len(chat.posts), len(pager.posts)) == (1, 2)


def test_a_receiver_that_hangs_holds_up_no_other(desk: Desk, receiver: Receiver) -> None:
    alerts = [alert(f"a{number:03}") for number in range(LANE_ALERTS + 200)]
    desk.outbox.add(alerts)
    stop = threading.Event()
    with own_receiver() as hanging:
        hanging.hold = threading.Event()
        chat = Told("chat")
        sender = desk.sender(desk.webhook(hanging.url), chat)
        thread = threading.Thread(target=sender.run, args=(stop,))
        thread.start()
        until(lambda: len(chat.posts) == len(alerts))
        assert sorted(posted for posted, _ in chat.posts) == [each.id for each in alerts]
        assert len(hanging.requests) == 4  # at once, and no more
        stop.set()
        hanging.hold.set()
        thread.join(10)
        sender.close()
    assert {entry.state for entry in desk.outbox.list(limit=1_000)} <= {"waiting", "delivered"}
    assert all("chat" in entry.channels for entry in desk.outbox.list(limit=1_000))


def test_an_alert_of_a_channel_that_is_gone_is_delivered_by_the_others(desk: Desk) -> None:
    desk.outbox.add([alert()])
    desk.sender(Told("chat"), Told("pager", errors=["refused"])).run_once()
    desk.clock.now_us += SECOND
    sender = desk.sender(Told("chat"))
    assert (sender.run_once(), sender.idle()) == (0, True)
    assert (desk.outbox.get("a1").state, desk.outbox.get("a1").delivered_by) == ("delivered", "chat")


# -- silences ------------------------------------------------------------------------------------------------------


def test_a_silenced_alert_is_kept_and_nobody_hears_of_it_or_of_its_end(desk: Desk) -> None:
    desk.silence()
    told, kept = Told(), alert()
    desk.outbox.add([kept, alert("other", subject="globex-month")])
    sender = desk.sender(told)
    sender.run_once()
    assert [posted for posted, _ in told.posts] == ["other"]
    assert (desk.outbox.get("a1").state, sorted(desk.told)) == (
        "silenced",
        [("told", "delivered"), ("told", "silenced")],
    )
    desk.clock.now_us += 3_600 * SECOND  # the silence is over
    back = resolution_of(kept, desk.clock.now_us, "the limit was raised")
    desk.outbox.add([back])
    sender.run_once()
    assert (desk.outbox.get(back.id).state, len(told.posts)) == ("silenced", 1)


def test_an_alert_and_its_end_within_a_silence_are_both_silent(desk: Desk) -> None:
    desk.silence()
    back = resolution_of(alert(), NOW, "the limit was raised")
    told = Told()
    desk.outbox.add([alert(), back])
    desk.sender(told).run_once()
    assert (told.posts, desk.outbox.get("a1").state, desk.outbox.get(back.id).state) == ([], "silenced", "silenced")


def test_the_end_of_what_was_heard_of_is_told_in_a_silence_too(desk: Desk) -> None:
    told = Told()
    desk.outbox.add([alert()])
    sender = desk.sender(told)
    sender.run_once()
    desk.silence()
    back = resolution_of(alert(), NOW, "the limit was raised")
    desk.outbox.add([back])
    sender.run_once()
    assert told.posts == [("a1", "a1"), (back.id, "a1")]


def test_a_silence_that_comes_while_an_alert_is_tried_again_counts(desk: Desk) -> None:
    told = Told(errors=["refused"])
    desk.outbox.add([alert()])
    sender = desk.sender(told)
    sender.run_once()
    desk.silence()
    desk.clock.now_us += SECOND
    sender.run_once()
    assert (len(told.posts), desk.outbox.get("a1").state) == (1, "silenced")


# -- telling again -------------------------------------------------------------------------------------------------


def test_what_is_open_is_told_again_every_minute_without_what_is_silent(desk: Desk) -> None:
    desk.silence(subject="globex-month")
    desk.outbox.add([alert("a1"), alert("silent", subject="globex-month"), alert("over", window_end_us=NOW)])
    told = Told()
    sender = desk.sender(told)
    for seconds in (0, 59, 1, 59):
        desk.clock.now_us += seconds * SECOND
        sender.run_once()
    assert told.reposts == [["a1"], ["a1"]]
    desk.clock.now_us += 3_600 * SECOND  # the silence is over, and what it kept quiet stays quiet
    sender.run_once()
    assert told.reposts[2:] == [["a1"]]


def test_what_was_resolved_lately_is_told_again_for_a_quarter_of_an_hour(desk: Desk) -> None:
    told = Told()
    sender = desk.sender(told)
    desk.outbox.add([alert(), resolution_of(alert(), NOW, "the limit was raised")])
    for _ in range(3):
        sender.run_once()
        desk.clock.now_us += 450 * SECOND
    assert told.reposts == [["a1"]] * 3
    sender.run_once()
    assert len(told.reposts) == 3


# -- the log ---------------------------------------------------------------------------------------------------------


def test_a_line_of_the_log_says_what_there_is_to_say(desk: Desk) -> None:
    desk.outbox.add([alert()])
    with capture_logs() as lines:
        assert desk.sender(LogLine()).run_once() == 1
    assert lines == [
        {
            "event": "budget acme-month has reached 80 % of its limit",
            "log_level": "warning",
            "id": "a1",
            "kind": "threshold",
            "status": "firing",
            "subject": "acme-month",
            "threshold": "80",
            "spent": "81.000000000000",
            "limit": "100.000000000000",
        }
    ]
    entry = desk.outbox.get("a1")
    assert (entry.state, entry.delivered_by, entry.delivered_us) == ("delivered", "log", NOW)


@pytest.mark.parametrize(
    ("failures", "chance", "delay_s"),
    [(1, 0.0, 1), (2, 0.0, 2), (2, 0.5, 1.5), (5, 0.0, 16), (12, 0.0, 2048), (13, 0.0, 3600), (23, 0.0, 3600)],
)
def test_retries_wait_longer_each_time_up_to_an_hour(failures: int, chance: float, delay_s: float) -> None:
    assert RetryPolicy(chance=lambda: chance).next_attempt_us(failures, NOW) == NOW + int(delay_s * SECOND)


def test_the_last_attempt_is_the_24th() -> None:
    assert RetryPolicy().next_attempt_us(24, NOW) is None


def test_the_secret_does_not_show(desk: Desk) -> None:
    channel = desk.webhook("http://127.0.0.1/", b"hush")
    assert "hush" not in repr(channel)
    channel.close()


def test_a_running_sender_delivers_what_is_added_and_stops(desk: Desk, receiver: Receiver) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=desk.sender(desk.webhook(receiver.url)).run, args=(stop,))
    thread.start()
    desk.outbox.add([alert()])
    until(lambda: desk.outbox.get("a1").state == "delivered")
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert receiver.ids == ["a1"]


def test_a_sender_whose_outbox_stays_away_stops_loudly(desk: Desk) -> None:
    class Away(MemoryOutbox):
        asked = 0

        def due(self, now_us: int, limit: int) -> Sequence[OutboxEntry]:
            self.asked += 1
            raise OutboxUnavailable("locked")

    class NeverSet(threading.Event):
        """Waits no time at all."""

        def wait(self, timeout: float | None = None) -> bool:
            return False

    away = desk.outbox = Away()
    with pytest.raises(OutboxUnavailable, match="locked"):
        desk.sender(LogLine()).run(NeverSet())
    assert away.asked == MAX_OUTBOX_FAILURES
    assert desk.aways == ["control"] * MAX_OUTBOX_FAILURES


def test_whoever_watches_hears_every_few_seconds_how_many_wait_and_for_how_long(desk: Desk) -> None:
    desk.outbox.add([alert(), alert("a2", NOW - 9 * SECOND)])
    sender = desk.sender(Told(errors=["no"] * 9), base_s=600)
    for _ in range(3):
        sender.run_once()
        desk.clock.now_us += 4 * SECOND
    assert desk.depths == [(2, 9.0), (2, 17.0)]


def test_trouble_of_the_outbox_on_a_channels_thread_is_told(desk: Desk) -> None:
    class ReadsOnly(MemoryOutbox):
        def record(self, *_: object) -> None:
            raise OutboxUnavailable("locked")

    desk.outbox = ReadsOnly()
    desk.outbox.add([alert()])
    with pytest.raises(OutboxUnavailable, match="locked"):
        desk.sender(Told()).run_once()


def test_a_client_can_be_brought_along(desk: Desk) -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200)

    desk.outbox.add([alert()])
    client = httpx.Client(transport=httpx.MockTransport(answer))
    desk.sender(Webhook("https://alerts.example/hook", clock=desk.clock, client=client)).run_once()
    assert [str(request.url) for request in seen] == ["https://alerts.example/hook"]
