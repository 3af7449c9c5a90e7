"""YAML as the control file uses it: documents of mappings, lists and texts, each with its line.

A scalar stays the text that stands in the file, so `2.50` does not pass through a float on its way to a price and an
id `no` is not a boolean. Only a plain `null`, `~` or nothing at all is None. Anchors, aliases and tags are refused: a
price list says what it says where it says it (and an alias can make a small file a large value).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import yaml

MAX_DEPTH: Final = 12
"""The control file needs five levels."""

MAX_DOCUMENTS: Final = 10_000
"""As many as there may be objectives: each may be a document of its own."""

_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})


@dataclass(frozen=True, slots=True)
class Node:
    """A value and the line it begins on, counted from 1."""

    value: str | list[Node] | dict[str, Node] | None
    line: int

    @property
    def what(self) -> str:
        """What this is, as a message calls it."""
        if isinstance(self.value, dict):
            return "a mapping"
        if isinstance(self.value, list):
            return "a list"
        return "empty" if self.value is None else f'the text "{self.value}"'


@dataclass(frozen=True, slots=True)
class YamlProblem:
    line: int
    message: str


class _Refused(Exception):
    """Stops at the first problem after which the rest cannot be understood."""


@dataclass(slots=True)
class _Frame:
    """A list or mapping that is still open; a mapping waits for a key, then for its value."""

    value: list[Node] | dict[str, Node]
    line: int
    key: str | None = None


def load(text: str) -> tuple[list[Node], list[YamlProblem]]:
    """The roots of its documents (none when the file is empty or cannot be read) and what is wrong with it as YAML.
    A document without anything in it, as after a last `---`, is none."""
    composer = _Composer()
    try:
        # libyaml where PyYAML was built with it: the same events, several times faster.
        composer.compose(yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        return [], [*composer.problems, YamlProblem(line, f"is not YAML: {error.problem}")]
    except yaml.YAMLError as error:
        return [], [*composer.problems, YamlProblem(1, f"is not YAML: {error}")]
    except _Refused:
        return [], composer.problems
    return composer.roots, composer.problems


class _Composer:
    """Builds nodes from PyYAML's events with a stack of its own, so that depth is a limit and not a crash."""

    def __init__(self) -> None:
        self.roots: list[Node] = []
        self.problems: list[YamlProblem] = []
        self._open: list[_Frame] = []

    def compose(self, events: Iterable[Any]) -> None:
        for event in events:
            line = event.start_mark.line + 1
            if isinstance(event, yaml.DocumentStartEvent):
                if len(self.roots) >= MAX_DOCUMENTS:
                    self._refuse(line, f"begins one more document than {MAX_DOCUMENTS}: apply them in several files")
            elif isinstance(event, yaml.AliasEvent):
                self._refuse(line, "uses an alias (*): write the value out")
            elif isinstance(event, yaml.NodeEvent):
                self._begin(event, line)
            elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
                frame = self._open.pop()
                self._add(Node(frame.value, frame.line))

    def _begin(self, event: Any, line: int) -> None:
        if event.anchor is not None:
            self._refuse(line, "uses an anchor (&): write the value out where it is needed")
        if event.tag not in (None, "!"):
            self._refuse(line, f"uses a tag ({event.tag}): remove it, plain values are enough here")
        if isinstance(event, yaml.ScalarEvent):
            plain = bool(event.implicit[0])
            self._add(Node(None if plain and event.value in _NULLS else event.value, line))
        else:
            if len(self._open) >= MAX_DEPTH:
                self._refuse(line, f"is nested deeper than {MAX_DEPTH} levels: the control file needs five")
            self._open.append(_Frame({} if isinstance(event, yaml.MappingStartEvent) else [], line))

    def _add(self, node: Node) -> None:
        if not self._open:
            if node.value is not None:
                self.roots.append(node)
            return
        frame = self._open[-1]
        if isinstance(frame.value, list):
            frame.value.append(node)
        elif frame.key is None:
            if not isinstance(node.value, str):
                self._refuse(node.line, f"has a key that is {node.what}: a key is a text")
            else:
                frame.key = node.value
        else:
            if frame.key in frame.value:
                first = frame.value[frame.key].line
                self.problems.append(
                    YamlProblem(node.line, f"says `{frame.key}` twice (first on line {first}): keep one of them")
                )
            frame.value[frame.key] = node
            frame.key = None

    def _refuse(self, line: int, message: str) -> None:
        self.problems.append(YamlProblem(line, message))
        raise _Refused
