"""The runbook: what it says to run runs, and what it names is there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import threading
from pathlib import Path
from typing import Final

import pytest

from meterhouse.api.app import create_app
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.api.workers import Workers
from meterhouse.ingest.batch import Reason
from meterhouse.ingest.log import USAGE_EVENTS, Message
from tests.api.serving import served
from tests.api.sites import event
from tests.blocks import blocks
from tests.commands import invoked
from tests.ops.test_rules import rules

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "runbook.md"
TEXT: Final = PAGE.read_text(encoding="utf-8")
SERVER: Final = "http://127.0.0.1:8080"
FROM_MONEY: Final = {"MeterhouseBudgetThreshold", "MeterhouseUnpricedModel", "MeterhouseMeterBehind"}
"""Alerts of Meterhouse itself."""
SYMPTOMS: Final = (
    "Lag grows", "Totals are stale", "Fenced commits", "Unpriced models", "Rejects climb", "The disk is full",
    "The catalogue is down", "A broken control file",
)  # fmt: skip


def sections() -> dict[str, str]:
    """By title."""
    parts = re.split(r"^## (.+)$", TEXT, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with what goes wrong: a model without a price, a tenant that nobody knows, rubbish."""
    home = tmp_path_factory.mktemp("troubled") / "home"
    assert invoked(home, "apply", str(ROOT / "meterhouse" / "api" / "demo.yaml")).exit_code == 0
    atlas = {"provider": "atlas", "model": "atlas-large"}
    bad = [
        event(1, subject="acme-retail", data={"provider": "atlas", "model": "atlas-next"}),
        event(2, subject="stranger", data=atlas),
        event(3, subject="acme-retail", data=atlas),
    ]
    with House(Settings(home=home), writer=True) as house:
        sound = [Message(each["subject"].encode(), json.dumps(each).encode()) for each in bad]
        house.log.append(USAGE_EVENTS, [*sound, Message(None, b"{rubbish")])
        with Workers(house) as workers:
            workers.run_until_idle(threading.Event())
    return home


def test_every_command_of_the_runbook_runs(troubled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with House(Settings(home=troubled), writer=False) as house, served(create_app(house)) as client:
        client.get("/readyz")
        for block in blocks(PAGE):
            assert block.language == "sh", f"line {block.line}: what is not run cannot be known to work"
            for line in block.text.splitlines():
                said = _typed(line, troubled, str(client.base_url))
                assert said, f"line {block.line}: {line} says nothing"


def _typed(line: str, home: Path, server: str) -> str:
    words = shlex.split(line, comments=True)
    if words[0] == "meterhouse":
        done = invoked(home, *words[1:])
        assert done.exit_code == 0, f"{line}\n{done.output}"
        return done.output
    assert words[0] in ("curl", "df"), line
    command = [word.replace(SERVER, server.rstrip("/")) for word in words]
    return subprocess.run(command, cwd=home, check=True, capture_output=True, text=True, timeout=60).stdout


def test_every_metric_reason_and_alert_of_the_runbook_is_one(known: dict[str, set[str]]) -> None:
    metrics = set(re.findall(r"`((?:meterhouse|process)_[a-z_]+)`", TEXT))
    families = known.keys() | {name.removesuffix(part) for name in known for part in ("_bucket", "_count", "_sum")}
    assert metrics - families == set()
    table = re.findall(r"^\| (`[a-z_]+`(?:, `[a-z_]+`)*) \|", sections()["Rejects climb"], re.MULTILINE)
    assert sorted(re.findall(r"`([a-z_]+)`", " ".join(table))) == sorted(Reason)
    alerts = set(re.findall(r"`(Meterhouse[A-Za-z]+)`", TEXT))
    assert alerts == {rule["alert"] for rule in rules()} | FROM_MONEY


def test_each_section_says_what_is_seen_what_is_safe_and_when_it_is_over() -> None:
    found = sections()
    assert set(SYMPTOMS) <= set(found)
    for title, text in found.items():
        for word in ("**You see**", "**Alert", "**Figure", "**Safe**", "**Over**", "```sh"):
            assert word in text, f"{title} lacks {word}"
