"""What pages of documentation name is there: commands and their options, settings, targets, routes, links, addresses.

Pages find themselves. Decisions tell what was so when they were made, so of them only links are checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import pytest
import typer
import typer.main

from meterhouse.api.cli import app, with_home_first
from meterhouse.api.settings import Settings
from tests.blocks import ROOT, Said, anchors, code, links, pages, typed
from tests.commands import invoked
from tools.openapi import release

PAGES: Final = pages()
CURRENT: Final = [page for page in PAGES if not re.match(r"\d{4}-", page.name)]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
every_current_page = pytest.mark.parametrize("page", CURRENT, ids=lambda page: str(page.relative_to(ROOT)))

WEB: Final = {
    "https://appriseit.com/services/",
    "https://focus.finops.org",
    "https://greatexpectations.io",
}
"""Addresses of others that a page may send its reader to. Nobody can look whether they answer, so each is put here by
someone who did."""
OURS: Final = ("127.0.0.1:8080", "meterhouse.example", "$URL")
"""Hosts that stand for `serve`: paths on them are routes."""
UNPUBLISHED: Final = {"/docs", "/metrics"}
"""Paths of the server that its OpenAPI document leaves out."""
RUN: Final = (ROOT / "README.md", ROOT / "docs" / "runbook.md", ROOT / "docs" / "upgrade.md")
"""Pages whose blocks of `sh` are run in their order, by tests of their own."""
HARMLESS: Final = (
    "alerts --", "alerts silences", "audit list", "budgets", "charges", "chargeback", "compare", "explain", "forecast",
    "org-tree", "rejects --", "slo", "usage", "verify",
)  # fmt: skip
"""How commands begin that only look at a home."""
UsageError: Final = typer.BadParameter.__base__
PROGRAM: Final = typer.main.get_command(app)
DOCUMENT: Final = release.current()


def at(page: Path, said: Said) -> str:
    return f"{page.relative_to(ROOT)}:{said.line}: {said.text}"


# -- the command line --------------------------------------------------------------------------------------------------


def commands(page: Path) -> Iterator[tuple[Said, list[str]]]:
    """The words of each call of `meterhouse`, wherever a page has one."""
    for said in code(page):
        if said.block in (None, "", "sh", "bash", "console", "text"):
            for words in typed("meterhouse", said):
                yield said, with_home_first(words)


def is_open(word: str) -> bool:
    """Whether a word stands for what a reader puts in its place: FILE, ID, $KEY, ..."""
    return bool(re.fullmatch(r"[A-Z][A-Z_,]*(\.[a-z]+)?|.*(\.\.\.|\$).*", word))


def wrong_with(words: list[str], *, complete: bool) -> str:
    """Why these words are no call; nothing: they are one. `complete`: what a command must be told is there."""
    command: Any = PROGRAM
    context = typer.Context(command, info_name="meterhouse")
    try:
        while hasattr(command, "resolve_command"):
            _, rest, _ = command.make_parser(context).parse_args(list(words))
            if not rest or is_open(rest[0]):
                return ""
            name, command, words = command.resolve_command(context, rest)
            context = typer.Context(command, parent=context, info_name=name)
        given, more, _ = command.make_parser(context).parse_args(list(words))
        if more:
            return f"nothing takes {' '.join(more)}"
        return next(filter(None, (wrong_value(each, context, given, complete) for each in command.params)), "")
    except UsageError as error:
        return error.format_message()


def wrong_value(parameter: Any, context: typer.Context, given: dict[str, Any], complete: bool) -> str:
    """Why a parameter does not take what it is given; nothing: it does. Raises UsageError instead where Typer does."""
    value = given.get(parameter.name)
    values = [each for each in (value if isinstance(value, list | tuple) else [value]) if isinstance(each, str)]
    if complete and parameter.required and value is None:
        return f"{parameter.name} is not given"
    if values and not any(map(is_open, values)):
        parameter.process_value(context, value)
    return ""


@every_current_page
def test_every_command_of_a_page_is_one(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    wrong = [
        f"{at(page, said)}\n    {why}"
        for said, words in commands(page)
        if (why := wrong_with(words, complete=said.block is not None))
    ]
    assert not wrong, "\n".join(wrong)


def test_every_harmless_command_of_a_page_runs(tmp_path: Path) -> None:
    found = {
        tuple(words): at(page, said)
        for page in CURRENT
        for said, words in commands(page)
        if any(" ".join(words).startswith(name) for name in HARMLESS) and not any(map(is_open, words))
    }
    run = {tuple(words) for page in RUN for said, words in commands(page) if said.block == "sh"}
    wanting = [(where, words) for words, where in found.items() if words not in run]
    if wanting:
        assert invoked(tmp_path, "apply", str(ROOT / "meterhouse" / "api" / "demo.yaml")).exit_code == 0
        assert invoked(tmp_path, "work", "--until-idle").exit_code == 0
    failed = {where: done.output for where, words in wanting if (done := invoked(tmp_path, *words)).exit_code}
    assert not failed


# -- settings, targets -------------------------------------------------------------------------------------------------


@every_current_page
def test_every_setting_of_a_page_is_one(page: Path) -> None:
    names = re.findall(r"METERHOUSE_([A-Z0-9_]*[A-Z0-9*])", page.read_text(encoding="utf-8"))
    known = {name.upper() for name in Settings.model_fields}
    wrong = {
        name
        for name in names
        if name not in known and not (name.endswith("*") and any(each.startswith(name[:-1]) for each in known))
    }
    assert not wrong


@every_current_page
def test_every_make_target_of_a_page_is_one(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    wrong = [
        at(page, said)
        for said in code(page)
        for words in typed("make", said)
        if not {word for word in words[:1] if "=" not in word} <= targets
    ]
    assert not wrong


@every_current_page
def test_every_python_module_of_a_page_is_there(page: Path) -> None:
    wrong = [
        at(page, said)
        for said in code(page)
        for name in re.findall(r"python -m ([\w.]+)", said.text)
        if find_spec(name) is None
    ]
    assert not wrong


# -- the HTTP API ------------------------------------------------------------------------------------------------------

_PATH: Final = re.compile(
    r"(?:\b(GET|POST|PUT|PATCH|DELETE|HEAD) )?(?<![\w.:$}/-])"
    r"(/(?:(?:api/)?v1/[^\s`\"';|)]*|(?:docs|healthz|livez|metrics|readyz)(?![\w./-])))"
)


def routes_of(path: str) -> dict[str, Any]:
    """By method: the operations that a path of an example is one of."""
    parts = path.rstrip("/").split("/")
    for template, methods in DOCUMENT["paths"].items():
        wanted = template.split("/")
        if len(wanted) == len(parts) and all(
            want == part or want.startswith("{") for want, part in zip(wanted, parts, strict=True)
        ):
            return {name.upper(): operation for name, operation in methods.items()}
    return {}


def wrong_with_path(method: str, address: str) -> str:
    """Why a method on a path with its query is not answered; nothing: it is."""
    path, _, query = address.partition("?")
    operations = routes_of(path)
    if not operations:
        return "" if path in UNPUBLISHED else "there is no such route"
    if method and method not in operations:
        return f"the route has no {method}"
    known = {
        each["name"]
        for operation in ([operations[method]] if method else operations.values())
        for each in operation.get("parameters", ())
        if each["in"] == "query"
    }
    asked = {name for name, _ in parse_qsl(query, keep_blank_values=True)}
    return f"nothing takes {asked - known}" if asked - known else ""


def _without_addresses(text: str) -> str:
    """Addresses of `serve` as their paths; those of others gone."""
    text = re.sub(rf"(?:https?://)?(?:{'|'.join(map(re.escape, OURS))})(?=[/\"' ]|$)", "", text)
    return re.sub(r"https?://[^\s\"'`]+", "", text)


@every_current_page
def test_every_path_of_a_page_is_a_route(page: Path) -> None:
    wrong = [
        f"{at(page, said)}\n    {why}"
        for said in code(page)
        for call in _PATH.finditer(_without_addresses(said.text))
        if (why := wrong_with_path(call[1] or "", call[2].rstrip(".,:")))
    ]
    assert not wrong, "\n".join(wrong)


# -- where links lead --------------------------------------------------------------------------------------------------


@every_page
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    wrong = [at(page, said) for said in links(page) if not leads_somewhere(page, said.text)]
    assert not wrong, "\n".join(wrong)


def leads_somewhere(page: Path, link: str) -> bool:
    if "://" in link:
        return True  # an address: see below
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    inside = target.is_relative_to(ROOT) and target.exists()
    return inside and (not anchor or (target.suffix == ".md" and anchor in anchors(target)))


@every_page
def test_every_address_of_a_page_is_known(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    addresses = {found.rstrip(".,:") for found in re.findall(r"https?://[^\s)\"'`<>|,]+", text)}
    assert {each for each in addresses if not is_known(each)} == set()


def is_known(address: str) -> bool:
    """Whether it is this machine's, an invented one (RFC 2606), or one that somebody looked at."""
    host = urlsplit(address).hostname or ""
    return host in {"127.0.0.1", "localhost", "host"} or host.endswith(".example") or address in WEB
