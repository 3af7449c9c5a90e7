"""A typed client of Meterhouse's HTTP API.

    with Meterhouse("https://meterhouse.example", key="...") as meterhouse:
        meterhouse.publish(events)
        bill = meterhouse.chargeback("2026-11-01", "2026-12-01", group_by=["tenant", "model"])

Money is Decimal, times are aware datetimes. What the server refuses is raised as the problem that it answers with.
"""

from meterhouse.client.client import Meterhouse
from meterhouse.client.errors import (
    BadAnswer,
    Conflict,
    Forbidden,
    InvalidRequest,
    LogFull,
    MeterhouseError,
    NotFound,
    Problem,
    RateLimited,
    Refused,
    ServerFailed,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unreachable,
)
from meterhouse.client.key_shapes import Grant, NewKey
from meterhouse.client.retries import Patience
from meterhouse.client.shapes import AdmissionRequest, NewSilence

__all__ = [
    "AdmissionRequest",
    "BadAnswer",
    "Conflict",
    "Forbidden",
    "Grant",
    "InvalidRequest",
    "LogFull",
    "Meterhouse",
    "MeterhouseError",
    "NewKey",
    "NewSilence",
    "NotFound",
    "Patience",
    "Problem",
    "RateLimited",
    "Refused",
    "ServerFailed",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "Unreachable",
]
