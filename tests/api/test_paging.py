"""Pages of reports: together they are the report at the first page's snapshot, whatever comes in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meterhouse.api.clock import now_us
from meterhouse.api.figures import Reports, Span
from meterhouse.api.paging import ListingGone, Page
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.warehouse.control_file import parse
from meterhouse.warehouse.control_plan import plan
from meterhouse.warehouse.listings import LASTS_US, MAX_LISTINGS, MAX_OF_HOLDER, Listing
from meterhouse.warehouse.maintenance import MaintenanceSettings, maintain
from meterhouse.warehouse.reports.errors import ReportError
from meterhouse.warehouse.view import EVERYTHING, Grant, View
from tests.api.sites import CONTROL, event, opened, problem
from tests.builders import T0_US
from tests.warehouse.filled import SNAPSHOT, fill

DAY_US = 86_400 * 1_000_000
SPAN = Span(T0_US - DAY_US, T0_US + 3 * DAY_US + 77)
GROUPS = ("tenant", "application", "hour")
VIEW = View((Grant("acme"), Grant("bolt", "search")))
Ask = Callable[[Reports, Page], dict[str, Any]]
ASKS: dict[str, tuple[str, Ask]] = {
    "chargeback": ("lines", lambda reports, page: reports.chargeback(SPAN, GROUPS, {}, page)),
    "kinds": ("lines", lambda reports, page: reports.chargeback(SPAN, ("kind", "tenant"), {}, page)),
    "usage": ("lines", lambda reports, page: reports.usage(SPAN, "hour", ("tenant",), {}, page)),
    "charges": ("charges", lambda reports, page: reports.charges(SPAN, {}, None, page)),
}


def rows(first: int, count: int) -> list[dict[str, Any]]:
    return [
        {
            "tenant": ("acme", "bolt", "cork")[i % 3],
            "application": ("assistant", "search")[i % 5 % 2],
            "model": ("atlas-large", "atlas-small")[i % 7 % 2],
            "status": ("ok", "error")[i % 7 == 0],
            "time": T0_US + i % 11 * 7_654_321_987 % (2 * DAY_US),  # many at the same time
            "partition": i % 2,
            "offset": i,
            "input_tokens": 1 + i % 50,
            "output_tokens": i % 9,
        }
        for i in range(first, first + count)
    ]


class Books:
    """A house whose lake grows."""

    def __init__(self, house: House) -> None:
        self.house, self.count = house, 0

    def grow(self, count: int) -> None:
        fill(self.house.lake, rows(self.count, count))
        self.count += count

    def seen_by(self, view: View) -> Reports:
        reports = Reports(self.house, view)
        reports._with_every_card = lambda: view.cut(SNAPSHOT)  # type: ignore[method-assign]
        return reports

    def maintain(self, *, held: bool = True) -> None:
        now = now_us()
        later = now + MaintenanceSettings().keep_all_us + 1
        maintain(self.house.lake, later, held=self.house.listings.held(now) if held else ())


@pytest.fixture(scope="module")
def books(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Books]:
    settings = Settings(home=tmp_path_factory.mktemp("home"))  # type: ignore[call-arg]
    with House(settings, writer=True) as house:
        house.control.apply(plan(parse(CONTROL), house.control.snapshot(), now_us()), now_us())
        made = Books(house)
        made.grow(40)
        yield made


STEPS = st.lists(st.one_of(st.integers(1, 20), st.just("maintain")), min_size=1, max_size=4)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(ASKS)), st.sampled_from((EVERYTHING, VIEW)), st.integers(7, 25), STEPS)
def test_pages_together_are_the_report_at_the_first_pages_snapshot(
    books: Books, what: str, view: View, limit: int, steps: list[int | str]
) -> None:
    member, ask = ASKS[what]
    reports = books.seen_by(view)
    whole = ask(reports, Page(10_000))
    assert whole["next"] is None
    page, lines, waiting = ask(reports, Page(limit)), [], list(steps)
    while True:
        assert {**page["as_of"], "watermark": 0} == {**whole["as_of"], "watermark": 0}
        assert page["total"] == whole["total"]
        lines += page[member]
        if page["next"] is None:
            break
        assert len(page[member]) == limit
        for step in waiting[:2]:
            books.maintain() if step == "maintain" else books.grow(int(step))
        del waiting[:2]
        following = ask(reports, Page(limit, page["next"]))
        assert following["as_of"] == page["as_of"]
        page = following
    assert lines == whole[member]


# -- drill-down ------------------------------------------------------------------------------------------------------


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(("tenant", "application", "environment", "model", "operation")), max_size=3, unique=True),
    st.sampled_from((None, "kind")),
    st.integers(0, DAY_US),
)
def test_the_charges_behind_each_line_add_up_to_it_to_the_last_digit(
    books: Books, groups: list[str], by_kind: str | None, cut_us: int
) -> None:
    reports = books.seen_by(EVERYTHING)
    span = Span(T0_US + 1, T0_US + DAY_US + cut_us)
    bill = reports.chargeback(span, [*groups, *([by_kind] if by_kind else [])], {})
    assert bill["lines"] or not (groups or by_kind)
    for line in bill["lines"]:
        filters = {name: [line[name]] for name in groups}
        page = reports.charges(span, filters, line.get("kind"), Page(37))
        assert {**line, **page["total"]} == line
        found = list(page["charges"])
        while page["next"]:
            page = reports.charges(span, filters, line.get("kind"), Page(37, page["next"]))
            found += page["charges"]
        billed = [each for each in found if each["disposition"] == "billed"]
        assert sum(Decimal(each["cost"]) for each in found) == Decimal(line["cost"])
        assert len(found) == line["requests"]
        for kind, count in line["tokens"].items():
            assert sum(each["tokens"][kind] for each in billed) == count
            costs = sum(Decimal(each["costs"][kind] or 0) for each in billed)
            assert costs == sum(Decimal(e["per_million"][kind]) * e["tokens"][kind] for e in billed).scaleb(-6)


def test_a_charge_of_someone_else_is_as_absent_as_one_that_never_was(tmp_path: Path) -> None:
    with opened(tmp_path) as site:
        site.publish(event(1), event(2, subject="bolt"))
        site.work()
        charges = site.get("/v1/charges")["charges"]
        mine = next(each for each in charges if each["tenant"] == "acme")
        place = "{partition}/{offset}/{index}"
        found = site.get(f"/v1/charges/{place.format(**mine)}")
        assert found["charge"] == mine
        assert found["record"] == {
            "topic": "usage.events",
            **{name: mine[name] for name in ("partition", "offset", "index", "arrived")},
            "kept": True,
            "bytes": found["record"]["bytes"],
        }
        size = len(site.house.log.read("usage.events", mine["partition"], mine["offset"], 1).values[0] or b"")
        assert found["record"]["bytes"] == size
        absent = problem(site.http.get("/v1/charges/0/999999/0"), 404, "not-found")
        theirs = View((Grant("bolt"),))
        with pytest.raises(Exception, match="There is no such charge") as foreign:
            Reports(site.house, theirs).charge(mine["partition"], mine["offset"], mine["index"])
        assert str(foreign.value) == absent["detail"]


# -- tokens ----------------------------------------------------------------------------------------------------------


def test_a_token_is_of_its_query_and_of_who_asked(books: Books) -> None:
    reports = books.seen_by(EVERYTHING)
    token = reports.chargeback(SPAN, GROUPS, {}, Page(3))["next"]
    others: list[Callable[[], Any]] = [
        lambda: reports.chargeback(SPAN, ("tenant",), {}, Page(3, token)),
        lambda: reports.chargeback(Span(T0_US, SPAN.to_us), GROUPS, {}, Page(3, token)),
        lambda: reports.chargeback(SPAN, GROUPS, {"tenant": ["acme"]}, Page(3, token)),
        lambda: reports.usage(SPAN, "hour", (), {}, Page(3, token)),
        lambda: reports.charges(SPAN, {}, None, Page(3, token)),
        lambda: books.seen_by(VIEW).chargeback(SPAN, GROUPS, {}, Page(3, token)),
    ]
    for other in others:
        with pytest.raises(ReportError, match="of another query"):
            other()
    assert reports.chargeback(SPAN, GROUPS, {}, Page(5, token))["lines"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(max_size=400), st.integers(0, 10_000)))
def test_a_forged_token_is_refused(books: Books, forged: str | int) -> None:
    reports = books.seen_by(EVERYTHING)
    if isinstance(forged, int):
        token = reports.charges(SPAN, {}, None, Page(3))["next"]
        place = forged % len(token)
        forged = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
    with pytest.raises(ReportError, match="no page token"):
        reports.charges(SPAN, {}, None, Page(3, forged))


def test_a_listing_whose_snapshot_is_gone_says_to_begin_anew(books: Books) -> None:
    reports = books.seen_by(EVERYTHING)
    for ask in (ASKS["chargeback"][1], ASKS["charges"][1]):
        token = ask(reports, Page(3))["next"]
        books.grow(1)
        books.maintain(held=False)
        with pytest.raises(ListingGone, match="begin anew"):
            ask(reports, Page(3, token))


def test_a_listing_lasts_from_page_to_page_and_then_no_longer(tmp_path: Path) -> None:
    with House(Settings(home=tmp_path), writer=True) as house:  # type: ignore[call-arg]
        listing = Listing("me", "query", 7, None, {})
        house.listings.begin(listing, 0)
        now = 0
        for _ in range(5):
            now += LASTS_US - 1
            found = house.listings.find(listing.id)
            assert found is not None
            assert house.listings.go_on(found, now)
            assert house.listings.held(now) == {7}
        now += 2 * LASTS_US
        assert house.listings.held(now) == frozenset()
        found = house.listings.find(listing.id)
        assert found is not None
        assert not house.listings.go_on(found, now)


def test_who_begins_many_listings_ends_their_own_first(tmp_path: Path) -> None:
    with House(Settings(home=tmp_path), writer=True) as house:  # type: ignore[call-arg]
        other = Listing("other", "query", 1, None, {})
        house.listings.begin(other, 0)
        for number in range(MAX_OF_HOLDER + 3):
            house.listings.begin(Listing("me", "query", 2 + number, None, {}), 1 + number)
        held = house.listings.held(MAX_OF_HOLDER + 10)
        assert held == {1, *range(5, MAX_OF_HOLDER + 5)}
        assert len(held) <= MAX_LISTINGS


def test_a_listing_by_place_ends_when_control_data_changes(books: Books) -> None:
    reports = Reports(books.house, EVERYTHING)
    by_place = reports._asked("chargeback", SPAN, {}, ("cost_center",))
    assert by_place.control_version == books.house.control.version()
    assert reports._asked("chargeback", SPAN, {}, ("tenant",)).control_version is None
    assert reports._asked("charges", SPAN, {"org_unit": ["group"]}).control_version is not None


# -- over HTTP -------------------------------------------------------------------------------------------------------


def test_pages_are_linked_and_an_edit_of_tenants_ends_what_depends_on_it(tmp_path: Path) -> None:
    with opened(tmp_path) as site:
        site.publish(*(event(i, subject=("acme", "bolt")[i % 2], data={"application": f"a-{i}"}) for i in range(6)))
        site.work()
        params = {"group_by": "application,cost_center", "limit": 4}
        whole = site.get("/v1/chargeback", group_by=params["group_by"])
        assert "next" not in whole
        first = site.http.get("/v1/chargeback", params=params)
        link = first.links["next"]["url"]
        assert parse_qs(urlsplit(link).query)["after"] == [first.json()["next"]]
        second = site.http.get(link)
        assert "next" not in second.links
        assert first.json()["lines"] + second.json()["lines"] == whole["lines"]
        csv = [site.http.get(path, headers={"accept": "text/csv"}).text.splitlines() for path in (first.url, link)]
        assert (
            csv[0] + csv[1][1:]
            == site.http.get(
                "/v1/chargeback", params={"group_by": params["group_by"]}, headers={"accept": "text/csv"}
            ).text.splitlines()
        )
        site.apply(CONTROL.replace("CC-2", "CC-9"))
        document = problem(site.http.get(link), 410, "gone")
        assert "begin anew" in document["detail"]
        problem(site.http.get("/v1/chargeback", params={**params, "after": "forged"}), 400, "invalid-parameter")
        problem(site.http.get("/v1/chargeback", params={"limit": 10_001}), 400, "invalid-parameter")


def test_each_filter_is_a_parameter_and_an_empty_one_means_absent(tmp_path: Path) -> None:
    with opened(tmp_path) as site:
        data: list[dict[str, Any]] = [{}, {"environment": "prod", "operation": "chat"}, {"environment": "test"}]
        site.publish(*(event(i, data=each) for i, each in enumerate(data)), event(9, subject="bolt"))
        site.work()

        def count(**params: Any) -> int:
            found = {site.get(path, **params)["total"]["requests"] for path in ("/v1/usage", "/v1/charges")}
            found.add(site.get("/v1/chargeback", **params)["total"]["requests"])
            assert len(found) == 1
            return int(found.pop())

        assert count(environment="prod") == 1
        assert count(environment="") == 2
        assert count(environment=["", "test"]) == 3
        assert count(operation="chat") == 1
        assert count(provider="atlas") == 4
        assert count(provider="other") == 0
        assert count(cost_center="CC-2") == 1
        assert count(org_unit="consumer") == 3
        assert count(org_unit="group") == 4
        assert count(tenant="acme", environment="test") == 1
