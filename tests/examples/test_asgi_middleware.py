"""The middleware before a model that answers what it is told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, MutableMapping
from typing import Any

import httpx
import pytest

from examples.asgi_middleware import MAX_ANSWER_BYTES, MAX_BODY_BYTES, BudgetMiddleware, Receive, Send, Usage, usage_of
from tests.streams.gate_builders import House, terms

PRICES = {"large": {"input": 10, "cache_read": 1, "output": 100}}
ASKED = {"model": "large", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
BOUND = len(json.dumps(ASKED, separators=(",", ":"), ensure_ascii=False).encode()) * 10 + 5 * 100
USED = {"prompt_tokens": 8, "prompt_tokens_details": {"cached_tokens": 3}, "completion_tokens": 2}
COST = 5 * 10 + 3 * 1 + 2 * 100
ANSWER = json.dumps({"choices": [], "usage": USED}).encode()


class Model:
    """The application: reads its request, then sends these chunks, or raises."""

    def __init__(self, *chunks: bytes, status: int = 200, raises: type[BaseException] | None = None) -> None:
        self.chunks, self.status, self.raises = chunks, status, raises
        self.asked: list[Any] = []

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        message = await receive()
        self.asked.append(json.loads(message["body"]))
        if self.raises is not None and not self.chunks:
            raise self.raises
        await send({"type": "http.response.start", "status": self.status, "headers": [(b"x-model", b"1")]})
        for chunk in self.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if self.raises is not None:
            raise self.raises
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Front:
    """The middleware before a model, and a budget of `limit` pico-units."""

    def __init__(self, model: Model, *, limit: int = 10_000, **changes: Any) -> None:
        self.house = House(terms(limit=str(limit), **changes))
        self.published: list[tuple[str, str, Usage]] = []
        self.app = BudgetMiddleware(model, self.house.gate, PRICES, publish=self._publish)

    async def _publish(self, tenant: str, model: str, usage: Usage) -> None:
        self.published.append((tenant, model, usage))

    def post(self, content: Any = ASKED) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
                body = {"content": content} if isinstance(content, bytes) else {"json": content}
                return await client.post("/v1/chat/completions", headers={"X-Tenant": "acme"}, **body)

        return asyncio.run(ask())

    def own(self) -> int:
        """What the gate holds against the budget."""
        quota = self.house.admit(0).tightest
        assert quota is not None
        return quota.limit - quota.remaining


def test_a_request_that_fits_runs_and_is_settled_by_its_usage() -> None:
    model = Model(ANSWER)
    front = Front(model)
    response = front.post()
    assert (response.status_code, response.content, model.asked) == (200, ANSWER, [ASKED])
    assert response.headers["x-model"] == "1"
    assert response.headers["ratelimit-policy"] == '"day";q=0;qu="micro-USD";w=86400'
    assert front.published == [("acme", "large", Usage(8, 3, 2))]
    assert front.own() == COST


def test_a_refusal_says_what_to_do_and_the_model_is_not_asked() -> None:
    model = Model(ANSWER)
    front = Front(model, limit=BOUND - 1)
    response = front.post()
    assert (response.status_code, response.headers["content-type"]) == (429, "application/problem+json")
    assert response.json() == {
        "type": "/problems/budget-refusal",
        "title": "A budget does not admit the request now",
        "status": 429,
        "detail": "Budget day has less left than this request may cost. Ask for fewer output tokens or a cheaper model,"
        " wait for the next window, or ask whoever owns the budget for a higher limit.",
        "reason": "does_not_fit",
        "budget": "day",
        "retryable": False,
        "instance": "/v1/chat/completions",
    }
    assert "retry-after" not in response.headers
    assert (model.asked, front.own()) == ([], 0)


def test_a_throttled_request_is_told_when_to_come_back() -> None:
    front = Front(Model(ANSWER), limit=0, on_exceeded="throttle", throttle_per_minute=2)
    assert front.post().status_code == 200
    response = front.post()
    assert (response.status_code, response.headers["retry-after"], response.json()["retryable"]) == (429, "30", True)


@pytest.mark.parametrize(
    ("model", "status"),
    [(Model(b"{}", status=503), 503), (Model(raises=OSError), 500)],
    ids=["an error answer", "no answer"],
)
def test_a_request_that_fails_costs_nothing(model: Model, status: int) -> None:
    front = Front(model)
    assert (front.post().status_code, front.own(), front.published) == (status, 0, [])


@pytest.mark.parametrize(
    "model",
    [Model(b'{"choices": []}'), Model(b"data: {", raises=OSError), Model(b'data: {"usage": {"prompt_tokens": 1}}\n')],
    ids=["no usage", "broken off", "half a usage"],
)
def test_an_answer_that_does_not_say_what_it_used_counts_as_the_upper_bound(model: Model) -> None:
    front = Front(model)
    front.post()
    assert (front.own(), front.published) == (BOUND, [])


def test_a_streamed_answer_is_settled_by_its_last_usage() -> None:
    events = [b'data: {"usage": null}\n\n', b"data: " + b"x" * MAX_ANSWER_BYTES + b"\n\n", b"data: " + ANSWER + b"\n\n"]
    front = Front(Model(*events, b"data: [DONE]\n\n"))
    assert front.post().status_code == 200
    assert front.own() == COST


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        ({"max_tokens": 5}, 400),
        ({"model": "large", "max_tokens": "5"}, 400),
        ({"model": "large", "max_tokens": -5}, 400),
        ({"model": "unknown"}, 400),
        (b" " * (MAX_BODY_BYTES + 1), 413),
    ],
)
def test_a_bad_request_is_refused_with_what_to_do(content: Any, status: int) -> None:
    front = Front(Model(ANSWER))
    response = front.post(content)
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    assert len(response.json()["detail"]) > 20
    assert front.own() == 0


def test_other_requests_pass_by() -> None:
    async def run(scope_type: str, method: str) -> list[str]:
        seen: list[str] = []

        async def app(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
            seen.append(scope["type"])

        never: Callable[..., Any] = None  # type: ignore[assignment]
        await BudgetMiddleware(app, House().gate, {})({"type": scope_type, "method": method}, never, never)
        return seen

    assert asyncio.run(run("lifespan", "")) == ["lifespan"]
    assert asyncio.run(run("http", "GET")) == ["http"]


def test_a_client_that_goes_away_early_reserves_nothing() -> None:
    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    front = Front(Model(ANSWER))
    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    asyncio.run(front.app(scope, gone, None))  # type: ignore[arg-type]
    assert front.own() == 0


def test_usage_is_read_or_not_there() -> None:
    assert usage_of(ANSWER) == Usage(8, 3, 2)
    for other in (b"", b"\xff", b"[1]", b'{"usage": 1}', b'{"usage": {"prompt_tokens": "x", "completion_tokens": 1}}'):
        assert usage_of(other) is None
