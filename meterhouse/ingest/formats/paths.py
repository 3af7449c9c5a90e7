"""Paths into a JSON document: the small part of JSONPath that names one place.

`$` is the document; `.name`, `["any name"]` and `[0]` are steps. There are no wildcards, filters or slices: a path
finds one value or none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

MAX_STEPS: Final = 8
"""LiteLLM's payload is five deep."""

Step = str | int

_STEP: Final = re.compile(r'\.([A-Za-z_][A-Za-z0-9_-]*)|\["([^"\\]{1,128})"\]|\[(\d{1,3})\]')


class PathError(ValueError):
    """A text is not a path; the message completes "`field` ..." and says what to do."""


def is_path(text: str) -> bool:
    return text.startswith("$")


@lru_cache(4_096)  # those of all event types; a text has at most 8 steps
def steps(text: str) -> tuple[Step, ...]:
    """The steps of a path. Raises PathError."""
    found: list[Step] = []
    at = 1
    while at < len(text):
        match = _STEP.match(text, at)
        if match is None:
            raise PathError(
                f'is "{text}", and "{text[at:]}" is no step of a path: write names and places like $.data.model, '
                '$.data["gen_ai.model"] or $.tags[0]; wildcards and filters are not known here'
            )
        name, quoted, index = match.groups()
        found.append(name or quoted or int(index))
        at = match.end()
    if not is_path(text) or not found:
        raise PathError(f'is "{text}", which names nothing in the document: write a path like $.data.model')
    if len(found) > MAX_STEPS:
        raise PathError(f'is "{text}", of {len(found)} steps: at most {MAX_STEPS} are allowed')
    return tuple(found)


def look_up(document: object, path: str) -> object:
    """What stands at the path; None where nothing does. The path must be one (`steps`)."""
    value = document
    for step in steps(path):
        if isinstance(step, str):
            value = value.get(step) if isinstance(value, Mapping) else None
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            value = value[step] if step < len(value) else None
        else:
            return None
    return value
