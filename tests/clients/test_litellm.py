"""A real LiteLLM, in its own environment, reports calls of a made-up model by both of its callbacks."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.clients.house import Site
from tests.ingest.foreign_payloads import CANARIES
from tests.services.need import skip_or_fail

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-litellm" / "bin" / "python"
CALLS = Path(__file__).with_name("litellm_calls.py")


def call(callback: str, site: Site) -> None:
    if not PYTHON.exists():
        skip_or_fail("LiteLLM is not installed: `make litellm`")
    address = str(site.http.base_url)
    variables = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(site.house.settings.home.parent),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # its list of models is not downloaded
        "OPENMETER_API_ENDPOINT": address,
        "OPENMETER_API_KEY": "any",
        "GENERIC_LOGGER_ENDPOINT": f"{address}/v1/ingest/litellm",
    }
    done = subprocess.run(
        [PYTHON, CALLS, callback], env=variables, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-2_000:]


def billed_to(site: Site) -> list[str]:
    [line] = site.get("/v1/chargeback", group_by="tenant,application,provider,model")["lines"]
    return [line[group] for group in ("tenant", "application", "provider", "model")]


def assert_nothing_private(site: Site) -> None:
    assert [name for name, text in CANARIES.items() if text.encode() in site.stored()] == []


def test_what_the_openmeter_callback_sends_is_billed_and_once_when_it_is_sent_twice(site: Site) -> None:
    call("openmeter", site)
    # 10 tokens in at 2.50 and 20 out at 10.00 a million, of the one provider that has the model.
    assert site.bill() == (1, "0.000225000000")
    assert billed_to(site) == ["acme", "litellm", "openai", "gpt-4o"]
    assert_nothing_private(site)


def test_what_the_generic_api_callback_sends_is_billed_and_once_when_it_is_sent_twice(site: Site) -> None:
    call("generic_api", site)
    # 10 in and 20 out; streamed, 16 in and 6 out; and one that the provider throttled.
    assert site.bill() == (2, "0.000325000000")
    assert site.get("/v1/usage")["total"]["by_status"]["throttled"] == 1
    assert billed_to(site) == ["acme", "assistant", "openai", "gpt-4o"]
    assert site.rejected() == []
    assert_nothing_private(site)


@pytest.fixture(autouse=True)
def _priced(site: Site) -> None:
    site.apply(
        """
rate_card:
  - provider: openai
    model: gpt-4o
    valid_from: 2026-01-01T00:00:00Z
    per_million: {input: "2.50", cache_read: "1.25", output: "10.00", reasoning: "10.00"}
"""
    )
