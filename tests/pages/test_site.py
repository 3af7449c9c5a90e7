"""What holds for every page, without a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from meterhouse.api.app import create_app
from meterhouse.api.auth.caller import Caller, Role
from meterhouse.api.figures import Reports
from meterhouse.api.operations import PAGES, routes_of
from meterhouse.api.pages.assets import Assets
from meterhouse.api.pages.menu import MENU, menu_of
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.warehouse.view import EVERYTHING
from tests.api.doors import apply
from tests.api.serving import served

PEOPLE = {"accept": "text/html,application/xhtml+xml"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server on loopback without keys and without a charge."""
    with House(Settings(home=tmp_path_factory.mktemp("home") / "home"), writer=True) as house:  # type: ignore[call-arg]
        apply(house)
        with served(create_app(house)) as http:
            http.timeout = httpx.Timeout(60)
            yield http


def test_at_ones_own_machine_pages_open_without_signing_in(home: httpx.Client) -> None:
    answer = home.get("/", headers=PEOPLE, follow_redirects=True)
    assert (answer.status_code, answer.url.path) == (200, "/overview")
    assert "Sign out" not in answer.text


@pytest.mark.parametrize(
    "path",
    [entry.path for entry in MENU] + ["/charges", "/chargeback?by=kind&then=model", "/application?application=search"],
)
def test_where_nothing_was_spent_a_page_says_so(home: httpx.Client, path: str) -> None:
    answer = home.get(path, headers=PEOPLE)
    assert answer.status_code == 200
    assert 'class="empty"' in answer.text


def test_the_charges_page_says_what_retention_removed(home: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    charges = Reports.charges
    removed = {"requests": 1234, "cost": "5.000000000000", "before": "2026-11-02T00:00:00Z"}
    assert 'id="removed"' not in home.get("/charges", headers=PEOPLE).text
    monkeypatch.setattr(Reports, "charges", lambda self, *asked: {**charges(self, *asked), "removed": removed})
    said = home.get("/charges", headers=PEOPLE).text
    assert "Retention removed 1,234 of them" in said
    assert 'value="5.000000000000"' in said


def test_a_problem_is_a_page_for_people_and_a_document_for_programs(home: httpx.Client) -> None:
    for path, status in (("/nowhere", 404), ("/chargeback?by=colour", 400), ("/v1/rejects?limit=no", 400)):
        page, document = home.get(path, headers=PEOPLE), home.get(path)
        assert page.status_code == document.status_code == status
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert document.headers["content-type"] == "application/problem+json"
        assert "script-src 'self'" in page.headers["content-security-policy"]
        assert document.json()["title"] in page.text


def test_every_page_is_in_the_menu_of_whoever_may_open_it() -> None:
    shown = {role: [entry.path for entry in menu_of(Caller("key:a", "a", role, EVERYTHING))] for role in Role}
    assert shown[Role.gateway] == []
    assert shown[Role.admin] == [entry.path for entry in MENU]
    assert menu_of(None) == []


def test_pages_are_not_in_the_apis_document(tmp_path: Path) -> None:
    with House(Settings(home=tmp_path / "home"), writer=True) as house:  # type: ignore[call-arg]
        app = create_app(house)
        tagged = {route.path for route in routes_of(app) if PAGES in route.tags}
        assert {entry.path for entry in MENU} <= tagged
        assert tagged & app.openapi()["paths"].keys() == set()


def test_a_file_is_kept_for_ever_under_its_hash_and_sent_small(home: httpx.Client) -> None:
    path = Assets().path("style.css")
    answer = home.get(path)
    assert (answer.status_code, answer.headers["content-encoding"]) == (200, "gzip")
    assert "immutable" in answer.headers["cache-control"]
    assert home.get("/static/style.css").headers["cache-control"] == "no-cache"
    for name in ("..%2fsite.py", "site.py", "nothing.css"):
        assert home.get(f"/static/{name}").status_code == 404


@pytest.mark.parametrize(
    ("accepted", "packed"), [("gzip, br", True), ("gzip;q=0.5", True), ("br", False), ("gzip;q=0", False)]
)
def test_a_page_is_packed_for_whoever_unpacks_it(home: httpx.Client, accepted: str, packed: bool) -> None:
    answer = home.get("/rate-cards", headers={**PEOPLE, "accept-encoding": accepted})
    assert ("content-encoding" in answer.headers) == packed
    assert "Accept-Encoding" in answer.headers["vary"]
    assert "</html>" in answer.text


def test_without_built_scripts_pages_say_what_to_run(home: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Assets, "are_built", property(lambda _: False))
    answer = home.get("/overview", headers=PEOPLE)
    assert "run `make pages`" in answer.text
    assert "<script" not in answer.text


def test_a_reader_chooses_zone_and_theme_and_stays_where_they_were(home: httpx.Client) -> None:
    chosen = home.get("/look?zone=Asia/Tokyo&theme=dark&next=/chargeback?by=model")
    assert (chosen.status_code, chosen.headers["location"]) == (303, "/chargeback?by=model")
    page = home.get("/overview", headers=PEOPLE)
    assert 'data-theme="dark"' in page.text
    assert "Asia/Tokyo" in page.text
    home.get("/look?zone=Nowhere/Town&theme=loud")
    assert 'data-theme="auto"' in home.get("/overview", headers=PEOPLE).text
    home.cookies.clear()
