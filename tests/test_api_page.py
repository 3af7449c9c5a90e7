"""The examples of docs/api.md do what they say, run as they stand there against a server of this machine."""

from __future__ import annotations

import contextlib
import doctest
import io
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from meterhouse.api.app import create_app
from meterhouse.api.auth.caller import Role
from meterhouse.api.clock import now_us
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.api.workers import Workers
from meterhouse.client import Meterhouse
from meterhouse.warehouse.api_keys import NewKey
from meterhouse.warehouse.control_file import parse
from meterhouse.warehouse.control_plan import plan
from tests.api.serving import served
from tests.blocks import Block, blocks
from tests.kafka.logs import await_that

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "api.md"
RUN, SHOWN = {"sh", "python"}, {"json", "text"}


class Reader:
    """Who types the examples, one after the other."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self._names: dict[str, Any] = {}

    def close(self) -> None:
        for value in self._names.values():
            if isinstance(value, Meterhouse):
                value.close()

    def type_in(self, block: Block) -> str:
        """What the example prints."""
        if block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                # Blank lines before it, so that an error names the page's line.
                exec(compile("\n" * (block.line - 1) + block.text, str(PAGE), "exec"), self._names)
            return printed.getvalue()
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text],
            cwd=self._folder,
            env=os.environ | self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"line {block.line}: {done.stderr}"
        return done.stdout


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with House(Settings(home=tmp_path / "home"), writer=True) as house:
        control = parse((ROOT / "meterhouse" / "api" / "demo.yaml").read_text(encoding="utf-8"))
        house.control.apply(plan(control, house.control.snapshot(), now_us()), now_us())
        yield house


def test_the_examples_do_what_they_say(house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, run = blocks(PAGE), 0
    with contextlib.ExitStack() as leaving:
        http = leaving.enter_context(served(create_app(house)))
        workers = leaving.enter_context(Workers(house))
        made = house.keys.create(NewKey(name="ann", role=Role.admin, grants=None, expires_us=None), "test", now_us())
        environment = {"URL": str(http.base_url), "KEY": made.text, "DAY": f"{datetime.now(UTC):%F}"}
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        reader = leaving.enter_context(contextlib.closing(Reader(tmp_path, environment)))
        for block, after in zip(page, [*page[1:], None], strict=True):
            if block.language not in RUN:
                continue
            # "Seconds later": all that was published is in the reports, and the gate has heard of it.
            workers.run_until_idle(threading.Event())
            await_that(lambda: house.admissions.gate.ready)
            printed = reader.type_in(block)
            run += 1
            if after is not None and after.language in SHOWN:
                assert_shown(after, printed)
    assert run > 10


def assert_shown(block: Block, printed: str) -> None:
    """`text`: all that was printed, `...` for any of it; `json`: a part of it."""
    if block.language == "json":
        difference = missing(json.loads(block.text), json.loads(printed), "$")
        assert not difference, f"line {block.line}: {difference}\n{printed}"
    else:
        same = doctest.OutputChecker().check_output(block.text, printed, doctest.ELLIPSIS)
        assert same, f"line {block.line}: it prints\n{printed}"


def missing(shown: Any, got: Any, where: str) -> str:
    """Where an answer is not what is shown of it; nothing: it is."""
    if isinstance(shown, dict) and isinstance(got, dict):
        parts = (
            missing(value, got[name], f"{where}.{name}") if name in got else f"{where}.{name} is not there"
            for name, value in shown.items()
        )
    elif isinstance(shown, list) and isinstance(got, list) and len(shown) == len(got):
        parts = (missing(*pair, f"{where}[{i}]") for i, pair in enumerate(zip(shown, got, strict=True)))
    else:
        return "" if shown == got else f"{where} is {got!r}"
    return next(filter(None, parts), "")


@pytest.mark.parametrize(
    ("shown", "got", "said"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, ""),
        ({"a": 1}, {"a": 2}, "$.a is 2"),
        ({"a": {"b": 1}}, {"a": {}}, "$.a.b is not there"),
        ([{"a": 1}], [{"a": 1, "b": 2}], ""),
        ([1], [1, 2], "$ is [1, 2]"),
        ([1, 2], [1, 3], "$[1] is 3"),
    ],
)
def test_what_is_shown_of_an_answer_is_a_part_of_it(shown: Any, got: Any, said: str) -> None:
    assert missing(shown, got, "$") == said
