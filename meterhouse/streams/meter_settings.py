"""What the meter's loop is set to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from meterhouse.ingest.event import Lateness

REST_S: Final = 0.05
"""The longest rest: what it adds to the age of a budget's total. A turn costs some 10 ms however few events it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterSettings:
    """Limits of the loop, each with its reason."""

    poll_records: int = 20_000  # enough events for vectorised stages where a record is one event
    poll_timeout_s: float = 0.02  # also the delay of a budget total at low load
    commit_every_s: float = 1.0  # a catalogue takes tens of commits a second; readers want seconds
    commit_events: int = 200_000  # the catalogue's share of a commit, 0.15 s whatever its size, is then small
    buffer_events: int = 400_000  # about 150 MB; beyond it reading stops and lag shows it
    buffer_bytes: int = (
        128 * 2**20
    )  # of rejects and forwards, which carry their payloads; commits are due at half of it
    control_every_s: float = 1.0
    lag_every_s: float = 1.0  # asking the broker for its ends takes milliseconds
    rest: float = (
        0.0  # after a turn that read all there was, times what it took: for who shares a process with requests
    )
    commit_attempts: int = 45  # with backoff up to 5 s some hundred seconds of trouble, then stop loudly
    window_hours: int = 35 * 24  # the dedupe window, of arrival
    lateness: Lateness = field(default_factory=Lateness)
