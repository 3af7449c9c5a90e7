"""The reports of a house as the contract's JSON: one way for the command line and the HTTP API."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

from meterhouse.api.alert_desk import NoSuch
from meterhouse.api.clock import now_us
from meterhouse.api.log_json import newest_totals, record_json
from meterhouse.api.moment import Moment
from meterhouse.api.paging import Asked, Page, Pages, Reached, Standing
from meterhouse.api.rate_cards import rate_cards_json
from meterhouse.api.resolutions import resolution_json
from meterhouse.api.wiring import House
from meterhouse.ingest.log import USAGE_EVENTS
from meterhouse.streams.control import EMPTY, Snapshot
from meterhouse.warehouse.books import Books, OneRead, SeenBooks, look_ahead
from meterhouse.warehouse.lake_reading import reading
from meterhouse.warehouse.reject_resolutions import RejectPlace, Resolution
from meterhouse.warehouse.reports.as_of import Freshness, KeptPositions
from meterhouse.warehouse.reports.budgets import budgets, with_limit
from meterhouse.warehouse.reports.burn_down import burn_down
from meterhouse.warehouse.reports.change_json import (
    comparison_json,
    explanation_json,
    forecasts_json,
    org_tree_json,
)
from meterhouse.warehouse.reports.chargeback import Chargeback, chargeback, default_range
from meterhouse.warehouse.reports.charges import ChargePlace, Wanted, charge_at, charges
from meterhouse.warehouse.reports.comparison import comparison, explanation
from meterhouse.warehouse.reports.focus import FocusExport, focus
from meterhouse.warehouse.reports.focus_query import BillingAccount, FocusQuery
from meterhouse.warehouse.reports.forecasts import forecasts
from meterhouse.warehouse.reports.groups import Filters, Selection
from meterhouse.warehouse.reports.latencies import Step, latencies
from meterhouse.warehouse.reports.ledger import ledger
from meterhouse.warehouse.reports.org_tree import org_tree
from meterhouse.warehouse.reports.reconciliation import reconciliation
from meterhouse.warehouse.reports.reconciliation_json import reconciled_requests_json, reconciliation_json
from meterhouse.warehouse.reports.reconciliation_requests import RequestPlace, WantedRequests, reconciled_requests
from meterhouse.warehouse.reports.rejects import Place, RejectFilter, RejectLine, Rejects, rejects
from meterhouse.warehouse.reports.slo import slo
from meterhouse.warehouse.reports.to_json import charge_json, to_json
from meterhouse.warehouse.reports.usage import Every, Usage, usage
from meterhouse.warehouse.verify import verify
from meterhouse.warehouse.view import View

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Span:
    """The range that was asked for, microseconds; None: not given."""

    from_us: int | None = None
    to_us: int | None = None

    def or_month(self, now: int) -> tuple[int, int]:
        """Open ends are those of the current month in UTC."""
        start, end = default_range(now)
        return (
            start if self.from_us is None else self.from_us,
            end if self.to_us is None else self.to_us,
        )

    def or_none(self, now: int) -> tuple[int, int] | None:
        """None when neither end was given; an open end is the month's."""
        return None if self.from_us is None and self.to_us is None else self.or_month(now)


def names_of(text: str | None) -> tuple[str, ...]:
    """A list as one option or parameter: `tenant,model`."""
    return tuple(name.strip() for name in text.split(",") if name.strip()) if text else ()


@dataclass(slots=True)
class _Kept:
    """What is worth keeping between reports, of all that is there."""

    positions: KeptPositions = field(default_factory=KeptPositions)
    carded: Snapshot = EMPTY
    looked_at: int | None = None  # the last snapshot that was looked at ahead


