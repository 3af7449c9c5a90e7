"""How long rows are kept."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Retention:
    """Days after the end of the day (of rejects: the month) that rows are of; None: for ever."""

    charges: int | None = None
    node_events: int | None = None
    rejects: int | None = None
    quality: int | None = None  # results of data quality, which are control data
