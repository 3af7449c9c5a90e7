"""What all clients of Kafka share: their options, their limits, and how trouble is told."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import structlog
from confluent_kafka import KafkaError, KafkaException

from meterhouse.ingest.log import LogError, LogUnavailable

T = TypeVar("T")

REQUEST_S: Final = 10.0
"""Of one question to the cluster: longer than a broker takes to fail over, shorter than a person's patience."""
TELL_EVERY_S: Final = 30.0
"""The same trouble of one client is logged once in that time: a client tries again many times a second."""

_NO_TOPIC: Final = frozenset(
    {KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_PARTITION}
)
_NO_RIGHT: Final = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
_REFUSED: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_CONFIG,
        KafkaError.INVALID_PARTITIONS,
        KafkaError.INVALID_REPLICATION_FACTOR,
        KafkaError.POLICY_VIOLATION,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.UNSUPPORTED_COMPRESSION_TYPE,
        KafkaError._BAD_MSG,
        KafkaError._BAD_COMPRESSION,
        KafkaError._INVALID_ARG,
    }
)
LASTING: Final = _NO_TOPIC | _NO_RIGHT | _REFUSED
"""Errors that trying again does not cure."""

_log = structlog.get_logger("meterhouse.kafka")


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSettings:
    """How a log's clients behave. `options`: more options of every client, such as `security.protocol`; they may hold
    secrets, so they are never shown."""

    session_timeout_s: float = 6.0  # the least that brokers allow by default: a dead meter is replaced within that
    max_poll_s: float = 120.0  # a meter that does not poll for so long is stuck, and loses its partitions
    append_timeout_s: float = 30.0  # several failovers (5 s each); what is not in the log then is reported
    replication: int = 1
    instance: str | None = None  # a consumer's name in its group, the same after a restart
    options: Mapping[str, str] = field(default_factory=dict, repr=False)


class Trouble:
    """Hears a client's errors, remembers the last one and logs each kind now and then. Of one client."""

    def __init__(self, client: str) -> None:
        self._client = client
        self._quiet_until: dict[int, float] = {}
        self.last: str | None = None
        self.fatal: KafkaError | None = None

    def hear(self, error: KafkaError) -> None:
        self.last = error.str()
        if error.fatal():
            self.fatal = error
        now = time.monotonic()
        code = error.code()
        if now < self._quiet_until.get(code, 0.0):
            return
        self._quiet_until[code] = now + TELL_EVERY_S
        tell = _log.error if error.fatal() or code in LASTING else _log.warning
        tell("trouble with Kafka", client=self._client, code=error.name(), reason=self.last)

    def after(self) -> str:
        """What to add to the message of a failure."""
        return f" (last heard: {self.last})" if self.last else ""


def client_config(bootstrap: str, settings: KafkaSettings, trouble: Trouble) -> dict[str, Any]:
    """The options that all clients have. A client's own come over these."""
    return {
        **settings.options,
        "bootstrap.servers": bootstrap,
        "client.id": "meterhouse",
        "log_level": 0,  # errors come through error_cb; the library's own lines flood stderr when a broker dies
        "error_cb": trouble.hear,
        "topic.metadata.refresh.interval.ms": 5_000,  # new partitions are noticed within that
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1_000,  # a broker is back within seconds: do not wait out the default 10 s
        "socket.keepalive.enable": True,
        "socket.nagle.disable": True,  # a small request must not wait for the answer to the one before it
    }


def log_error(error: KafkaError, doing: str) -> LogError:
    """The error of the port for one of Kafka's, which says what to do."""
    code, said = error.code(), f"{doing}: {error.str()}"
    if code in _NO_TOPIC:
        return LogError(f"{said}; run `meterhouse topics apply` once")
    if code in _NO_RIGHT:
        return LogError(f"{said}; see METERHOUSE_KAFKA_OPTIONS and the cluster's access rules")
    if code in _REFUSED:
        return LogError(f"{said}; trying again does not help")
    return LogUnavailable(f"{said}; try again")


def wrong_options(trouble: KafkaException) -> LogError:
    error = trouble.args[0]
    said = error.str() if isinstance(error, KafkaError) else str(error)
    return LogError(f"Kafka's client does not take its options ({said}): see METERHOUSE_KAFKA_OPTIONS")


def error_of(raised: KafkaException) -> KafkaError:
    error = raised.args[0]
    assert isinstance(error, KafkaError)
    return error


def outcome(future: Future[T], doing: str) -> T:
    """What an admin request gave. Raises LogError, LogUnavailable."""
    try:
        return future.result(2 * REQUEST_S)
    except KafkaException as raised:
        raise log_error(error_of(raised), doing) from raised
    except FutureTimeout:
        raise LogUnavailable(f"{doing}: Kafka does not answer; try again") from None
