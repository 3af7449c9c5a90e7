"""Bugs to plant, each one that a meter like this could have: what the checks must catch to be worth anything.

A bug is a patch of the product's classes for as long as `planted` lasts. Where a bug needs a kill at a bad moment it
brings that along: `die` is called there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Final, NoReturn
from unittest.mock import patch

import pyarrow as pa

from meterhouse.ingest.batch import KEY, Decoded
from meterhouse.ingest.decode import Decoder
from meterhouse.ingest.event import Lateness
from meterhouse.ingest.log import BUDGET_TOTALS, USAGE_EVENTS, Message
from meterhouse.ingest.sqlite_log import SqliteLog
from meterhouse.streams.budget_totals import BudgetTotal, LayoutMark, read_total
from meterhouse.streams.dedupe import DedupeIndex
from meterhouse.streams.ledger import Position, Processed
from meterhouse.streams.meter import Meter
from meterhouse.warehouse.lake_ledger import LakeLedger
from tests.crash.planted_budgets import BUDGET_BUGS

Die = Callable[[], NoReturn]
Plant = Callable[[ExitStack, Die], None]

EVERY: Final = 5
"""A bug that needs a bad moment has it at every fifth commit."""

_commit = LakeLedger.commit
_decode = Decoder.decode
_append = SqliteLog.append
_revoked = Meter._revoked


def _only_positions(unit: Processed) -> Processed:
    """The move of the positions without what it stands for."""
    return replace(
        unit,
        charges=unit.charges.slice(0, 0),
        node_events=unit.node_events.slice(0, 0),
        minutes=unit.minutes.slice(0, 0),
        hours=unit.hours.slice(0, 0),
        latency=unit.latency.slice(0, 0),
        rejects=[],
    )


def _only_rows(unit: Processed) -> Processed:
    return replace(unit, before={}, after={})


def _rebased(ledger: LakeLedger, unit: Processed) -> Processed:
    """As if it had been read from wherever the positions are now: what a writer does that does not compare."""
    stored = ledger.positions()
    return replace(unit, before={p: stored[p] for p in unit.before})


def _on_commit(stack: ExitStack, bug: Callable[[LakeLedger, Processed], int]) -> None:
    stack.enter_context(patch.object(LakeLedger, "commit", bug))


def _in_two(stack: ExitStack, die: Die, first: Callable[..., Processed], second: Callable[..., Processed]) -> None:
    commits = 0

    def commit(ledger: LakeLedger, unit: Processed) -> int:
        nonlocal commits
        commits += 1
        _commit(ledger, first(unit))
        if commits % EVERY == 0:
            die()
        return _commit(ledger, second(unit))

    _on_commit(stack, commit)


def offset_before_rows(stack: ExitStack, die: Die) -> None:
    _in_two(stack, die, _only_positions, _only_rows)


def rows_before_offset(stack: ExitStack, die: Die) -> None:
    _in_two(stack, die, _only_rows, _only_positions)


def no_fence(stack: ExitStack, _: Die) -> None:
    _on_commit(stack, lambda ledger, unit: _commit(ledger, _rebased(ledger, unit)))


def retry_without_reading_the_position(stack: ExitStack, _: Die) -> None:
    """The answer to a commit is lost now and then; the bug takes it for a failure and commits again."""
    commits = 0

    def commit(ledger: LakeLedger, unit: Processed) -> int:
        nonlocal commits
        commits += 1
        done = _commit(ledger, unit)
        return _commit(ledger, _rebased(ledger, unit)) if commits % EVERY == 0 else done

    _on_commit(stack, commit)


def tail_batch_forgotten_on_revoke(stack: ExitStack, _: Die) -> None:
    """What is still buffered when a partition goes is ticked off, not written."""
    revoking = False

    def revoked(meter: Meter, partitions: frozenset[int]) -> None:
        nonlocal revoking
        meter._settle(block=True)
        revoking = True
        try:
            _revoked(meter, partitions)
        finally:
            revoking = False

    def commit(ledger: LakeLedger, unit: Processed) -> int:
        return _commit(ledger, _only_positions(unit) if revoking else unit)

    stack.enter_context(patch.object(Meter, "_revoked", revoked))
    _on_commit(stack, commit)


def index_not_rebuilt_on_assignment(stack: ExitStack, _: Die) -> None:
    stack.enter_context(patch.object(LakeLedger, "accepted_keys", lambda *_, **__: iter(())))


def dedupe_within_a_batch_only(stack: ExitStack, _: Die) -> None:
    def keys_of_before(index: DedupeIndex, halves: Any, hours: Any) -> Any:
        return _filter(DedupeIndex(), halves, hours)

    _filter = DedupeIndex.filter
    stack.enter_context(patch.object(DedupeIndex, "filter", keys_of_before))


def _on_decoded(stack: ExitStack, bug: Callable[[Decoded], Decoded]) -> None:
    stack.enter_context(
        patch.object(Decoder, "decode", lambda self, records, **kwargs: bug(_decode(self, records, **kwargs)))
    )


def _keyed(decoded: Decoded, key_of: Callable[[dict[str, Any]], str]) -> Decoded:
    """With another dedupe key."""
    events = decoded.events
    keys = [hashlib.md5(key_of(row).encode(), usedforsecurity=False).digest() for row in events.to_pylist()]
    place = events.schema.get_field_index("key")
    return replace(decoded, events=events.set_column(place, events.schema.field(place), pa.array(keys, KEY)))


def dedupe_by_time(stack: ExitStack, _: Die) -> None:
    _on_decoded(stack, lambda decoded: _keyed(decoded, lambda row: f"{row['key']!r}{row['time']}"))


def dedupe_by_content(stack: ExitStack, _: Die) -> None:
    """Two requests of the same second and shape are one."""
    names = ("tenant", "source", "type", "status", "application", "model")
    _on_decoded(stack, lambda decoded: _keyed(decoded, lambda row: "|".join(str(row[name]) for name in names)))


def rejects_dropped(stack: ExitStack, _: Die) -> None:
    _on_commit(stack, lambda ledger, unit: _commit(ledger, replace(unit, rejects=[])))


def _on_append(stack: ExitStack, topic: str, bug: Callable[[Sequence[Message]], Sequence[Message]]) -> None:
    """Of what a meter appends: its consumers' log is asked, publishers append to the log beneath."""
    stack.enter_context(
        patch(
            "tests.crash.stage.appended",
            lambda log, name, messages: _append(log, name, bug(messages) if name == topic else messages),
        )
    )


