"""Foreign records → usage events. Pure: a module takes the lines of a file or the bytes of a body, never the file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from meterhouse.ingest.formats import azure_llm, mooncake
from meterhouse.ingest.formats.replay_rule import TraceRow

TRACE_FORMATS: Final[Mapping[str, Callable[[Iterable[bytes]], Iterator[TraceRow]]]] = {
    "azure-llm": azure_llm.rows,
    "mooncake": mooncake.rows,
}
"""By the name that `replay --format` takes: a file's lines → its rows."""
