"""CloudEvents' binary mode in Kafka: attributes in `ce_*` headers, `data` as the record's value."""

from __future__ import annotations

import json
from typing import Final

from meterhouse.ingest.log import Headers

_PREFIX: Final = "ce_"
BINARY_HEADERS: Final = 4
"""Headers that a binary event has at least: specversion, id, source, type."""


def is_binary(headers: Headers) -> bool:
    """Whether a record is an event in binary mode: only such a one says its version in a header."""
    return len(headers) >= BINARY_HEADERS and any(name == "ce_specversion" for name, _ in headers)


def structured(headers: Headers, value: bytes | None) -> bytes | None:
    """The same event in structured mode. A tombstone stays one; a value that is not JSON makes text that is not."""
    if value is None:
        return None
    # What is not UTF-8 becomes a lone surrogate, which no attribute may have.
    attributes = {
        name.removeprefix(_PREFIX): text.decode("utf-8", "surrogateescape")
        for name, text in reversed(headers)
        if name.startswith(_PREFIX) and name != "ce_data"
    }
    return b'%b,"data":%b}' % (json.dumps(attributes).encode()[:-1], value)
