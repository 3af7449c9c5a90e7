"""What a meter has processed and not committed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from meterhouse.ingest.batch import Forward
from meterhouse.ingest.encode import reject_message, single_message
from meterhouse.ingest.log import USAGE_EVENTS, USAGE_REJECTED, Message
from meterhouse.streams.ledger import Processed
from meterhouse.streams.pipeline import merge_all, without


def events_read(unit: Processed) -> int:
    return sum(unit.after[p].counts.read - unit.before[p].counts.read for p in unit.after)


@dataclass(frozen=True, slots=True)
class Work:
    """What a poll came to."""

    unit: Processed
    forwards: Sequence[Forward]

    @property
    def payload_bytes(self) -> int:
        return sum(len(each.payload) for each in self.unit.rejects) + sum(len(each.payload) for each in self.forwards)


@dataclass(slots=True)
class Buffer:
    """What is processed and not committed, in order."""

    work: list[Work] = field(default_factory=list)
    events: int = 0
    payload_bytes: int = 0
    since_us: int = 0

    def add(self, work: Work, now_us: int) -> None:
        if not self.work:
            self.since_us = now_us
        self.work.append(work)
        self.events += events_read(work.unit)
        self.payload_bytes += work.payload_bytes

    def without(self, partitions: Collection[int]) -> Buffer:
        kept = Buffer()
        for work in self.work:
            if (unit := without(work.unit, partitions)) is not None:
                forwards = [forward for forward in work.forwards if forward.partition not in partitions]
                kept.add(Work(unit, forwards), self.since_us)
        return kept

    def unit(self) -> Processed:
        """All of it as one commit."""
        return merge_all([work.unit for work in self.work])

    def messages(self) -> dict[str, list[Message]]:
        """What goes out to topics before that commit: a crash between the two sends it again, which changes nothing.
        Forwards are then duplicates in their own partition, and a reject's record says its place."""
        forwards = [single_message(each.tenant, each.payload) for work in self.work for each in work.forwards]
        rejected = [reject_message(reject) for work in self.work for reject in work.unit.rejects]
        return {USAGE_EVENTS: forwards, USAGE_REJECTED: rejected}
