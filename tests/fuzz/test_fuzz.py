"""Schemathesis against the running server: all of its checks, stateful, so many calls as METERHOUSE_FUZZ_CALLS says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from meterhouse.api.auth.caller import Caller, Role
from meterhouse.api.problems import Problem
from meterhouse.warehouse.view import EVERYTHING
from tests.isolation.town import Town, built

CALLS = int(os.environ.get("METERHOUSE_FUZZ_CALLS", "600"))
TOKEN = "of-the-operator"
CONFIG = Path(__file__).with_name("schemathesis.toml")
PROGRAM = Path(sys.executable).with_name("schemathesis")
MAX_SAID = 20_000
MOST_OWN_ERRORS = 1
"""Runs in which schemathesis fell over itself and found nothing wrong with an answer: of two workers on one server one
may replay what the other has changed since. Seen once in four runs of 20,000 calls; one that comes again is a fault."""
RUNS = 20
"""Each makes as many calls as are still lacking, or what it finds of them."""


class OneToken:
    """Knows one token, which no call can revoke."""

    async def caller_of(self, request: Request) -> Caller:
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            raise Problem("unauthenticated", "Send the token.", headers={"WWW-Authenticate": "Bearer"})
        return Caller("key:fuzz", "fuzz", Role.admin, EVERYTHING)


@dataclass
class Counted:
    """How many calls came."""

    app: ASGIApp
    calls: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls += scope["type"] == "http"
        await self.app(scope, receive, send)


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    with built(tmp_path) as town:
        town.app.state.authenticator = OneToken()
        yield town


@pytest.mark.timeout(1_800)
def test_no_call_breaks_the_server_and_each_answer_is_as_its_document_says(town: Town, tmp_path: Path) -> None:
    counted = Counted(town.app.middleware_stack or town.app)
    town.app.middleware_stack = counted
    operations = sum(len(methods) for methods in town.app.openapi()["paths"].values())
    own_errors: list[str] = []
    for seed in range(RUNS):
        lacking = CALLS - counted.calls
        if lacking <= 0:
            break
        own_errors += _run(town, tmp_path, seed, max(1, lacking // (2 * operations)))
    assert len(own_errors) <= MOST_OWN_ERRORS, "\n".join(own_errors)
    assert counted.calls >= CALLS
    assert town.http.get("/healthz").json() == {"status": "ok", "checks": {}}


def _run(town: Town, folder: Path, seed: int, examples: int) -> list[str]:
    """Fails on whatever the server did wrong; returns what schemathesis says of a fault of its own."""
    report, config = folder / f"report-{seed}.json", folder / "schemathesis.toml"
    few = max(1, examples // 8)
    config.write_text(CONFIG.read_text().replace("EXAMPLES", str(examples)).replace("FEW", str(few)))
    done = subprocess.run(
        [
            str(PROGRAM), "--config-file", str(config), "run", f"{town.http.base_url}/openapi.json",
            "--header", f"Authorization: Bearer {TOKEN}", "--checks", "all",
            "--phases", "examples,coverage,fuzzing,stateful", "--seed", str(seed),
            "--workers", "2", "--suppress-health-check", "all", "--no-color",
            "--report", "json", "--report-json-path", str(report),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=1_500,
    )  # fmt: skip
    begins = [at for part in ("= ERRORS", "= FAILURES") if (at := done.stdout.find(part)) >= 0]
    said = done.stdout[min(begins, default=-MAX_SAID) :]
    (folder / "failures.txt").write_text(said)
    told = json.loads(report.read_text())
    own = not told["failures"] and {error["title"] for error in told["errors"]} == {"Runtime Error"}
    if own:
        print(said[:MAX_SAID])
    assert own or done.returncode == 0, said[:MAX_SAID] + done.stderr[-2_000:]
    assert told["complete"]
    return [said[:MAX_SAID]] if own else []
