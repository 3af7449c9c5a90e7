"""Foreign clients' bodies over HTTP: translated here, before the log, then taken as any other events are."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from meterhouse.api.auth.caller import Caller
from meterhouse.api.clock import now_us
from meterhouse.api.ingest import Ingest
from meterhouse.api.problems import Problem
from meterhouse.api.wiring import House
from meterhouse.ingest.formats import cloudevents, litellm, otlp
from meterhouse.ingest.formats.event_types import LITELLM, OTLP, in_force
from meterhouse.ingest.formats.translate import Stamp, Terms, terms
from meterhouse.ingest.split import MAX_DEPTH, Unparsable, depth, split_exactly
from meterhouse.ingest.validate import Rules, check

Translate = Callable[[bytes, Terms, Stamp], bytes | None]

GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
"""To zlib: a gzip header, and the largest window."""


class ForeignTerms:
    """What translation goes by, worked out once for each version of control data. May be shared between threads."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._newest: tuple[int, Terms] | None = None

    def current(self) -> Terms:
        """Raises ControlUnavailable."""
        snapshot, newest = self._house.control.snapshot(), self._newest
        if newest is None or newest[0] != snapshot.version:
            made = terms(in_force(snapshot.event_types), snapshot.known_tenants, snapshot.models)
            self._newest = newest = snapshot.version, made
        return newest[1]


class ForeignIngest:
    """Takes foreign bodies for one caller. What is refused is kept among the rejects, without its free text."""

    def __init__(self, house: House, ingest: Ingest, terms: ForeignTerms, caller: Caller) -> None:
        self._house, self._ingest, self._terms = house, ingest, terms
        self._view = caller.view
        grants = self._view.grants or ()
        self._tenant = grants[0].tenant if len({grant.tenant for grant in grants}) == 1 else None
        self._application = grants[0].application if len(grants) == 1 else None

    def take_cloudevents(self, body: bytes) -> None:
        """An event or an array of them, of any type. Returns once the log has them. Raises Problem as `Ingest.take`."""
        self._take(body, "cloudevents", cloudevents.translated)

    def take_litellm(self, body: bytes) -> None:
        """An array of LiteLLM's logging payloads, or one. Raises Problem as `Ingest.take`."""
        self._take(body, LITELLM, litellm.translated)

    def take_spans(self, spans: Sequence[otlp.Span]) -> tuple[int, str]:
        """How many of the spans were rejected, and why the first was. Raises Problem: `unavailable`."""
        terms, stamp = self._terms.current(), self._stamp()
        events = [event for span in spans if (event := otlp.translated(span, terms, stamp)) is not None]
        self._house.metrics.http.left_out(OTLP, len(spans) - len(events))
        if events:
            self._append(events)
        rules = Rules(stamp.arrived_us, terms.tenants, self._house.lateness)
        refusals = [refusal.detail for event in events if (refusal := check(event, rules)) is not None]
        return len(refusals), f"{refusals[0]} See GET /v1/rejects." if refusals else ""

    def withhold(self, why: str, size: int) -> Problem:
        """A body that cannot be read may be a prompt: a record that says how long it was stands for it."""
        try:
            self._ingest.take(b"(a body of %d bytes that does not parse, withheld)" % size)
        except Problem as told:
            if told.name != "malformed-body":
                return told
        return Problem("malformed-body", f"{why} That it came is kept among the rejects, and not what it said.")

    def _take(self, body: bytes, format_: str, translate: Translate) -> None:
        try:
            pieces = split_exactly(body)
        except Unparsable as wrong:
            raise self.withhold(str(wrong), len(body)) from None
        terms, stamp = self._terms.current(), self._stamp()
        events = [event for piece in pieces if (event := translate(piece, terms, stamp)) is not None]
        self._house.metrics.http.left_out(format_, len(pieces) - len(events))
        if len(pieces) == 1 and not body.lstrip().startswith(b"["):
            for event in events:
                self._ingest.take(event)
        elif events:
            self._ingest.take(_array(events))

    def _append(self, events: Iterable[bytes]) -> None:
        try:
            self._ingest.take(_array(events))
        except Problem as told:
            if told.name != "log-full":
                raise
            # An exporter drops what is answered with any other status.
            raise Problem("unavailable", told.detail, headers={"Retry-After": "30"}) from None

    def _stamp(self) -> Stamp:
        return Stamp(now_us(), self._tenant, self._application, self._view.sees)


def bounded_json(body: bytes) -> bytes:
    """The body, if its nesting is within what parsers take. Raises Unparsable."""
    if depth(body.decode(errors="replace")) > MAX_DEPTH:
        raise Unparsable(f"The body is nested more than {MAX_DEPTH} deep.")
    return body


def unpacked(body: bytes, limit: int) -> bytes:
    """A gzip body's content, read no further than `limit` bytes. Raises Problem."""
    packed = zlib.decompressobj(GZIP_WINDOW)
    try:
        content = packed.decompress(body, limit + 1)
    except zlib.error as wrong:
        raise Problem("malformed-body", f"The body is not gzip ({wrong}): compress it, or leave it as it is.") from None
    if len(content) > limit:
        raise Problem("too-large", f"A body may have {limit:,} bytes when it is unpacked. Send it in several requests.")
    if not packed.eof or packed.unused_data:
        raise Problem("malformed-body", "The body is not one whole gzip stream: send all of it.")
    return content


def _array(events: Iterable[bytes]) -> bytes:
    return b"[" + b",".join(events) + b"]"
