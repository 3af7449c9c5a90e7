"""Reports page by page: all pages of a listing are of one lake snapshot, and say one `as_of`.

The first page reads the lake as it is, like any report. Where there is more, it begins a listing, and `next` is a
token: the listing's name, where the page ended, and a signature by the listing's own key. A page after it is read from
the listing's snapshot, by whoever asks: the token opens nothing that the one who shows it does not see.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from meterhouse.api.clock import now_us
from meterhouse.warehouse.books import Books, SeenBooks
from meterhouse.warehouse.lake import Lake, SnapshotExpired
from meterhouse.warehouse.listings import LASTS_US, Listing, Listings
from meterhouse.warehouse.reports.as_of import Committed, Freshness, Positions
from meterhouse.warehouse.reports.errors import ReportError
from meterhouse.warehouse.view import View

MAX_PAGE: Final = 10_000
"""Lines of one page: some 5 MB of JSON, which a program takes at once and a person does not read."""
MAX_TOKEN: Final = 300
"""Characters; they have some 80."""

_ID_BYTES: Final = 12
_MAC_BYTES: Final = 16

Json = dict[str, Any]
Reached = tuple[int, ...]
"""Where a page ended, as its report counts."""


class ListingGone(Exception):
    """The listing of this token is over."""

    def __init__(self, why: str) -> None:
        super().__init__(f"{why}: begin anew, without `after`")


@dataclass(frozen=True, slots=True)
class Page:
    """What part of a report is asked for."""

    limit: int
    after: str | None = None  # `next` of the page before


@dataclass(frozen=True, slots=True)
class Standing:
    """What a page is read from."""

    books: Books
    freshness: Freshness
    after: Reached | None  # None: the first page
    limit: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A report and what it was asked: the pages of a listing are asked the same."""

    query: Sequence[object]
    control_version: int | None  # None: no edit of control data changes it

    def digest(self, view: View) -> str:
        return _digest(repr((tuple(self.query), view)))


class Pages:
    """Pages of reports on this lake. May be shared between threads."""

    def __init__(self, lake: Lake, listings: Listings) -> None:
        self._lake, self._listings = lake, listings

    def page(
        self,
        asked: Asked,
        page: Page,
        view: View,
        fresh: Callable[[], Freshness],
        read: Callable[[Standing], tuple[Json, Reached | None]],
    ) -> Json:
        """The page as JSON with `next`. `read` reads it from what it is given: the report's JSON, and where it ended
        (None: there is no more). Raises ReportError (no token of this query), ListingGone."""
        listing, after = None, None
        if page.after is None:
            freshness = fresh()
        else:
            listing, after = self._known(page.after, asked, view)
            freshness = _freshness(listing.freshness)
        assert freshness.positions is not None, "pages need the positions of their snapshot"
        books = SeenBooks(self._lake, view, freshness.positions.snapshot)
        try:
            document, ended = read(Standing(books, freshness, after, page.limit))
        except SnapshotExpired:
            raise ListingGone("the lake's snapshot of this listing is no longer kept") from None
        document["next"] = None
        if ended is not None:
            listing = listing or self._begin(asked, view, freshness)
            document["next"] = token_of(listing, ended)
        return document

    def _known(self, token: str, asked: Asked, view: View) -> tuple[Listing, Reached]:
        id_, mac, place = _parts(token)
        listing = self._listings.find(id_)
        if listing is None or not hmac.compare_digest(mac, _mac(listing, place)):
            raise _not_ours()
        if listing.bound != asked.digest(view):
            raise ReportError("this page token is of another query: change only `limit` and the form between pages")
        if listing.control_version not in (None, asked.control_version):
            raise ListingGone("control data changed since the first page, and the groups with it")
        if not self._listings.go_on(listing, now_us()):
            raise ListingGone(f"the last page of this listing was read more than {LASTS_US // 60_000_000} minutes ago")
        return listing, tuple(json.loads(place))

    def _begin(self, asked: Asked, view: View, freshness: Freshness) -> Listing:
        assert freshness.positions is not None
        listing = Listing(
            holder=_digest(repr(view)),
            bound=asked.digest(view),
            lake_snapshot=freshness.positions.snapshot,
            control_version=asked.control_version,
            freshness=asdict(freshness),
        )
        self._listings.begin(listing, freshness.read_at_us)
        return listing


def token_of(listing: Listing, place: Reached) -> str:
    """Opaque to whoever gets it, and tells nothing but where a page of theirs ended."""
    said = json.dumps(place, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(listing.id + _mac(listing, said) + said).rstrip(b"=").decode()


def _parts(token: str) -> tuple[bytes, bytes, bytes]:
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise _not_ours() from None
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != token:  # bits that decoding drops
        raise _not_ours()
    head = _ID_BYTES + _MAC_BYTES
    if len(token) > MAX_TOKEN or len(raw) <= head:
        raise _not_ours()
    return raw[:_ID_BYTES], raw[_ID_BYTES:head], raw[head:]


def _not_ours() -> ReportError:
    return ReportError("this is no page token: send back `next` of the page before, unchanged")


def _mac(listing: Listing, place: bytes) -> bytes:
    return hmac.digest(listing.key, place, "sha256")[:_MAC_BYTES]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _freshness(stored: Any) -> Freshness:
    """The inverse of `asdict`, after JSON made texts of its keys."""
    positions = stored["positions"]
    return Freshness(
        stored["read_at_us"],
        {int(partition): offset for partition, offset in stored["end_offsets"].items()},
        {int(partition): at_us for partition, at_us in stored["waiting_since_us"].items()},
        Positions(positions["snapshot"], tuple(Committed(**each) for each in positions["committed"])),
    )
