"""Whatever a caller of one tenant asks, nothing of another comes back, and what is another's is as if it were not."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest
import sqlalchemy as sa

from meterhouse.api.auth.caller import Caller
from meterhouse.api.auth.guard import DOCUMENTATION, PUBLIC
from meterhouse.api.operations import routes_of
from meterhouse.warehouse.books import _SeenCursor
from tests.isolation.asking import Ask, Operation, operations, unknown
from tests.isolation.town import ABSENT, MARKS, WIDE, Marks, Town, built, callers_of

FORMS: Final = ("application/json", "text/csv", "application/vnd.apache.parquet", "application/vnd.apache.arrow.stream")
ENDLESS: Final = frozenset({"/v1/budget-states"})
SHARES: Final = 4
"""Every fourth tenant is asked with the same parameter: tenants are alike, so each role is asked with each of them
three times. What is asked without one, every ordered pair of tenants is."""
_MOVING: Final = re.compile(
    r'\d{4}-\d\d-\d\dT[\d:.]+(?:Z|\+00:00)|"as_of":\{[^}]*\}\}|"id":"[^"]*"|"reservation":"[^"]*"'
    r'|name="form_token" value="[^"]*"|As of <time.*'
)
"""What differs from one moment to the next: times, how far the lake is, ids and tokens made by chance."""


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    with built(tmp_path_factory.mktemp("town")) as town:
        yield town


def said(town: Town, caller: Caller, ask: Ask, form: str = "application/json") -> httpx.Response:
    more = {} if ask.body is None else {"json": ask.body}
    return town.ask(caller, ask.method, ask.path, params=dict(ask.params), headers={"accept": form}, **more)


def shown(answer: httpx.Response) -> str:
    return answer.content.decode("latin-1") + str(answer.headers)


def foreign_marks(text: str, own: Marks) -> list[str]:
    return [mark for marks in MARKS if marks is not own for mark in marks.in_text if mark in text]


def test_every_route_is_asked(town: Town) -> None:
    asked = operations(town.app)
    assert {name: lacking for name, lacking in ((each.name, unknown(each)) for each in asked) if lacking} == {}, (
        "say in tests/isolation/asking.py how to ask with another tenant's things"
    )
    there = {route.path for route in routes_of(town.app)} - PUBLIC - DOCUMENTATION
    assert there == {each.path for each in asked}


@pytest.mark.parametrize("own", MARKS, ids=lambda marks: marks.tenant)
def test_no_list_report_or_export_holds_another_tenants_mark(town: Town, own: Marks) -> None:
    widest, *others = callers_of(own)
    for number, ask in enumerate(ask for operation in operations(town.app) for ask in operation.at_large()):
        plain = not ask.params
        if not plain and number % SHARES != own.number % SHARES:
            continue
        # Every form of what is asked without a parameter, by everyone; JSON, by who sees most, of the rest. A page has
        # one form.
        asked = [(widest, form) for form in (FORMS if plain and not ask.of_a_page else FORMS[:1])]
        for caller, form in [*asked, *((other, FORMS[0]) for other in others if plain)]:
            if ask.path in ENDLESS:
                with town.http.stream("GET", ask.path, headers={"x-caller": caller.id}) as answer:
                    assert answer.status_code == 403
                continue
            found = foreign_marks(shown(said(town, caller, ask, form)), own)
            assert found == [], f"{caller.name} of {own.tenant} asked {ask} as {form}"


@pytest.mark.parametrize("own", MARKS, ids=lambda marks: marks.tenant)
def test_what_is_anothers_is_answered_as_what_is_not_there(town: Town, own: Marks) -> None:
    neighbour = MARKS[(own.number + 1) % len(MARKS)]
    for caller in callers_of(own):
        absent = list(_about(operations(town.app), ABSENT, town))
        nothing: dict[int, httpx.Response] = {}
        # The owner of a tenant asks about each of the others, those who see less about one of them. Of the neighbour
        # its share of the parameters is asked, of the rest one of each operation of the API: pages show its reports.
        for other in MARKS if caller.view.whole_tenants and caller.role == "product_owner" else [neighbour]:
            if other is own:
                continue
            seen = set[tuple[str, str]]()
            for number, (ask, not_there) in enumerate(
                zip(_about(operations(town.app), other, town), absent, strict=True)
            ):
                first = (ask.method, not_there.path) not in seen
                seen.add((ask.method, not_there.path))
                mine = other is neighbour and number % SHARES == own.number % SHARES
                if mine or (first and (other is neighbour or not ask.of_a_page)):
                    if number not in nothing:
                        nothing[number] = said(town, caller, not_there)
                    _same(said(town, caller, ask), ask, nothing[number], not_there, own)


def _about(asked: list[Operation], marks: Marks, town: Town) -> Iterator[Ask]:
    for operation in asked:
        if operation.path not in ENDLESS:
            yield from operation.about(marks, town.known)


def _same(answer: httpx.Response, ask: Ask, nothing: httpx.Response, not_there: Ask, own: Marks) -> None:
    story = f"of {own.tenant} was asked {ask}"
    assert answer.status_code == nothing.status_code, story
    assert neutral(answer, ask) == neutral(nothing, not_there), story
    assert [mark for mark in foreign_marks(shown(answer), own) if mark not in ask.text] == [], story


def neutral(answer: httpx.Response, ask: Ask) -> tuple[str, list[str]]:
    """An answer without what the question itself said, and without what differs from one moment to the next."""
    text = _MOVING.sub("~", answer.text).replace(ask.path, "~")
    for part in (*ask.path.split("/")[3:], *ask.params.values(), *_texts(ask.body)):
        if not part.isdigit():  # a number stands elsewhere too
            text = text.replace(part, "~")
    return text, sorted(answer.headers)


def _texts(body: object) -> list[str]:
    if isinstance(body, dict):
        return [text for value in body.values() for text in _texts(value)]
    return [body] if isinstance(body, str) and body else []


@pytest.mark.parametrize("own", MARKS[:3], ids=lambda marks: marks.tenant)
def test_an_owner_sees_what_is_its_own(town: Town, own: Marks) -> None:
    owner, narrow, _ = callers_of(own)
    for path in ("/v1/rejects", "/v1/silences"):
        assert own.secret in town.ask(owner, "GET", path).text
    for path in ("/v1/chargeback?group_by=environment", "/v1/usage?group_by=environment"):
        assert own.secret in town.ask(owner, "GET", path).text
        assert own.secret in town.ask(narrow, "GET", path).text
    for path in ("/v1/alerts", "/v1/budgets", "/v1/slo"):
        assert own.name in town.ask(owner, "GET", path).text
    applications = town.ask(narrow, "GET", "/v1/chargeback?group_by=application").json()["lines"]
    assert [line["application"] for line in applications] == [own.application(1)]


@pytest.mark.parametrize("caller", WIDE, ids=lambda caller: caller.role)
def test_roles_that_look_at_all_tenants_see_all(town: Town, caller: Caller) -> None:
    for path in ("/v1/chargeback?group_by=tenant", "/v1/rejects?limit=1000", "/v1/budgets", "/v1/slo"):
        text = town.ask(caller, "GET", path).text
        assert [marks.tenant for marks in MARKS if marks.name not in text] == [], path


def test_what_is_anothers_takes_the_same_work_as_what_is_not_there(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever measures how long an answer takes learns no more than who reads it."""
    own, other = MARKS[0], MARKS[1]
    done: list[str] = []

    def in_lake(cursor: _SeenCursor, query: str, *more: Any) -> Any:
        done.append("lake")
        return run(cursor, query, *more)

    def in_database(*_: object) -> None:
        if threading.current_thread().name.startswith("AnyIO"):  # a request's, not one of what polls
            done.append("database")

    run = _SeenCursor.execute
    monkeypatch.setattr(_SeenCursor, "execute", in_lake)
    sa.event.listen(sa.Engine, "before_cursor_execute", in_database)
    try:
        for caller in callers_of(own):
            pairs = zip(
                _about(operations(town.app), other, town), _about(operations(town.app), ABSENT, town), strict=True
            )
            for ask, absent in pairs:
                if ask.of_a_page and caller is not callers_of(own)[0]:
                    continue  # it is made from what the API's routes read, whoever sees it
                for each in (ask, absent):  # what is read once is read now
                    said(town, caller, each)
                work = []
                for each in (ask, absent):
                    done.clear()
                    said(town, caller, each)
                    work.append(list(done))
                assert work[0] == work[1], f"{caller.name} asked {ask}"
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", in_database)