def forward_not_published(stack: ExitStack, _: Die) -> None:
    _on_append(stack, USAGE_EVENTS, lambda _: ())


def forward_billed_where_it_stood(stack: ExitStack, _: Die) -> None:
    """Whoever's key it has: a tenant's events are then in two partitions, whose indexes know nothing of each other."""

    def decode(self: Decoder, records: Any, **kwargs: Any) -> Decoded:
        homes = [replace(run, keys=[_claimed(value, key) for value, key in zip(run.values, run.keys, strict=True)])
                 for run in records]  # fmt: skip
        return _decode(self, homes, **{**kwargs, "partitions": None})

    stack.enter_context(patch.object(Decoder, "decode", decode))


def _claimed(value: bytes | None, key: bytes | None) -> bytes | None:
    """The tenant that a single event names."""
    _, found, rest = (value or b"").partition(b'"subject": "')
    return rest.split(b'"')[0] if found and (value or b"").startswith(b"{") else key


def totals_at_a_wrong_offset(stack: ExitStack, _: Die) -> None:
    def earlier(messages: Sequence[Message]) -> list[Message]:
        told = [(read_total(message.key or b"", message.value or b""), message) for message in messages]
        return [
            replace(message, value=replace(said, offset=max(0, said.offset - 1)).to_json())
            if isinstance(said, BudgetTotal)
            else message
            for said, message in told
        ]

    _on_append(stack, BUDGET_TOTALS, earlier)


