"""A real Kafka for tests: an address in METERHOUSE_KAFKA_BOOTSTRAP, or brokers of our own.

The fixture `kafka_bootstrap` is one single-broker cluster for all worker processes of a test run; tests that kill
brokers start a `KafkaCluster` of their own by `own_cluster`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.services.need import skip_or_fail
from tools.kafka.cluster import KafkaCluster, KafkaMissing

ADDRESS = os.environ.get("METERHOUSE_KAFKA_BOOTSTRAP")
"""Read before tests clear the environment of settings."""


STEADY_S = 60.0
"""A broker that nobody kills is not taken for dead while a busy machine lets it wait."""


@contextmanager
def own_cluster(brokers: int = 1, *, steady: bool = False) -> Iterator[KafkaCluster]:
    """Brokers that a test may kill, unless they are to be steady."""
    try:
        cluster = KafkaCluster(brokers, session_s=STEADY_S) if steady else KafkaCluster(brokers)
        with cluster:
            yield cluster
    except KafkaMissing as missing:
        skip_or_fail(f"there is no Kafka here: {missing}")


@pytest.fixture(scope="session")
def kafka_bootstrap() -> Iterator[str]:
    """The address of a broker that nobody kills; topics and groups of other tests are there too, so use new names."""
    if ADDRESS:
        yield ADDRESS
        return
    with own_cluster(steady=True) as cluster:
        yield cluster.bootstrap
