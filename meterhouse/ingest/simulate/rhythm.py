"""When requests come: the hours of the week, tenant by tenant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from meterhouse.ingest.simulate.workload import HOUR_US, Workload

HOURS: Final = 168
SLICE_REQUESTS: Final = 8_192
"""Requests drawn at once, at most about: enough that numpy's own cost per call is small, and few to hold."""

_EPOCH_HOUR: Final = 3 * 24
"""The epoch was a Thursday; weeks here begin on Monday."""

# Relative load by hour of the day, on working days and at weekends.
_OFFICE: Final = (1, 1, 1, 1, 1, 2, 4, 8, 14, 18, 20, 19, 15, 18, 20, 19, 16, 11, 7, 4, 3, 2, 2, 1), 0.15
_EVENING: Final = (5, 3, 2, 1, 1, 1, 2, 4, 5, 6, 6, 7, 9, 8, 7, 7, 8, 10, 13, 17, 20, 20, 16, 9), 1.35
_NIGHT: Final = (20, 20, 18, 18, 16, 12, 6, 3, 2, 2, 2, 2, 3, 2, 2, 2, 2, 2, 3, 4, 6, 10, 15, 18), 0.8
_PROFILES: Final = (_OFFICE, _EVENING, _NIGHT)


@dataclass(frozen=True, slots=True)
class Slice:
    """A stretch of time within one hour, the requests to expect in it, and whose they are."""

    begin_us: int
    end_us: int
    expected: float
    tenant_edges: npt.NDArray[np.float64]  # cumulative shares of the tenants; the last is 1


def load(workload: Workload) -> npt.NDArray[np.float64]:
    """(tenants, hours of the week): each tenant's load as a factor of the mean rate of all. Its mean over hours, added
    up over tenants, is 1."""
    count = len(workload.tenants)
    weights = 1 / np.arange(1, count + 1) ** workload.tenant_skew
    shapes = np.stack([np.roll(_week(number), number // len(_PROFILES) * 5) for number in range(count)])
    shapes = (1 - workload.rhythm) + workload.rhythm * shapes / shapes.mean(axis=1, keepdims=True)
    return np.asarray(shapes * (weights / weights.sum())[:, None])


def _week(number: int) -> npt.NDArray[np.float64]:
    day, weekend = _PROFILES[number % len(_PROFILES)]
    return np.concatenate([np.tile(np.array(day, dtype=float), 5), weekend * np.tile(np.array(day, dtype=float), 2)])


def slices(workload: Workload) -> Iterator[Slice]:
    """Slices from the workload's start on, without end."""
    loads = load(workload)
    begin_us = workload.start_us
    while True:
        hour = begin_us // HOUR_US
        by_tenant = loads[:, (hour + _EPOCH_HOUR) % HOURS]
        per_us = workload.requests_per_second * float(by_tenant.sum()) / 1_000_000
        longest_us = max(1, int(SLICE_REQUESTS / per_us))
        end_us = min((hour + 1) * HOUR_US, begin_us + longest_us)
        edges = np.cumsum(by_tenant)
        yield Slice(begin_us, end_us, per_us * (end_us - begin_us), edges / edges[-1])
        begin_us = end_us
