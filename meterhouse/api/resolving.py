"""Rejects, dealt with: sent again as they are, sent repaired, or discarded. Of the log only `append` is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from meterhouse.api.clock import now_us
from meterhouse.api.figures import place_of
from meterhouse.api.wiring import House
from meterhouse.ingest.encode import single_message
from meterhouse.ingest.log import USAGE_EVENTS, Message
from meterhouse.ingest.split import Unparsable, split
from meterhouse.ingest.validate import Rules, check
from meterhouse.warehouse.reject_resolutions import Action, RejectPlace, Resolution
from meterhouse.warehouse.reports.errors import ReportError
from meterhouse.warehouse.reports.rejects import RejectFilter, RejectLine, rejects

_RUN: Final = 500
"""Rejects whose intents are one transaction and whose bytes are one append: mostly some 500 KB."""

AGAIN: Final = "would be rejected again: "
"""How an outcome begins of what is left for the reason that follows."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a reject: `done`, or why not."""

    place: RejectPlace
    done: bool
    told: str


def parse_place(text: str) -> RejectPlace:
    """`topic/partition/offset/index`; without a topic: usage.events. Raises ReportError."""
    *topic, partition, offset, index = ["", "", *text.split("/")][-4:] if text.count("/") in {2, 3} else [""] * 4
    try:
        return RejectPlace(topic[0] or USAGE_EVENTS, int(partition), int(offset), int(index))
    except ValueError:
        raise ReportError(
            f"{text!r} is no place: write partition/offset/index as `meterhouse rejects` shows it"
        ) from None


class RejectDesk:
    """Deals with the rejects of a house, for one person (`by`)."""

    def __init__(self, house: House, by: str) -> None:
        self._house = house
        self._by = by

    def find(self, place: RejectPlace) -> RejectLine:
        """Raises ReportError: nothing is rejected there."""
        found = rejects(self._house.lake, RejectFilter(at=place), None, 1).lines
        if not found:
            raise ReportError(f"nothing was rejected at {place}")
        return found[0]

    def requeue(self, lines: Sequence[RejectLine], *, dry_run: bool) -> list[Outcome]:
        """Sends the kept bytes of each again, unchanged, where they would be taken now."""
        told: list[Outcome] = []
        for start in range(0, len(lines), _RUN):
            told += self._requeue(lines[start : start + _RUN], dry_run)
        return told

    def repair(self, line: RejectLine, payload: bytes, note: str | None) -> Outcome:
        """Sends `payload`, a whole event, instead of what was rejected. Raises ReportError: it would be refused too."""
        messages = self._messages(payload)
        if isinstance(messages, str):
            raise ReportError(f"the repaired event would be rejected again, nothing was sent: {messages}")
        if len(messages) != 1:
            raise ReportError("a repair is one event: give one JSON object")
        wanted = self._wanted(line, "repair", note, payload)
        if refused := self._intend([wanted]):
            return refused[0]
        return self._send([wanted], messages)[0]

    def discard(self, lines: Sequence[RejectLine], note: str) -> list[Outcome]:
        """Marks each as not to be billed."""
        wanted = [self._wanted(line, "discard", note) for line in lines]
        refused = {each.place: each for each in self._intend(wanted)}
        mine = [each.place for each in wanted if each.place not in refused]
        self._house.resolutions.finish(mine)
        return [refused.get(each.place) or Outcome(each.place, True, "discarded") for each in wanted]

    def _requeue(self, lines: Sequence[RejectLine], dry_run: bool) -> list[Outcome]:
        outcomes: dict[RejectPlace, Outcome] = {}
        wanted: list[Resolution] = []
        messages: dict[RejectPlace, list[Message]] = {}
        for line in lines:
            place, judged = place_of(line), self._messages(line.payload)
            if isinstance(judged, str):
                outcomes[place] = Outcome(place, False, f"{AGAIN}{judged}")
            else:
                messages[place] = judged
                wanted.append(self._wanted(line, "requeue", None))
        if dry_run:
            stored = self._house.resolutions.of(messages)
            refused = [_refused(stored[each.place], each) for each in wanted if each.place in stored]
            would = {each.place: Outcome(each.place, True, "would be sent") for each in wanted}
            outcomes = would | outcomes | {each.place: each for each in refused if each is not None}
        else:
            outcomes |= {each.place: each for each in self._intend(wanted)}
            mine = [each for each in wanted if each.place not in outcomes]
            sent = self._send(mine, [message for each in mine for message in messages[each.place]])
            outcomes |= {each.place: each for each in sent}
        return [outcomes[place_of(line)] for line in lines]

    def _messages(self, payload: bytes) -> list[Message] | str:
        """The records that carry these bytes, one per event; or why an event in them would be rejected."""
        snapshot = self._house.control.snapshot()
        rules = Rules(now_us(), snapshot.known_tenants, self._house.lateness)
        try:
            events = split(payload)
        except Unparsable as wrong:
            return str(wrong)
        for _, event in events:
            if refusal := check(event, rules):
                return refusal.detail
        return [single_message(tenant, event) for tenant, event in events] or "There is no event in it."

    def _wanted(self, line: RejectLine, action: Action, note: str | None, sent: bytes | None = None) -> Resolution:
        return Resolution(place_of(line), action, now_us(), self._by, note, sent=sent)

    def _intend(self, wanted: Sequence[Resolution]) -> list[Outcome]:
        """Records intents; returns those that may not go on, each with its reason."""
        stored = self._house.resolutions.intend(wanted)
        return [refused for each in wanted if (refused := _refused(stored[each.place], each)) is not None]

    def _send(self, wanted: Sequence[Resolution], messages: Sequence[Message]) -> list[Outcome]:
        if not wanted:
            return []
        self._house.log.append(USAGE_EVENTS, list(messages))
        self._house.resolutions.finish([each.place for each in wanted])
        return [Outcome(each.place, True, "sent again" if each.action == "requeue" else "sent") for each in wanted]


def _refused(stored: Resolution, wanted: Resolution) -> Outcome | None:
    """Why `wanted` may not go on where `stored` stands; None: it may."""
    if stored.state == "done":
        return Outcome(wanted.place, False, f"nothing to do: {stored.action} by {stored.by} is done")
    if (stored.action, stored.sent) != (wanted.action, wanted.sent):
        # What was begun may have been sent, and other bytes may be another event: both would be billed.
        return Outcome(
            wanted.place, False, f"a {stored.action} by {stored.by} was begun: run the same again to finish it"
        )
    return None