def totals_start_from_nothing(stack: ExitStack, _: Die) -> None:
    spend = LakeLedger.spend
    stack.enter_context(patch.object(LakeLedger, "spend", lambda self, edges: spend(self, edges).slice(0, 0)))


def totals_given_up(stack: ExitStack, _: Die) -> None:
    """After the first few: the topic was full once, and nobody tried again."""
    calls = 0

    def first_ones(messages: Sequence[Message]) -> Sequence[Message]:
        nonlocal calls
        calls += 1
        return messages if calls <= EVERY else ()

    _on_append(stack, BUDGET_TOTALS, first_ones)


def late_events_given_up(stack: ExitStack, _: Die) -> None:
    few_minutes = Lateness(behind_us=30 * 60 * 1_000_000)
    stack.enter_context(
        patch.object(
            Decoder,
            "decode",
            lambda self, records, **kwargs: _decode(self, records, **{**kwargs, "lateness": few_minutes}),
        )
    )


def rollup_written_twice(stack: ExitStack, _: Die) -> None:
    """Now and then a roll-up comes in again beside its charges."""
    commits = 0

    def commit(ledger: LakeLedger, unit: Processed) -> int:
        nonlocal commits
        commits += 1
        twice = replace(unit, minutes=pa.concat_tables([unit.minutes, unit.minutes]))
        return _commit(ledger, twice if commits % EVERY == 0 else unit)

    _on_commit(stack, commit)


def read_on_one_too_far(stack: ExitStack, _: Die) -> None:
    """A partition that changes hands is read on from the record after the next."""
    assigned = Meter._assigned

    def beyond(meter: Meter, partitions: frozenset[int]) -> Mapping[int, int]:
        return {p: offset + (offset > 0) for p, offset in assigned(meter, partitions).items()}

    stack.enter_context(patch.object(Meter, "_assigned", beyond))


def counts_start_anew(stack: ExitStack, _: Die) -> None:
    """A meter counts from its own start, not from the partition's."""
    positions = LakeLedger.positions

    def bare(ledger: LakeLedger) -> dict[int, Position]:
        return {p: replace(stored, counts=type(stored.counts)()) for p, stored in positions(ledger).items()}

    stack.enter_context(patch.object(LakeLedger, "positions", bare))


def totals_of_a_former_layout_stand(stack: ExitStack, _: Die) -> None:
    stack.enter_context(patch.object(LayoutMark, "messages", lambda *_: []))


def growth_without_a_fence(stack: ExitStack, _: Die) -> None:
    """What was read before the topic grew is committed after it."""
    seed = LakeLedger.seed

    def seeded(ledger: LakeLedger, partitions: int) -> int:
        layout = seed(ledger, partitions)
        ledger._layout = None
        return layout

    stack.enter_context(patch.object(LakeLedger, "seed", seeded))


def keys_left_behind_when_the_topic_grows(stack: ExitStack, _: Die) -> None:
    stack.enter_context(patch.object(LakeLedger, "_moved_to", lambda *_: []))


BUGS: Final[Mapping[str, Plant]] = {
    plant.__name__: plant
    for plant in (
        offset_before_rows,
        rows_before_offset,
        no_fence,
        retry_without_reading_the_position,
        tail_batch_forgotten_on_revoke,
        index_not_rebuilt_on_assignment,
        dedupe_within_a_batch_only,
        dedupe_by_time,
        dedupe_by_content,
        rejects_dropped,
        forward_not_published,
        forward_billed_where_it_stood,
        totals_at_a_wrong_offset,
        totals_start_from_nothing,
        totals_given_up,
        late_events_given_up,
        rollup_written_twice,
        read_on_one_too_far,
        counts_start_anew,
        totals_of_a_former_layout_stand,
        growth_without_a_fence,
        keys_left_behind_when_the_topic_grows,
    )
} | BUDGET_BUGS


@contextmanager
def planted(name: str, die: Die) -> Iterator[None]:
    """The product with a bug."""
    with ExitStack() as stack:
        BUGS[name](stack, die)
        yield
