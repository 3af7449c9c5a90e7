"""Pages of documentation: which there are, and what is in one."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[1]
ENDS: Final = {"|", "||", "&&", ";", "&", ">", ">>", "<", "<<", "2>", ")"}
"""Words of a shell behind which a command is over."""
_TYPED: Final = re.compile(r"(?:^|[|;&(])\s*(?:\$ )?(?:\w+=\S* )*(meterhouse|make)(?= |$)")


class Block(NamedTuple):
    language: str
    text: str
    line: int  # of its first line in the page


class Said(NamedTuple):
    """A piece of a page and where it stands."""

    text: str
    line: int
    block: str | None = None  # language of the block that it is in; None: in the text


def pages() -> list[Path]:
    """Every page of the repository."""
    return sorted(
        page
        for page in ROOT.rglob("*.md")
        if not any(part.startswith(".") or part == "node_modules" for part in page.relative_to(ROOT).parts)
    )


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in their order."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(each[1], each[2], text.count("\n", 0, each.start(2)) + 1) for each in found]


def prose(page: Path) -> str:
    """The page with its blocks empty, so that lines keep their numbers."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^```\w*\n.*?^```$", lambda block: "\n" * block[0].count("\n"), text, flags=re.DOTALL | re.MULTILINE)


def code(page: Path) -> Iterator[Said]:
    """What stands in code: each line of a block, with those that it goes on in, and each span of a text."""
    for block in blocks(page):
        line = block.line
        for whole in re.findall(r"(?:[^\n]*\\\n)*[^\n]*\n", block.text):
            yield Said(whole.replace("\\\n", " ").rstrip("\n"), line, block.language)
            line += whole.count("\n")
    text = prose(page)
    for span in re.finditer(r"`([^`]+)`", text):
        yield Said(" ".join(span[1].split()), text.count("\n", 0, span.start()) + 1)


def typed(program: str, said: Said) -> Iterator[list[str]]:
    """The words behind a program's name, of each time that a line of shell calls it."""
    for call in _TYPED.finditer(said.text):
        if call[1] == program:
            words = shlex.shlex(said.text[call.end(1) :], posix=True, punctuation_chars="|;&()<>")
            words.whitespace_split = True
            yield _until_end(list(words))


def _until_end(words: list[str]) -> list[str]:
    end = next((place for place, word in enumerate(words) if word in ENDS), len(words))
    return words[:end]


def links(page: Path) -> list[Said]:
    """Where a page's links lead."""
    text = prose(page)
    return [
        Said(link[1], text.count("\n", 0, link.start()) + 1) for link in re.finditer(r"\]\(\s*([^)\s]+)\s*\)", text)
    ]


def anchors(page: Path) -> set[str]:
    """The names of a page's sections, as GitHub makes them."""
    titles = re.findall(r"^#+ +(.+?) *$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
