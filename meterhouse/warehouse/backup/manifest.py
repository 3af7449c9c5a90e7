"""A back-up's manifest: what it holds, down to the hash of each part, and what it was taken of.

It is written last, and carries a hash of itself: a place without a whole manifest holds no back-up.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

NAME: Final = "manifest.json"
FORMAT: Final = 1
"""Of the manifest and of what it names. Later formats only add, or are told apart by this number."""
MAX_BYTES: Final = 256 * 2**20
"""A part takes some 200 bytes: a million files, far beyond what maintenance leaves."""

Kind = Literal["sqlite", "postgresql"]


class BackupError(Exception):
    """A back-up that cannot be made, is not whole, or cannot be restored there; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Part:
    """A file of a back-up."""

    name: str  # below the back-up's place
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Mark:
    """How far the lake had metered a partition of the log."""

    next_offset: int
    arrived_us: int | None  # the newest arrival that it holds


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a back-up is of. Times in microseconds."""

    version: str  # of Meterhouse
    taken_us: int  # when the catalogue was copied
    ended_us: int
    catalogue: Kind
    control: Kind
    control_schema: str  # the revision of its migrations
    log: bool  # whether the embedded log is in it
    lake_snapshot: int
    marks: Mapping[int, Mark]  # by partition
    parts: Sequence[Part]

    @property
    def size_bytes(self) -> int:
        return sum(part.bytes for part in self.parts)

    def of(self, folder: str) -> list[Part]:
        """The parts below a folder of the back-up."""
        return [part for part in self.parts if part.name.startswith(f"{folder}/")]

    def to_bytes(self) -> bytes:
        body = {"format": FORMAT, **asdict(self)}
        text = json.dumps({"sha256": _digest(body), **body}, indent=1, ensure_ascii=False)
        return text.encode()


def manifest_of(content: bytes, place: str) -> Manifest:
    """The manifest that these bytes are. Raises BackupError."""
    damaged = BackupError(f"the manifest of the back-up at {place} is damaged: use another back-up")
    try:
        body = json.loads(content)
        if not isinstance(body, dict):
            raise damaged
        told, form = body.pop("sha256"), body.pop("format")
        if form != FORMAT:
            raise BackupError(f"the back-up at {place} has format {form}: a newer Meterhouse made it, use that one")
        if told != _digest({"format": form, **body}):
            raise damaged
        body["parts"] = [Part(**part) for part in body["parts"]]
        body["marks"] = {int(partition): Mark(**mark) for partition, mark in body["marks"].items()}
        return Manifest(**body)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise damaged from None


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