class Reports:
    """Every figure that leaves the house comes from here, cut to what `view` sees. May be shared between threads."""

    def __init__(
        self, house: House, view: View, kept: _Kept | None = None, read: tuple[Books, Freshness] | None = None
    ) -> None:
        self._house = house
        self._view = view
        self._kept = kept or _Kept()
        self._read = read

    def seen_by(self, view: View) -> Reports:
        """The same reports for someone else."""
        return Reports(self._house, view, self._kept)

    @property
    def _books(self) -> SeenBooks:
        return SeenBooks(self._house.lake, self._view, sums=self._house.sums)

    @property
    def _control(self) -> Snapshot:
        return self._view.cut(self._house.control.snapshot())

    def chargeback(self, span: Span, group_by: Sequence[str], filters: Filters, page: Page | None = None) -> Json:
        """All lines, or a page of them."""
        control = self._with_every_card()

        def read(books: Books, fresh: Freshness) -> Chargeback:
            selection = Selection(*span.or_month(fresh.read_at_us), filters)
            return chargeback(books, control, selection, group_by, fresh)

        return self._lines(read, self._asked("chargeback", span, filters, group_by), page)

    def usage(
        self, span: Span, every: Every, group_by: Sequence[str], filters: Filters, page: Page | None = None
    ) -> Json:
        """All lines, or a page of them."""
        control = self._control

        def read(books: Books, fresh: Freshness) -> Usage:
            selection = Selection(*span.or_month(fresh.read_at_us), filters)
            return usage(books, control, selection, group_by, every, fresh)

        return self._lines(read, self._asked(f"usage {every}", span, filters, group_by), page)

    def charges(self, span: Span, filters: Filters, kind: str | None, page: Page) -> Json:
        """A page of the charges behind a chargeback's line."""
        control = self._with_every_card()

        def read(at: Standing) -> tuple[Json, Reached | None]:
            selection = Selection(*span.or_month(at.freshness.read_at_us), filters)
            after = ChargePlace(*at.after) if at.after else None
            report = charges(at.books, control, Wanted(selection, kind, after, at.limit), at.freshness)
            return to_json(report), report.next

        return self._pages.page(self._asked(f"charges {kind}", span, filters), page, self._view, self.freshness, read)

    def charge(self, partition: int, offset: int, index: int) -> Json:
        """One charge and where its record is. Raises NoSuch: there is none, or it is not seen."""
        control = self._with_every_card()
        found = charge_at(self._books, control, partition, offset, index)
        if found is None:
            raise NoSuch("There is no such charge, or retention removed it. `GET /v1/charges` lists them.")
        return {
            "currency": control.currency,
            "charge": charge_json(found),
            "record": record_json(self._house.log, found),
        }

    def _lines(self, read: Callable[[Books, Freshness], Chargeback | Usage], asked: Asked, page: Page | None) -> Json:
        if page is None:
            with self._reading() as (books, fresh):
                return to_json(read(books, fresh))

        def cut(at: Standing) -> tuple[Json, Reached | None]:
            # In one snapshot the lines are the same at each page, so their number is a place. That all are worked out
            # for each page is what checks them against the total.
            report: Any = read(at.books, at.freshness)
            first = at.after[0] if at.after else 0
            last = first + at.limit
            part = replace(report, lines=report.lines[first:last])
            return to_json(part), (last,) if last < len(report.lines) else None

        return self._pages.page(asked, page, self._view, self.freshness, cut)

    def _asked(self, what: str, span: Span, filters: Filters, group_by: Sequence[str] = ()) -> Asked:
        by_place = {"org_unit", "cost_center"} & {*group_by, *filters}
        query = (what, span, tuple(group_by), sorted((name, tuple(values)) for name, values in filters.items()))
        return Asked(query, self._control.version if by_place else None)

    @property
    def _pages(self) -> Pages:
        return Pages(self._house.lake, self._house.listings)

    @contextmanager
    def at_once(self) -> Iterator[Reports]:
        """These reports while the context lasts, all of one moment: what is shown side by side adds up, and each spares
        a read transaction of its own. One thread at a time."""
        with self._reading(begun=True) as read:
            yield Reports(self._house, self._view, self._kept, read)

    @contextmanager
    def moment(self) -> Iterator[Moment]:
        """For who asks `warehouse.reports` themselves, while the context lasts: a read transaction."""
        with self._reading(begun=True) as (books, fresh):
            yield Moment(books, self._with_every_card(), fresh)

    def focus(self, span: Span, filters: Filters) -> AbstractContextManager[FocusExport]:
        """A FOCUS export, read while the context lasts. Without a range: the current month (UTC)."""
        fresh, settings = self.freshness(), self._house.settings
        selection = Selection(*span.or_month(fresh.read_at_us), filters)
        account = BillingAccount(settings.billing_account, settings.billing_account_name)
        cards = self._with_every_card().rate_cards
        return focus(self._books, FocusQuery(self._control, cards, account, selection), fresh)

    def slo(self, span: Span) -> Json:
        with self._reading() as (books, fresh):
            between = span.or_none(fresh.read_at_us)
            at_us = between[1] if between else fresh.read_at_us
            return to_json(slo(books, self._control, at_us, between, fresh))

    def budgets(self, span: Span) -> Json:
        with self._reading() as (books, fresh):
            between = span.or_none(fresh.read_at_us)
            return to_json(budgets(books, self._control, fresh.read_at_us, between, fresh))

    def budget_if(self, budget_id: str, limit: str) -> Json:
        """What `budgets` would say of one with another limit; nothing is kept. `limit`: in the budget's unit. Raises
        NoSuch, and ReportError where the limit is none."""
        control = self._control
        found = next((budget for budget in control.budgets if budget.id == budget_id), None)
        if found is None:
            raise NoSuch("There is no such budget. `GET /v1/budgets` lists them.")
        supposed = replace(control, budgets=(with_limit(found, limit),))
        with self._reading() as (books, fresh):
            [line] = to_json(budgets(books, supposed, fresh.read_at_us, None, fresh))["budgets"]
        return {"budget": line}

    def burn_down(self, objective_id: str, span: Span) -> Json:
        """Of an objective's window that ends now, or of the range. Raises NoSuch."""
        control = self._control
        found = next((objective for objective in control.objectives if objective.id == objective_id), None)
        if found is None:
            raise NoSuch("There is no such objective. `GET /v1/slo` lists them.")
        with self._reading() as (books, fresh):
            between = span.or_none(fresh.read_at_us)
            return to_json(burn_down(books, control, found, fresh.read_at_us, between, fresh))

    def latencies(self, span: Span, group_by: Sequence[str], every: Step, filters: Filters) -> Json:
        with self._reading() as (books, fresh):
            selection = Selection(*span.or_month(fresh.read_at_us), filters)
            return to_json(latencies(books, selection, group_by, every, fresh))

    def org_tree(self, span: Span, filters: Filters) -> Json:
        with self._reading() as (books, fresh):
            selection = Selection(*span.or_month(fresh.read_at_us), filters)
            return org_tree_json(org_tree(books, self._with_every_card(), selection, fresh))

    def comparison(self, span: Span, group_by: Sequence[str], filters: Filters) -> Json:
        with self._reading() as (books, fresh):
            selection = Selection(*span.or_month(fresh.read_at_us), filters)
            return comparison_json(comparison(books, self._with_every_card(), selection, group_by, fresh))

    def explanation(self, span: Span, filters: Filters) -> Json:
        with self._reading() as (books, fresh):
            selection = Selection(*span.or_month(fresh.read_at_us), filters)
            return explanation_json(explanation(books, self._with_every_card(), selection, fresh))

    def forecast(self, span: Span, group_by: Sequence[str], filters: Filters) -> Json:
        with self._reading() as (books, fresh):
            selection = Selection(*span.or_month(fresh.read_at_us), filters)
            snapshot = self._with_every_card()
            return forecasts_json(forecasts(books, snapshot, selection, group_by, fresh.read_at_us, fresh))

    def reconciliation(self, span: Span, filters: Filters) -> Json:
        """Of tenants that are seen whole: nodes do not know applications, so of a part of one nothing could be told."""
        with self.seen_by(self._view.only_whole())._reading() as (books, fresh):
            selection = Selection(*span.or_month(fresh.read_at_us), filters)
            return reconciliation_json(reconciliation(books, selection, self._house.settings.reconciliation, fresh))

    def reconciled_requests(self, span: Span, filters: Filters, kind: str | None, page: Page) -> Json:
        """A page of the requests behind `reconciliation`: of one kind, or all gaps."""
        terms = self._house.settings.reconciliation

        def read(at: Standing) -> tuple[Json, Reached | None]:
            selection = Selection(*span.or_month(at.freshness.read_at_us), filters)
            after = RequestPlace(*at.after) if at.after else None
            report = reconciled_requests(
                at.books, WantedRequests(selection, kind, after, at.limit), terms, at.freshness
            )
            return reconciled_requests_json(report), report.next

        asked = self._asked(f"reconciled requests {kind}", span, filters)
        return self._pages.page(asked, page, self._view.only_whole(), self.freshness, read)

    def rejects(self, matching: RejectFilter, after: str | None, limit: int, *, resolved: bool = False) -> Json:
        """A page of `limit` rejects, each with what was done about it; those that are done with only if `resolved`."""
        page, made = self._rejects(matching, None if after is None else Place.from_token(after), limit, resolved)
        document = to_json(page)
        for line, shown in zip(page.lines, document["rejects"], strict=True):
            shown.update(resolution_json(made.get(place_of(line))))
        return document

    def reject(self, place: RejectPlace) -> Json:
        """One of them. Raises NoSuch: nothing was rejected there, or it is not seen."""
        with self._reading() as (books, fresh):
            page = rejects(books, RejectFilter(at=place), None, 1, fresh)
        if not page.lines:
            raise NoSuch("Nothing was rejected there. `GET /v1/rejects` lists what was.")
        made = self._house.resolutions.of([place])
        return {**to_json(page)["rejects"][0], **resolution_json(made.get(place))}

    def open_rejects(self, matching: RejectFilter, limit: int) -> Sequence[RejectLine]:
        """The newest `limit` rejects that match and are not done with."""
        return self._rejects(matching, None, limit, False)[0].lines

    def _rejects(
        self, matching: RejectFilter, place: Place | None, limit: int, resolved: bool
    ) -> tuple[Rejects, dict[RejectPlace, Resolution]]:
        known: dict[RejectPlace, Resolution] = {}
        kept: list[RejectLine] = []
        with self._reading() as (books, fresh):
            while True:
                page = rejects(books, matching, place, max(limit, _REJECTS_READ), fresh)
                known |= self._house.resolutions.of(map(place_of, page.lines))
                kept += [line for line in page.lines if resolved or not _is_done(known.get(place_of(line)))]
                place = page.next
                if place is None or len(kept) >= limit:
                    break
        more = len(kept) > limit or place is not None
        return replace(page, lines=tuple(kept[:limit]), next=kept[limit - 1].place if more else None), known

    def verify(self) -> Json:
        """Every law over the whole lake, budget totals of the compacted topic included."""
        house = self._house
        snapshot = self._with_every_card()
        totals = newest_totals(house.log)
        window_hours = house.settings.dedupe_window_hours
        return to_json(verify(house.lake, snapshot, totals, window_hours, self.freshness()))

    def ledger(self) -> Json:
        """What became of all that was read, by partition. It knows no tenants: for who sees all."""
        with self._reading(begun=True) as (books, fresh):
            return to_json(ledger(books, fresh))

    def rate_cards(self) -> Json:
        """All prices there are, were and will be, by model."""
        in_use = {card.id for card in self._control.rate_cards}
        return rate_cards_json(self._with_every_card(), in_use, now_us())

    def _with_every_card(self) -> Snapshot:
        """Control data in force with the replaced rate cards too: charges may name them."""
        snapshot = self._house.control.snapshot()
        if snapshot.version != self._kept.carded.version:
            self._kept.carded = replace(snapshot, rate_cards=self._house.control.every_card())
        return self._view.cut(self._kept.carded)

    def lag_records(self) -> int:
        """Records of the log that the lake does not hold yet."""
        ends = self._house.log.end_offsets(USAGE_EVENTS)
        with self._house.lake.read() as cursor:
            positions = self._kept.positions.read(self._house.lake, cursor)
        committed = {each.partition: each.next_offset for each in positions.committed}
        return sum(max(0, end - committed.get(partition, 0)) for partition, end in ends.items())

    def freshness(self) -> Freshness:
        """What the log knows of what the lake does not hold yet."""
        with self._reading() as (_, fresh):
            return fresh

    @contextmanager
    def _reading(self, *, begun: bool = False) -> Iterator[tuple[Books, Freshness]]:
        """The books, all in one read transaction, and how fresh they are. `begun`: who asks for positions themselves,
        which are only as the transaction sees them, has it begin at once."""
        if self._read is not None:
            yield self._read
            return
        read_at_us, log = now_us(), self._house.log
        ends = log.end_offsets(USAGE_EVENTS)
        lake, kept = self._house.lake, self._kept.positions
        known = None if begun else kept.find(lake.writing.newest)
        with reading(lake, None if known is None else known.snapshot) as cursor:
            positions = known or kept.read(lake, cursor)
            committed = {each.partition: each.next_offset for each in positions.committed}
            waiting: dict[int, int] = {}
            for partition, end in ends.items():
                if (offset := committed.get(partition, 0)) < end:
                    first = log.read(USAGE_EVENTS, partition, offset, 1)
                    waiting |= {partition: first.appended_us[0]} if len(first) else {}
            yield OneRead(self._books, cursor), Freshness(read_at_us, ends, waiting, positions)

    def look_ahead(self) -> None:
        """Asks of the lake's newest snapshot what the next report would have to ask first."""
        with self._house.lake.read() as cursor:
            snapshot = self._kept.positions.read(self._house.lake, cursor).snapshot
            if snapshot != self._kept.looked_at:
                look_ahead(self._house.sums, cursor)
                self._kept.looked_at = snapshot


def place_of(line: RejectLine) -> RejectPlace:
    return RejectPlace(line.topic, line.place.partition, line.place.offset, line.place.index)


def _is_done(resolution: Resolution | None) -> bool:
    return resolution is not None and resolution.state == "done"


_REJECTS_READ: Final = 100
"""Rejects read at a time, where those that are done with are left out: payloads are kilobytes."""
