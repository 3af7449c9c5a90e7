"""Which metrics and labels a PromQL expression names. That it parses at all is for promtool to say."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

TARGET: Final = frozenset({"job", "instance", "process"})
"""Labels that Prometheus gives to whatever it scrapes, as ops/prometheus/prometheus.yml says."""
_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|\[[^\]]*\]|[a-zA-Z_:][a-zA-Z0-9_:]*|[0-9.]+[smhdwy]?|=~|!~|!=|\S')
_LISTS: Final = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
_WORDS: Final = frozenset(
    {"and", "or", "unless", "bool", "offset", "Inf", "NaN", "sum", "max", "min", "count", "avg", "topk"}
)

_APART: Final = frozenset({"and", "or", "<", ">", "=="})


@dataclass
class Named:
    """What an expression names."""

    metrics: dict[str, set[str]] = field(default_factory=dict)  # with the labels that their selectors match
    labels: set[str] = field(default_factory=set)  # that it groups or joins by

    def unknown(self, there: dict[str, set[str]]) -> list[str]:
        """What no process says: `there` has the labels of each metric that some process does."""
        lacking = [name for name in self.metrics if name not in there and name != "up"]
        for name, labels in self.metrics.items():
            lacking += [f"{name}{{{label}}}" for label in labels - there.get(name, set()) - TARGET]
        known = set[str]().union(TARGET, *(there.get(name, set()) for name in self.metrics))
        return sorted([*lacking, *(f"by ({label})" for label in self.labels - known)])


def named(expression: str) -> Named:
    found, tokens = Named(), [*_TOKEN.findall(expression), ""]
    at = 0
    while at < len(tokens) - 1:
        word, after = tokens[at], tokens[at + 1]
        at += 1
        if word in _LISTS:
            if after == "(":
                end = tokens.index(")", at)
                found.labels |= {each for each in tokens[at + 1 : end] if each != ","}
                at = end
        elif re.match(r"[a-zA-Z_:]", word) and after != "(" and word not in _WORDS:
            matched = found.metrics.setdefault(word, set())
            if after == "{":
                end = tokens.index("}", at)
                operators = {"=", "!=", "=~", "!~"}
                matched |= {
                    name
                    for name, operator in zip(tokens[at:end], tokens[at + 1 : end], strict=False)
                    if operator in operators
                }
                at = end
    return found


def sides(expression: str) -> list[str]:
    """What a rule compares and combines, apart from plain numbers."""
    parts, depth = [""], 0
    for word in re.split(r"(\s+|[()])", expression):
        depth += (word == "(") - (word == ")")
        if depth == 0 and word in _APART:
            parts.append("")
        else:
            parts[-1] += word
    return [part.strip() for part in parts if not re.fullmatch(r"[0-9.]+|Inf", part.strip())]
