"""What was done about a reject, as JSON."""

from __future__ import annotations

from typing import Any, Final

from meterhouse.warehouse.reject_resolutions import Resolution
from meterhouse.warehouse.reports.to_json import rfc3339

Json = dict[str, Any]

_STATES: Final = {"requeue": "requeued", "repair": "repaired", "discard": "discarded"}


def resolution_json(resolution: Resolution | None) -> Json:
    """What was done about a reject: `open`, `pending` (begun, not known to be sent), or how it ended."""
    if resolution is None:
        return {"state": "open", "resolved": None, "resolved_by": None, "note": None}
    return {
        "state": _STATES[resolution.action] if resolution.state == "done" else "pending",
        "resolved": rfc3339(resolution.at_us),
        "resolved_by": resolution.by,
        "note": resolution.note,
    }
