"""Serves `/metrics` of a process that serves nothing else, where METERHOUSE_METRICS_PORT asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from meterhouse.api.wiring import House

_log = structlog.get_logger("meterhouse.metrics")


class MetricsError(Exception):
    """The address for /metrics cannot be bound; the message says what to do."""


@contextmanager
def serving_metrics(house: House) -> Iterator[None]:
    """Serves the metrics of a house's workers while the context lasts; does nothing where no port is set.

    Raises MetricsError.
    """
    settings = house.settings
    if settings.metrics_port is None:
        yield
        return
    from prometheus_client import start_http_server

    try:
        server, thread = start_http_server(
            settings.metrics_port, settings.metrics_host, registry=house.metrics.registry
        )
    except OSError as taken:
        raise MetricsError(
            f"cannot serve metrics on {settings.metrics_host}:{settings.metrics_port} ({taken.strerror}): set"
            " METERHOUSE_METRICS_PORT to a free port, 0 for any"
        ) from taken
    _log.info("metrics served", host=settings.metrics_host, port=server.server_port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
