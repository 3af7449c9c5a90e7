"""Calls a made-up model through a real LiteLLM, in its own environment, with a callback whose address is in LiteLLM's
variables; what the callback sends is sent twice. Argument: `openmeter` or `generic_api`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any

import litellm
from litellm.integrations.generic_api.generic_api_callback import GenericAPILogger
from litellm.integrations.openmeter import OpenMeterLogger

CALL = {
    "model": "openai/gpt-4o",
    "messages": [{"role": "user", "content": "CANARY-prompt-7f3a"}],
    "mock_response": "CANARY-answer-91bc",
    "metadata": {  # as the proxy fills it from the key; the `openmeter` callback takes the user id for its subject
        "user_api_key_user_id": "acme",
        "user_api_key_team_id": "acme",
        "user_api_key_alias": "assistant",
        "user_api_key_user_email": "canary.person@example.com",
    },
}


class Twice(OpenMeterLogger):
    """LiteLLM's callback, which sends each event once more."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = asyncio.Event()

    async def async_log_success_event(self, *call: Any, **named: Any) -> None:
        for _ in range(2):
            await super().async_log_success_event(*call, **named)
        self.sent.set()


async def openmeter() -> None:
    logger = Twice()
    litellm.callbacks = [logger]
    await litellm.acompletion(**CALL)
    await logger.sent.wait()


async def generic_api() -> None:
    logger = GenericAPILogger()
    litellm.callbacks = [logger]
    await litellm.acompletion(**CALL)
    async for _ in await litellm.acompletion(**CALL, stream=True, stream_options={"include_usage": True}):
        pass
    with contextlib.suppress(litellm.RateLimitError):
        await litellm.acompletion(**CALL | {"mock_response": "litellm.RateLimitError"})
    while len(logger.log_queue) < 3:  # LiteLLM fills it beside the calls
        await asyncio.sleep(0.01)
    queue = list(logger.log_queue)
    for _ in range(2):
        logger.log_queue = list(queue)
        await logger.async_send_batch()


asyncio.run(asyncio.wait_for({"openmeter": openmeter, "generic_api": generic_api}[sys.argv[1]](), timeout=100))
