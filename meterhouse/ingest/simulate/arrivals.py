"""Arrivals: requests, resends, node events and poison as bytes, in the order in which they reach the log."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import numpy as np

from meterhouse.ingest.batch import Reason
from meterhouse.ingest.encode import BATCH_EVENTS, Encoded, single_message, to_messages
from meterhouse.ingest.log import Message
from meterhouse.ingest.simulate import draws
from meterhouse.ingest.simulate.draws import Generator, Requests
from meterhouse.ingest.simulate.payloads import node_payloads, request_payloads, with_other_time
from meterhouse.ingest.simulate.poison import LARGE_ONE_IN, REASONS, poisoned
from meterhouse.ingest.simulate.rhythm import Slice, slices
from meterhouse.ingest.simulate.workload import Workload

LINGER_US: Final = 1_000_000
"""How long a simulated publisher fills its records."""
MAX_FILLING: Final = 20_000
"""Events that `records` holds at once, however many come within a linger: some 10 MB."""


class Arrival(NamedTuple):
    """Bytes that reach the log. `poison`: why they must be rejected; None: a sound event."""

    arrived_us: int
    tenant: str  # the record's key
    payload: bytes
    poison: Reason | None = None


def arrivals(workload: Workload) -> Iterator[Arrival]:
    """The first `workload.events` arrivals, in order of arrival. A late event may arrive after the last of them, and is
    then not among them."""
    rng = np.random.Generator(np.random.PCG64(workload.seed))
    return itertools.islice(_endless(workload, rng), workload.events)


def records(
    arriving: Iterable[Arrival], *, max_events: int = BATCH_EVENTS, linger_us: int = LINGER_US
) -> Iterator[Message]:
    """Arrivals as records for the log: what comes within `linger_us` fills batches of at most `max_events` events of
    one tenant, appended when the last of it came, or the poison among it; poison stands in a record of its own, so that
    it costs only itself. Append times never go back."""
    filling: list[Arrival] = []
    last_us = 0
    for arrival in arriving:
        if filling and (arrival.arrived_us - filling[0].arrived_us > linger_us or len(filling) >= MAX_FILLING):
            yield from _flushed(filling, last_us, max_events)
            filling = []
        last_us = arrival.arrived_us
        if arrival.poison:
            yield single_message(arrival.tenant, arrival.payload, arrival.arrived_us)
        else:
            filling.append(arrival)
    if filling:
        yield from _flushed(filling, last_us, max_events)


def _flushed(filling: list[Arrival], at_us: int, max_events: int) -> Iterator[Message]:
    encoded = (Encoded(arrival.tenant, arrival.payload, at_us) for arrival in filling)
    return to_messages(encoded, max_events=max_events)


def _endless(workload: Workload, rng: Generator) -> Iterator[Arrival]:
    waiting: list[tuple[int, int, Arrival]] = []  # a heap: drawn, but arriving after the slice they were drawn in
    numbers = itertools.count()
    for part in slices(workload):
        ready = []
        for arrival in _drawn(workload, part, rng):
            entry = (arrival.arrived_us, next(numbers), arrival)
            if arrival.arrived_us < part.end_us:
                ready.append(entry)
            else:
                heapq.heappush(waiting, entry)
        # Whatever later slices hold arrives after their begin, so what arrives in this one is complete.
        while waiting and waiting[0][0] < part.end_us:
            ready.append(heapq.heappop(waiting))
        ready.sort()
        for _, _, arrival in ready:
            yield arrival


def _drawn(workload: Workload, part: Slice, rng: Generator) -> Iterator[Arrival]:
    requests = draws.draw_requests(workload, part, rng)
    payloads = request_payloads(workload, requests)
    tenants = [workload.tenants[tenant] for tenant in requests.tenant.tolist()]
    yield from map(Arrival, requests.arrived_us.tolist(), tenants, payloads)
    yield from _resent(workload, requests, payloads, rng)
    yield from _from_nodes(workload, requests, rng)
    yield from _poison(workload, requests, payloads, rng)


def _resent(workload: Workload, requests: Requests, payloads: list[bytes], rng: Generator) -> Iterator[Arrival]:
    chosen = np.flatnonzero(rng.random(len(requests)) < workload.retry_share)
    delay_us = draws.retry_delays(len(chosen), rng)
    other = rng.random(len(chosen)) < workload.retry_other_time_share
    times = draws.time_texts(requests.time_us[chosen] + delay_us)
    arrived_us = (requests.arrived_us[chosen] + delay_us).tolist()
    for number, place in enumerate(chosen.tolist()):
        payload = with_other_time(payloads[place], times[number]) if other[number] else payloads[place]
        yield Arrival(arrived_us[number], workload.tenants[requests.tenant[place]], payload)


def _from_nodes(workload: Workload, requests: Requests, rng: Generator) -> Iterator[Arrival]:
    reported = rng.random(len(requests)) < workload.node_share
    own = np.array(workload.own)[requests.model]
    chosen = np.flatnonzero(reported & own & (requests.status < draws.THROTTLED))
    arrived_us = (requests.time_us[chosen] + draws.network_delays(workload, len(chosen), rng)).tolist()
    payloads = node_payloads(workload, requests, chosen, rng)
    tenants = [workload.tenants[tenant] for tenant in requests.tenant[chosen].tolist()]
    return map(Arrival, arrived_us, tenants, payloads)


def _poison(workload: Workload, requests: Requests, payloads: list[bytes], rng: Generator) -> Iterator[Arrival]:
    """Broken twins of some requests, under ids of their own: the sound ones are not touched by them."""
    chosen = np.flatnonzero(rng.random(len(requests)) < workload.poison_share)
    reasons = rng.integers(0, len(REASONS), len(chosen)).tolist()
    large = rng.random(len(chosen)) * LARGE_ONE_IN < 1
    variants = rng.integers(0, 12, len(chosen)).tolist()
    arrived_us = requests.time_us[chosen] + draws.network_delays(workload, len(chosen), rng)
    ids = draws.uuids(requests.time_us[chosen], rng)
    for number, place in enumerate(chosen.tolist()):
        reason = Reason.TOO_LARGE if large[number] else REASONS[reasons[number]]
        sound = payloads[place].replace(requests.ids[place].encode(), ids[number].encode())
        at_us = int(arrived_us[number])
        yield Arrival(at_us, *poisoned(sound, reason, variants[number], at_us), reason)
