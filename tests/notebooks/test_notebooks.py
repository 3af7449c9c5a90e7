"""The notebooks: each pair agrees, each runs on a generated house, and its totals are the command line's."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import nbformat
import pytest

from meterhouse.api.notebook import opened
from meterhouse.api.settings import Settings
from meterhouse.warehouse.reports.chargeback import chargeback
from meterhouse.warehouse.reports.groups import Selection, month_of
from tests.commands import invoked
from tools.notebooks import house, pairs, running

SOURCES: Final = pairs.sources()
ALLOWED: Final = {"meterhouse.api.notebook", "meterhouse.streams.money"}
"""Besides `warehouse.reports`: how to open the books, and how an amount is rounded for a person."""
OTHERS: Final = {"__future__", "collections", "decimal", "typing", "charts", "IPython", "matplotlib", "pandas"}
every_notebook = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)


def test_there_are_five_notebooks() -> None:
    names = {"month_end", "usage_review", "slo_review", "price_change", "cache_and_capacity"}
    assert {source.stem for source in SOURCES} == names == {file.stem for file in pairs.FOLDER.glob("*.ipynb")}


@every_notebook
def test_a_pair_agrees(source: Path) -> None:
    made = source.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert made == pairs.notebook_of(source), "make it anew: python -m tools.notebooks --only-write"


@pytest.mark.parametrize("file", sorted(pairs.FOLDER.glob("*.py")), ids=lambda file: file.stem)
def test_a_notebook_asks_the_reports_and_nothing_else(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imported = {name for node in ast.walk(tree) for name in imports(node)}
    ours = {name for name in imported if name.startswith("meterhouse")}
    assert {n for n in ours if n not in ALLOWED and not n.startswith("meterhouse.warehouse.reports.")} == set()
    assert {name.partition(".")[0] for name in imported - ours} <= OTHERS
    inside = [
        f"line {node.lineno}: .{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr == "books"
    ]
    assert inside == [], "books are for reports to read"


def imports(node: ast.AST) -> Iterator[str]:
    """The modules that a statement imports, or imports from."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield node.module or ""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("notebooks") / "home"
    for words in house.commands():
        done = invoked(home, *words)
        assert done.exit_code == 0, done.output
    return home


@pytest.mark.timeout(600)
def test_each_runs_and_says_what_the_command_line_says(home: Path, tmp_path: Path) -> None:
    assert running.run(home, tmp_path) == 0
    for source in SOURCES:
        notebook = nbformat.read(tmp_path / f"{source.stem}.ipynb", as_version=4)
        said = "\n".join(shown(notebook, "text/markdown"))
        [(command, figure)] = re.findall(r"`meterhouse (.+)` says the same: \*\*(.+)\*\*", said)
        done = invoked(home, *shlex.split(command), "--format", "json")
        assert done.exit_code == 0, done.output
        assert figure == figure_of(json.loads(done.stdout)), f"{source.stem}: meterhouse {command}"
        assert "\n- **" in f"\n{said}", f"{source.stem} concludes nothing"
        assert len(list(shown(notebook, "image/png"))) >= 1


def shown(notebook: Any, kind: str) -> Iterator[str]:
    """What a notebook that ran shows of a kind."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if kind in output.get("data", {}):
                yield output["data"][kind]


def figure_of(report: dict[str, Any]) -> str:
    if "objectives" in report:
        return ", ".join(f"{line['id']} {line['good']} of {line['total']}" for line in report["objectives"])
    return f"{report['total']['cost']} {report['currency']}"


def test_books_opened_for_an_application_have_nothing_else(home: Path) -> None:
    with opened("acme-retail/assistant", settings=Settings(home=home)) as moment:
        month = Selection(*month_of(month_of(moment.at_us)[0] - 1))
        mine = chargeback(moment.books, moment.control, month, ("tenant", "application"), moment.freshness)
    assert [line.groups for line in mine.lines] == [{"tenant": "acme-retail", "application": "assistant"}]
    with opened(settings=Settings(home=home)) as moment:
        whole = chargeback(moment.books, moment.control, month, ("tenant", "application"), moment.freshness)
    assert mine.total == next(line.figures for line in whole.lines if line.groups == mine.lines[0].groups)
    assert len(whole.lines) > len(mine.lines)
