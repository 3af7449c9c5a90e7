"""Exports over HTTP: forms, refusals, what the audit log hears, and that half a file never looks like a whole one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from fastapi import FastAPI, Request

from meterhouse.api.app import create_app
from meterhouse.api.auth.caller import LOCAL, Caller, Role
from meterhouse.api.clock import now_us
from meterhouse.api.downloads import AT_ONCE
from meterhouse.api.routes.exports import acceptable
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.api.workers import Workers
from meterhouse.ingest.log import USAGE_EVENTS, Message
from meterhouse.warehouse.audit import AuditLog
from meterhouse.warehouse.control import ControlUnavailable
from meterhouse.warehouse.control_file import parse
from meterhouse.warehouse.control_plan import plan
from meterhouse.warehouse.control_tables import AUDIT_LOG
from meterhouse.warehouse.database import open_database, reading, sqlite_url
from meterhouse.warehouse.view import Grant, View
from tests.api.serving import served
from tests.focus_checks import csv_rows, faults, parquet_rows, total

CONTROL = """
currency: USD
tenants:
  - {id: acme, name: Acme, org: [group], cost_center: CC-1}
  - {id: bolt, name: Canary, org: [group], cost_center: CC-canary}
rate_card:
  - {provider: atlas, model: large, valid_from: 2026-01-01T00:00:00Z, per_million: {input: "2.50", output: "10.00"}}
