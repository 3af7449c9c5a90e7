"""What import-linter cannot say: pure modules call no clock and open no file, and one module reads the environment."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "meterhouse"
CLOCKS = {"now", "today", "utcnow", "time_ns", "monotonic", "perf_counter"}
BUILTIN_IO = {"open", "print", "input", "eval", "exec"}
ENVIRONMENT = {"environ", "getenv", "environb"}


def pure_modules() -> list[Path]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (pure,) = (contract for contract in contracts if contract.get("id") == "pure")
    stems = [ROOT / name.replace(".", "/") for name in pure["source_modules"]]
    files = [[*stem.rglob("*.py")] if stem.is_dir() else [stem.with_suffix(".py")] for stem in stems]
    return sorted(file for group in files for file in group)


def called_names(tree: ast.AST) -> Iterator[tuple[int, str, bool]]:
    """(line, name, is it an attribute) of each call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                yield node.lineno, node.func.id, False
            elif isinstance(node.func, ast.Attribute):
                yield node.lineno, node.func.attr, True


def mentioned_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, alias.name) for alias in node.names)


@pytest.mark.parametrize("file", pure_modules(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_pure_module_reads_no_clock_and_opens_nothing(file: Path) -> None:
    calls = called_names(ast.parse(file.read_text()))
    impure = [
        f"line {line}: {name}"
        for line, name, attribute in calls
        if (attribute and name in CLOCKS) or (not attribute and name in BUILTIN_IO)
    ]
    assert impure == [], "a pure module takes the time and the bytes as parameters"


def test_only_settings_reads_the_environment() -> None:
    readers = {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        for _, name in mentioned_names(ast.parse(file.read_text()))
        if name in ENVIRONMENT
    }
    assert readers - {"api/settings.py"} == set(), (
        "only api/settings.py reads the environment; take the value as a parameter"
    )


def test_only_the_quality_command_loads_great_expectations() -> None:
    known, loads = "meterhouse.warehouse.quality.expectations", {"quality_desk.run", "quality_desk.expectations"}
    texts = {str(file.relative_to(PACKAGE)): file.read_text() for file in PACKAGE.rglob("*.py")}
    trees = {name: ast.parse(text) for name, text in texts.items() if known in text or "quality_desk" in text}

    def importers(nodes: Callable[[ast.Module], Iterable[ast.AST]]) -> set[str]:
        return {
            name
            for name, tree in trees.items()
            if any(isinstance(node, ast.ImportFrom) and node.module == known for node in nodes(tree))
        }

    at_once, ever = importers(lambda tree: tree.body), importers(ast.walk)
    assert (at_once, ever) == (set(), {"api/quality_desk.py"}), "it costs seconds: import it within a function"
    callers = {
        name
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in loads
    }
    assert callers == {"api/cli_quality.py"}, "the server only tells what the command found"


def test_the_oracle_imports_nothing_of_the_product() -> None:
    imported = {
        name
        for file in (ROOT / "tests" / "oracle").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert not {name for name in imported if name.startswith("meterhouse")}
