"""A gate in front of an LLM API, as pure ASGI middleware: it works with any framework, and for streamed answers.

    gate = Gate(now_us)
    feed = HttpFeed("https://meterhouse.example", gate)
    feed.start()
    app = BudgetMiddleware(app, gate, prices={"atlas-large": {"input": 2_500_000, "output": 10_000_000}})

The request names its tenant in a header (set by whoever authenticates it), model and `max_tokens` in its JSON body. The
upper bound of its input is the body's length: no token is shorter than a byte of text. (Where a body refers to content
that is elsewhere, such as an image, bound that too.)

What the request came to is read from the answer's `usage`. An answer without it counts as the upper bound; an error, or
a request that ends before its answer begins, costs nothing.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

from meterhouse.streams.gate import Decision, Gate, upper_bound_pico
from meterhouse.streams.gate_http import MEDIA_TYPE, STATUS, headers_of, problem_of

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
Prices = Mapping[str, Mapping[str, int]]
"""Model → token kind → pico-units of the currency per token."""

MAX_BODY_BYTES: Final = 4 * 1024**2  # a context of a million tokens
MAX_ANSWER_BYTES: Final = 1024**2  # of an answer, from its end on: `usage` is in the last event of a stream
DEFAULT_MAX_TOKENS: Final = 4_096  # of models that were not told how much to write at most


@dataclass(frozen=True)
class Usage:
    """Tokens of one request, counted as OpenAI's API counts them: parts are in the whole."""

    input_tokens: int
    cache_read: int
    output_tokens: int

    def cost_pico(self, prices: Mapping[str, int]) -> int:
        cached = prices.get("cache_read", prices["input"])
        fresh = self.input_tokens - self.cache_read
        return fresh * prices["input"] + self.cache_read * cached + self.output_tokens * prices["output"]


class BudgetMiddleware:
    """`publish` is awaited with tenant, model and usage of a request that ended, before it is settled: the place to
    publish its event, so that it is in the log (a `Publisher` may take a moment: see `GateSettings.margin_s`)."""

    def __init__(
        self,
        app: App,
        gate: Gate,
        prices: Prices,
        *,
        tenant_header: str = "x-tenant",
        publish: Callable[[str, str, Usage], Awaitable[None]] | None = None,
    ) -> None:
        self._app = app
        self._gate = gate
        self._prices = prices
        self._tenant_header = tenant_header.lower().encode()
        self._publish = publish

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        tenant = headers.get(self._tenant_header, "")
        try:
            body = await _read(receive)
            model, max_tokens = _asked_for(body)
            max_cost_pico = self._bound(model, len(body), max_tokens)
        except Disconnected:
            return
        except BadRequest as wrong:
            await _answer(send, wrong.status, {"type": "about:blank", "status": wrong.status, "detail": str(wrong)})
            return
        decision = self._gate.admit(
            tenant,
            headers.get("x-application", "default"),
            model,
            max_cost_pico=max_cost_pico,
            max_tokens=len(body) + max_tokens,
        )
        if not decision.admitted:
            await _answer(send, STATUS, problem_of(decision, scope["path"]), headers_of(decision))
            return
        call = _Call(decision, _replay(body, receive), send)
        try:
            await self._app(scope, call.receive, call.send)
        finally:
            await self._end(call, tenant, model, max_cost_pico, len(body) + max_tokens)

    def _bound(self, model: str, input_tokens: int, max_tokens: int) -> int:
        try:
            return upper_bound_pico(self._prices.get(model, {}), input_tokens, max_tokens)
        except ValueError as wrong:
            raise BadRequest(400, f"Model {model}: {wrong}.") from wrong

    async def _end(self, call: _Call, tenant: str, model: str, max_cost_pico: int, max_tokens: int) -> None:
        """Settles or cancels, whatever happened: what is neither counts as spent until it expires."""
        reservation = call.decision.reservation
        if not 200 <= call.status < 300:
            self._gate.cancel(reservation)
            return
        usage = usage_of(bytes(call.tail))
        if usage is None:
            self._gate.settle(reservation, max_cost_pico, max_tokens)
            return
        try:
            if self._publish is not None:
                await self._publish(tenant, model, usage)
        finally:
            cost_pico = usage.cost_pico(self._prices[model])
            self._gate.settle(reservation, cost_pico, usage.input_tokens + usage.output_tokens)


class _Call:
    """One admitted request: sees its answer go by."""

    def __init__(self, decision: Decision, receive: Receive, send: Send) -> None:
        self.decision = decision
        self.receive = receive
        self.status = 0  # no answer yet
        self.tail = bytearray()
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            added = [(name.encode(), value.encode()) for name, value in headers_of(self.decision).items()]
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        elif message["type"] == "http.response.body":
            self.tail += message.get("body", b"")
            del self.tail[:-MAX_ANSWER_BYTES]
        await self._send(message)


def usage_of(answer: bytes) -> Usage | None:
    """The usage in an answer: a JSON document, or a stream of `data:` lines of which the last that has it counts."""
    lines = [line[5:] for line in answer.splitlines() if line.startswith(b"data:")]
    for text in reversed(lines or [answer]):
        try:
            document = json.loads(text)
            found = document.get("usage") if isinstance(document, dict) else None
            if found:
                details = found.get("prompt_tokens_details") or {}
                counts = found["prompt_tokens"], details.get("cached_tokens", 0), found["completion_tokens"]
                return Usage(*(int(count) for count in counts))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return None


# --- requests and answers --------------------------------------------------------------------------------------------


class Disconnected(Exception):
    """The client went away before its request was whole."""


class BadRequest(Exception):
    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise BadRequest(413, f"The body has more than {MAX_BODY_BYTES} bytes. Send less context.")
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body once more, for the application; then what comes after it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again


def _asked_for(body: bytes) -> tuple[str, int]:
    """Model and most output tokens of a request."""
    try:
        asked = json.loads(body)
        model = asked["model"]
        max_tokens = asked.get("max_completion_tokens") or asked.get("max_tokens") or DEFAULT_MAX_TOKENS
        choices = asked.get("n") or 1
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadRequest(400, 'Send a JSON object with "model" and, better, "max_tokens".') from None
    if not isinstance(model, str) or not isinstance(max_tokens, int) or not isinstance(choices, int):
        raise BadRequest(400, '"model" is a text, "max_tokens" and "n" are whole numbers.')
    return model, max_tokens * choices


async def _answer(send: Send, status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
    payload = json.dumps(body).encode()
    own = {"content-type": MEDIA_TYPE, "content-length": str(len(payload))} | dict(headers or {})
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(name.encode(), value.encode()) for name, value in own.items()],
        }
    )
    await send({"type": "http.response.body", "body": payload})