"""
PARQUET = "application/vnd.apache.parquet"
SPAN = {"from": "2026-11-01", "to": "2027-01-01"}


@dataclass
class Site:
    house: House
    app: FastAPI
    http: httpx.Client

    def get(self, accept: str | None = None, **params: Any) -> httpx.Response:
        return self.http.get(
            "/v1/exports/focus", params=SPAN | params, headers={} if accept is None else {"accept": accept}
        )

    def told(self) -> list[tuple[str, str, dict[str, Any]]]:
        """What the audit log heard: actor, action, detail."""
        engine = open_database(sqlite_url(self.house.settings.control_path))
        with reading(engine) as connection:
            rows = connection.execute(sa.select(AUDIT_LOG).order_by(AUDIT_LOG.c.seq)).mappings().all()
        engine.dispose()
        return [(r["actor"], r["action"], json.loads(r["detail"])) for r in rows if r["action"].startswith("export.")]

    @contextmanager
    def seen_as(self, caller: Caller) -> Iterator[None]:
        before = self.app.state.authenticator
        self.app.state.authenticator = As(caller)
        try:
            yield
        finally:
            self.app.state.authenticator = before


@dataclass
class As:
    """Everyone is this caller."""

    caller: Caller

    async def caller_of(self, request: Request) -> Caller:
        return self.caller


def event(number: int, tenant: str, model: str = "large") -> bytes:
    data = {
        "application": "assistant", "model": model, "provider": "atlas", "status": "ok", "input_tokens": number,
        "output_tokens": 1,
    }  # fmt: skip
    body = {
        "specversion": "1.0", "type": "meterhouse.request.v1", "source": "/gateway/1", "id": str(number),
        "subject": tenant, "time": "2026-11-25T10:00:00Z", "data": data,
    }  # fmt: skip
    return json.dumps(body).encode()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home: Path = tmp_path_factory.mktemp("exports") / "home"
    settings = Settings(home=home, billing_account_name="Platform", max_behind_s=10**9)  # type: ignore[call-arg]
    with House(settings, writer=True) as house:
        house.control.apply(plan(parse(CONTROL), house.control.snapshot(), now_us()), now_us())
        messages = [
            Message(tenant.encode(), event(100 + number, tenant, model))
            for number, (tenant, model) in enumerate(
                [("acme", "large"), ("bolt", "large"), ("acme", "large"), ("acme", "nobody-priced-it")]
            )
        ]
        house.log.append(USAGE_EVENTS, messages)
        with Workers(house) as workers:
            workers.run_until_idle(threading.Event())
        app = create_app(house)
        with served(app) as client:
            yield Site(house, app, client)


def test_a_file_of_csv_adds_up_to_the_chargeback_and_says_what_it_leaves_out(site: Site) -> None:
    answer = site.get()
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="focus-20261101-20270101.csv"'
    assert answer.headers["meterhouse-unpriced-requests"] == "1"
    assert answer.headers["cache-control"] == "no-store"
    bill = site.http.get("/v1/chargeback", params=SPAN).json()
    assert answer.headers["meterhouse-snapshot"] == str(bill["as_of"]["snapshot"])
    rows = csv_rows(answer.text)
    assert faults(rows, Decimal(bill["total"]["cost"])) == []
    assert {row["BillingAccountName"] for row in rows} == {"Platform"}


@pytest.mark.parametrize(
    "ask", [{"accept": PARQUET}, {"format": "parquet"}, {"format": "parquet", "accept": "text/csv"}]
)
def test_parquet_holds_the_same_rows(site: Site, ask: dict[str, str]) -> None:
    answer = site.get(**ask)
    assert answer.headers["content-type"] == PARQUET
    assert answer.headers["content-disposition"].endswith('.parquet"')
    assert parquet_rows(answer.content) == csv_rows(site.get().text)


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (None, "csv"),
        ("*/*", "csv"),
        ("text/*", "csv"),
        (f"text/csv;q=0.5, {PARQUET}", "parquet"),
        (f"{PARQUET};q=0.1, */*;q=0.9", "csv"),
        ("application/*", "parquet"),
    ],
)
def test_the_form_is_what_the_reader_likes_best(accept: str | None, form: str) -> None:
    assert acceptable(accept) == form


@pytest.mark.parametrize("accept", ["application/json", "text/csv;q=0", "text/csv;q=much"])
def test_a_form_that_there_is_not_is_refused(site: Site, accept: str) -> None:
    answer = site.get(accept=accept)
    assert (answer.status_code, answer.json()["type"]) == (406, "/problems/not-acceptable")
    assert PARQUET in answer.json()["detail"]


@pytest.mark.parametrize(
    "span", [{"from": "2026-11-02", "to": "2026-11-01"}, {"from": "2020-01-01", "to": "2026-01-01"}]
)
def test_a_range_without_sense_is_refused_before_anything_is_sent(site: Site, span: dict[str, str]) -> None:
    answer = site.get(**span)
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/invalid-parameter")


def test_a_product_owners_file_has_the_rows_of_its_tenants_alone(site: Site) -> None:
    owner = Caller("key:1", "owner", Role.product_owner, View((Grant("acme"),)))
    with site.seen_as(owner):
        answer, foreign, absent = site.get(), site.get(tenant="bolt"), site.get(tenant="nobody")
    rows = csv_rows(answer.text)
    assert {row["SubAccountId"] for row in rows} == {"acme"}
    assert "anary" not in answer.text
    assert foreign.text == absent.text  # headers of columns
    assert total(rows) == total(row for row in csv_rows(site.get().text) if row["SubAccountId"] == "acme")


def test_a_gateway_may_not_export(site: Site) -> None:
    with site.seen_as(Caller("key:2", "gateway", Role.gateway, View(()))):
        assert site.get().json()["type"] == "/problems/forbidden"


def test_the_audit_log_hears_who_exported_what(site: Site) -> None:
    before = len(site.told())
    rows = len(csv_rows(site.get(tenant="acme").text))
    asked = {
        "from": "2026-11-01T00:00:00Z", "to": "2027-01-01T00:00:00Z", "filters": {"tenant": ["acme"]}, "form": "csv",
    }  # fmt: skip
    begun, made = site.told()[before:]
    snapshot = made[2]["snapshot"]
    assert begun == (LOCAL.id, "export.begun", asked | {"snapshot": snapshot})
    assert made == (LOCAL.id, "export.made", asked | {"snapshot": snapshot, "rows": rows})


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_file_that_breaks_off_has_no_end(site: Site, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    def broken_at_its_end(export: Any) -> Iterator[bytes]:
        yield b"half"
        raise OSError("the disk is gone")

    monkeypatch.setattr("meterhouse.api.exports._PIECES", {"csv": broken_at_its_end, "parquet": broken_at_its_end})
    with pytest.raises(httpx.RemoteProtocolError):
        site.get(format=form)
    assert site.told()[-1][1] == "export.broken"


def test_an_export_that_cannot_be_told_to_the_audit_log_is_not_made(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(self: AuditLog, deed: object, at_us: int) -> None:
        raise ControlUnavailable("the control database does not answer")

    monkeypatch.setattr(AuditLog, "record", away)
    answer = site.get()
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/unavailable")


def test_a_reader_that_leaves_ends_the_export(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def endless(export: Any) -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * 65_536
        finally:
            ended.set()

    monkeypatch.setattr("meterhouse.api.exports._PIECES", {"csv": endless})
    with site.http.stream("GET", "/v1/exports/focus", params=SPAN) as answer:
        next(answer.iter_raw())
    assert ended.wait(timeout=20)


def test_a_server_has_so_many_downloads_at_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()

    def waiting(export: Any) -> Iterator[bytes]:
        yield b"x"
        go.wait(timeout=60)

    monkeypatch.setattr("meterhouse.api.exports._PIECES", {"csv": waiting})
    answers = [site.http.stream("GET", "/v1/exports/focus", params=SPAN) for _ in range(AT_ONCE)]
    open_ones = [answer.__enter__() for answer in answers]
    assert {each.status_code for each in open_ones} == {200}
    refused = site.get()
    go.set()
    for answer in answers:
        answer.__exit__(None, None, None)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "30")


def test_a_parquet_file_cut_short_does_not_open(site: Site) -> None:
    whole = site.get(format="parquet").content
    with pytest.raises(pa.ArrowInvalid):
        pq.read_table(pa.BufferReader(whole[:-1]))


def test_a_server_that_ends_waits_for_no_download(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()

    def endless(export: Any) -> Iterator[bytes]:
        try:
            while True:
                yield b"x"
        finally:
            ended.set()

    monkeypatch.setattr("meterhouse.api.exports._PIECES", {"csv": endless})
    app = create_app(site.house)
    with served(app) as client, client.stream("GET", "/v1/exports/focus", params=SPAN) as answer:
        assert answer.status_code == 200
        app.state.streams.end()
        with pytest.raises(httpx.RemoteProtocolError):
            for _ in answer.iter_raw():
                pass
    assert ended.wait(timeout=20)
