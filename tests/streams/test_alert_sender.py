"""The alert sender against a real HTTP server on this machine."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from structlog.testing import capture_logs

from meterhouse.streams.alert_sender import MAX_OUTBOX_FAILURES, AlertSender, RetryPolicy, Webhook
from meterhouse.streams.alerts import MemoryOutbox, OutboxEntry, OutboxUnavailable
from meterhouse.streams.budget import Alert

NOW = 1_795_000_000_000_000
SECOND = 1_000_000


def alert(name: str = "a1", created_us: int = NOW) -> Alert:
    return Alert(
        id=name,
        kind="threshold",
        subject="acme-month",
        summary="budget acme-month has reached 80 % of its limit",
        budget_id="acme-month",
        window_start_us=0,
        window_end_us=10**15,
        threshold="80",
        spent="81.000000000000",
        limit="100.000000000000",
        created_us=created_us,
        payload={"unit": "USD"},
    )


@dataclass
class Request:
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """Answers with `answers` in turn, the last for ever; keeps what came."""

    url: str
    answers: list[int] = field(default_factory=lambda: [204])
    requests: list[Request] = field(default_factory=list)
    hold: threading.Event | None = None  # an answer waits for it

    def answer(self, request: Request) -> int:
        self.requests.append(request)
        if self.hold is not None:
            self.hold.wait(10)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    @property
    def ids(self) -> list[str]:
        return [json.loads(request.body)["id"] for request in self.requests]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            status = there.answer(Request(headers, body))
            try:
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()
            except OSError:
                pass  # the client gave up, as one of the tests wants

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    there = Receiver(f"http://127.0.0.1:{server.server_port}/alerts")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield there
    if there.hold is not None:
        there.hold.set()
    server.shutdown()
    server.server_close()
    thread.join()


class Clock:
    def __init__(self) -> None:
        self.now_us = NOW

    def __call__(self) -> int:
        return self.now_us


def make_sender(outbox: MemoryOutbox, webhook: Webhook | None, clock: Clock, **policy: float) -> AlertSender:
    return AlertSender(
        outbox,
        webhook,
        clock=clock,
        policy=RetryPolicy(**policy, chance=lambda: 0.0),  # type: ignore[arg-type]
    )


def test_a_failure_is_tried_again_and_delivered_once(receiver: Receiver) -> None:
    receiver.answers = [503, 302, 200]
    outbox, clock = MemoryOutbox(), Clock()
    outbox.add([alert()])
    sender = make_sender(outbox, Webhook(receiver.url), clock)
    assert (sender.run_once(), sender.run_once()) == (1, 0)  # the second waits for its time
    (waiting,) = outbox.list()
    assert waiting == OutboxEntry(
        alert=alert(), attempts=1, next_attempt_us=NOW + SECOND, last_error="the receiver answered 503"
    )
    clock.now_us += SECOND
    assert sender.run_once() == 1
    clock.now_us += 2 * SECOND
    assert sender.run_once() == 1
    (delivered,) = outbox.list()
    assert (delivered.state, delivered.delivered_us, delivered.attempts) == ("delivered", NOW + 3 * SECOND, 2)
    assert (sender.run_once(), sender.idle(), receiver.ids) == (0, True, ["a1"] * 3)


def test_killed_between_post_and_mark_it_is_posted_again_under_the_same_id(receiver: Receiver) -> None:
    class Killed(MemoryOutbox):
        def delivered(self, alert_id: str, now_us: int, by: object = "webhook") -> None:
            raise KeyboardInterrupt

    outbox = Killed()
    outbox.add([alert()])
    with pytest.raises(KeyboardInterrupt):
        make_sender(outbox, Webhook(receiver.url), Clock()).run_once()
    survived = MemoryOutbox()
    survived.add([entry.alert for entry in outbox.list() if entry.state == "waiting"])
    assert make_sender(survived, Webhook(receiver.url), Clock()).run_once() == 1
    assert receiver.ids == ["a1", "a1"]
    assert [request.headers["idempotency-key"] for request in receiver.requests] == ["a1", "a1"]
    assert receiver.requests[0].body == receiver.requests[1].body


def test_a_request_is_json_and_signed(receiver: Receiver) -> None:
    outbox = MemoryOutbox()
    outbox.add([alert()])
    make_sender(outbox, Webhook(receiver.url, b"secret"), Clock()).run_once()
    (request,) = receiver.requests
    assert request.headers["content-type"] == "application/json"
    assert request.body == alert().to_json()
    digest = hmac.new(b"secret", b"1795000000." + request.body, hashlib.sha256).hexdigest()
    assert request.headers["meterhouse-signature"] == f"t=1795000000,v1={digest}"


def test_without_a_secret_nothing_is_signed(receiver: Receiver) -> None:
    outbox = MemoryOutbox()
    outbox.add([alert()])
    make_sender(outbox, Webhook(receiver.url), Clock()).run_once()
    assert "meterhouse-signature" not in receiver.requests[0].headers


def test_after_the_last_attempt_it_is_given_up_and_kept() -> None:
    outbox, clock = MemoryOutbox(), Clock()
    outbox.add([alert()])
    # Nobody listens on port 9 of this machine.
    sender = make_sender(outbox, Webhook("http://127.0.0.1:9/"), clock, max_attempts=3)
    with capture_logs() as lines:
        for _ in range(5):
            sender.run_once()
            clock.now_us += 3_600 * SECOND
    (entry,) = outbox.list()
    assert (entry.state, entry.attempts, entry.next_attempt_us) == ("given_up", 3, None)
    assert entry.last_error is not None
    assert entry.last_error.startswith("ConnectError")
    assert [line["log_level"] for line in lines] == ["warning", "warning", "error"]


def test_a_receiver_that_does_not_answer_costs_its_timeout(receiver: Receiver) -> None:
    receiver.hold = threading.Event()
    outbox = MemoryOutbox()
    outbox.add([alert()])
    make_sender(outbox, Webhook(receiver.url, timeout_s=0.05), Clock()).run_once()
    (entry,) = outbox.list()
    assert (entry.state, (entry.last_error or "").split(":")[0]) == ("waiting", "ReadTimeout")


def test_an_address_that_is_none_is_a_failure_people_can_read() -> None:
    outbox = MemoryOutbox()
    outbox.add([alert()])
    make_sender(outbox, Webhook("nowhere"), Clock()).run_once()
    assert (outbox.list()[0].last_error or "").startswith("UnsupportedProtocol")


def test_one_alert_that_fails_does_not_hold_up_the_others(receiver: Receiver) -> None:
    receiver.answers = [500, 200]
    outbox = MemoryOutbox()
    outbox.add([alert("a1"), alert("a2")])
    assert make_sender(outbox, Webhook(receiver.url), Clock()).run_once() == 2
    assert {entry.alert.id: entry.state for entry in outbox.list()} == {"a1": "waiting", "a2": "delivered"}


def test_without_a_webhook_an_alert_is_a_line_in_the_log() -> None:
    outbox = MemoryOutbox()
    outbox.add([alert()])
    with capture_logs() as lines:
        assert make_sender(outbox, None, Clock()).run_once() == 1
    assert lines == [
        {
            "event": "budget alert",
            "log_level": "warning",
            "id": "a1",
            "budget": "acme-month",
            "threshold": "80",
            "spent": "81.000000000000",
            "limit": "100.000000000000",
        }
    ]
    (entry,) = outbox.list()
    assert (entry.state, entry.delivered_by, entry.delivered_us) == ("delivered", "logged", NOW)


@pytest.mark.parametrize(
    ("failures", "chance", "delay_s"),
    [(1, 0.0, 1), (2, 0.0, 2), (2, 0.5, 1.5), (5, 0.0, 16), (12, 0.0, 2048), (13, 0.0, 3600), (23, 0.0, 3600)],
)
def test_retries_wait_longer_each_time_up_to_an_hour(failures: int, chance: float, delay_s: float) -> None:
    assert RetryPolicy(chance=lambda: chance).next_attempt_us(failures, NOW) == NOW + int(delay_s * SECOND)


def test_the_last_attempt_is_the_24th() -> None:
    assert RetryPolicy().next_attempt_us(24, NOW) is None


def test_the_secret_does_not_show() -> None:
    assert "hush" not in repr(Webhook("http://127.0.0.1/", b"hush"))


def test_a_running_sender_delivers_what_is_added_and_stops(receiver: Receiver) -> None:
    outbox, stop = MemoryOutbox(), threading.Event()
    sender = make_sender(outbox, Webhook(receiver.url), Clock())
    thread = threading.Thread(target=sender.run, args=(stop,))
    thread.start()
    outbox.add([alert()])
    until(lambda: outbox.list()[0].state == "delivered")
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert receiver.ids == ["a1"]


def test_a_sender_whose_outbox_stays_away_stops_loudly() -> None:
    class Away(MemoryOutbox):
        asked = 0

        def due(self, now_us: int, limit: int) -> Sequence[OutboxEntry]:
            self.asked += 1
            raise OutboxUnavailable("locked")

    class NeverSet(threading.Event):
        """Waits no time at all."""

        def wait(self, timeout: float | None = None) -> bool:
            return False

    outbox = Away()
    with pytest.raises(OutboxUnavailable, match="locked"):
        make_sender(outbox, None, Clock()).run(NeverSet())
    assert outbox.asked == MAX_OUTBOX_FAILURES


def test_a_client_can_be_brought_along() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200)

    outbox = MemoryOutbox()
    outbox.add([alert()])
    AlertSender(
        outbox,
        Webhook("https://alerts.example/hook"),
        clock=Clock(),
        client=lambda: httpx.Client(transport=httpx.MockTransport(answer)),
    ).run_once()
    assert [str(request.url) for request in seen] == ["https://alerts.example/hook"]


def until(condition: Callable[[], bool], deadline_s: float = 10.0) -> None:
    """Waits for a condition, looking every few milliseconds; fails at the deadline."""
    tick = threading.Event()
    for _ in range(int(deadline_s / 0.005)):
        if condition():
            return
        tick.wait(0.005)
    raise AssertionError(f"not so within {deadline_s} s")
