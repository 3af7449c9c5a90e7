"""What an answer says of trouble behind the server: what is away. Where that is, who asks is not told; it is logged."""

from __future__ import annotations

from time import monotonic
from typing import Final

import structlog

from meterhouse.ingest.log import LogError, LogFull
from meterhouse.streams.alerts import OutboxUnavailable
from meterhouse.warehouse.control import ControlUnavailable
from meterhouse.warehouse.lake import LakeError

AWAY: Final = (LogError, LakeError, ControlUnavailable, OutboxUnavailable)
"""What parts of the house raise while they are not to be had."""
_TOLD: Final[dict[type[Exception], str]] = {  # the first that fits
    LogFull: "the log is full",
    LogError: "the log does not answer",
    LakeError: "the lake cannot be read",
    OutboxUnavailable: "the alerts database does not answer",
}
SAY_EVERY_S: Final = 1.0
"""The log's lines about the same: while something is away, each request meets it."""
_said_s: dict[str, float] = {}  # when, by what is told
_log = structlog.get_logger("meterhouse.api")


def told(trouble: Exception) -> str:
    """What is away. Its own message names files and hosts."""
    text = next((text for kind, text in _TOLD.items() if isinstance(trouble, kind)), None)
    if text is None:  # a database's own words come as the cause
        text = str(trouble) if trouble.__cause__ is None else "the control database does not answer"
    if monotonic() - _said_s.get(text, float("-inf")) >= SAY_EVERY_S:
        _said_s[text] = monotonic()
        _log.warning("something is away", reason=str(trouble))
    return text
