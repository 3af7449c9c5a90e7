"""Reports over HTTP in each form, and what is sent again only when it changed."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from meterhouse.api import tables
from meterhouse.api.answers import is_known, tag_of
from meterhouse.api.forms import Form, negotiated
from meterhouse.warehouse.control_tables import AUDIT_LOG
from meterhouse.warehouse.database import reading
from meterhouse.warehouse.view import EVERYTHING, Grant, View
from tests.api.sites import Site, event, opened, problem

PARQUET, ARROW = Form.parquet.value, Form.arrow.value
ROUTES = (
    "/v1/chargeback", "/v1/chargeback/org-tree", "/v1/chargeback/comparison", "/v1/chargeback/explanation",
    "/v1/usage", "/v1/slo", "/v1/budgets", "/v1/charges", "/v1/forecast", "/v1/latencies",
)  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with opened(tmp_path_factory.mktemp("site")) as site:
        events = [event(i, data={"application": ("assistant", "=cmd|' /C calc'!A0")[i % 2]}) for i in range(7)]
        site.publish(*events)
        site.work()
        yield site


def read(answer: httpx.Response) -> pa.Table:
    assert answer.status_code == 200, answer.text
    if answer.headers["content-type"] == PARQUET:
        return pq.read_table(io.BytesIO(answer.content))
    assert answer.headers["content-type"] == ARROW
    return pa.ipc.open_stream(answer.content).read_all()


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("form", list(Form))
def test_a_report_has_four_forms(site: Site, path: str, form: Form) -> None:
    answer = site.http.get(path, headers={"accept": form.value})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].split(";")[0] == form.value
    assert answer.headers["vary"] == "Accept"
    assert answer.headers["cache-control"] == "private, no-cache"


def test_a_file_that_leaves_is_in_the_audit_log(site: Site) -> None:
    def entries() -> list[tuple[str, str, str]]:
        with reading(site.house._database) as connection:
            found = connection.execute(sa.select(AUDIT_LOG).order_by(AUDIT_LOG.c.seq)).mappings()
            return [(row["actor"], row["subject"], row["detail"]) for row in found if row["action"] == "export.made"]

    before = entries()
    site.get("/v1/charges", tenant="acme", limit=2)
    assert entries() == before
    site.http.get("/v1/charges?tenant=acme&limit=2", headers={"accept": "text/csv"})
    [(actor, subject, detail)] = entries()[len(before) :]
    assert (actor, subject) == ("local", "/v1/charges")
    assert json.loads(detail) == {"form": "text/csv", "query": "tenant=acme&limit=2", "lines": 2}


@pytest.mark.parametrize("path", ROUTES)
def test_a_form_that_is_not_there_is_a_406_that_lists_those_that_are(site: Site, path: str) -> None:
    answer = site.http.get(path, headers={"accept": "application/xml, image/png;q=0.5"})
    document = problem(answer, 406, "not-acceptable")
    assert document["offered"] == [form.value for form in Form]
    assert answer.headers["vary"] == "Accept"


def test_csv_over_http_is_the_command_lines_csv_without_cells_that_run(site: Site) -> None:
    params = {"group_by": "application,model"}
    text = site.http.get("/v1/chargeback", params=params, headers={"accept": "text/csv"}).text
    assert text == tables.to_csv(site.get("/v1/chargeback", **params)["lines"])
    assert [row["application"] for row in csv.DictReader(io.StringIO(text))] == ["'=cmd|' /C calc'!A0", "assistant"]


@pytest.mark.parametrize("media_type", [PARQUET, ARROW])
def test_columns_have_types_and_the_schema_says_what_they_include(site: Site, media_type: str) -> None:
    params = {"group_by": "application,day,hour"}
    table = read(site.http.get("/v1/chargeback", params=params, headers={"accept": media_type}))
    report = site.get("/v1/chargeback", **params)
    kinds = {field.name: field.type for field in table.schema}
    assert kinds["cost"] == pa.decimal128(38, 12)
    assert kinds["tokens.input"] == pa.int64()
    assert kinds["day"] == pa.date32()
    assert kinds["hour"] == pa.timestamp("us", tz="UTC")
    assert kinds["application"] == pa.string()
    assert list(kinds) == list(tables.flatten(report["lines"][0]))
    assert sum(table["cost"].to_pylist()) == Decimal(report["total"]["cost"])
    about = table.schema.metadata
    assert {b"currency", b"from", b"to", b"as_of", b"total"} <= about.keys()
    assert about[b"currency"] == b'"USD"'
    line = report["lines"][0]
    assert table["day"][0].as_py() == date.fromisoformat(line["day"])
    assert table["hour"][0].as_py() == datetime.fromisoformat(line["hour"])


def test_budget_amounts_are_decimals_and_their_windows_are_times(site: Site) -> None:
    table = read(site.http.get("/v1/budgets", headers={"accept": PARQUET}))
    [budget] = site.get("/v1/budgets")["budgets"]
    assert table["spent"].to_pylist() == [Decimal(budget["spent"])]
    assert table["window.start"].to_pylist() == [datetime.fromisoformat(budget["window"]["start"])]


def test_a_report_without_lines_has_the_columns_of_one_with_lines(site: Site) -> None:
    params = {"group_by": "tenant", "from": "2020-01-01", "to": "2020-02-01"}
    table = read(site.http.get("/v1/chargeback", params=params, headers={"accept": PARQUET}))
    full = read(site.http.get("/v1/chargeback", params={"group_by": "tenant"}, headers={"accept": PARQUET}))
    assert table.num_rows == 0
    assert table.schema.equals(full.schema)


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (None, Form.json),
        ("", Form.json),
        ("*/*", Form.json),
        ("text/*", Form.csv),
        ("TEXT/CSV; Charset=utf-8", Form.csv),
        ("application/json;q=0.5, text/csv", Form.csv),
        ("text/csv;q=0.5, */*;q=0.1", Form.csv),
        ("*/*, application/json;q=0", Form.csv),
        ("application/*;q=0.3, application/vnd.apache.parquet;q=0.2, text/csv;q=0.1", Form.json),
        ("application/vnd.apache.arrow.stream", Form.arrow),
        ("text/csv;q=0", None),
        ("text/html", None),
        ("text/csv;q=lots, text/html", None),
        ("text/csv;q=7", None),
        (";;,,", None),
    ],
)
def test_the_form_that_is_liked_best_is_sent(accept: str | None, form: Form | None) -> None:
    assert negotiated(accept, [*Form]) == form


@given(st.text())
def test_any_accept_header_is_understood_or_refused(accept: str) -> None:
    assert negotiated(accept, [*Form]) in (None, *Form)


@given(st.text())
def test_no_cell_begins_like_a_formula_unless_it_is_a_number(text: str) -> None:
    [row] = list(csv.reader(io.StringIO(tables.to_csv([{"name": text}]), newline="")))[1:] or [[""]]
    cell = row[0] if row else ""
    assert cell in (text, f"'{text}")
    assert not cell.startswith(("=", "@", "\t", "\r"))
    if cell.startswith(("+", "-")):
        Decimal(cell)


# -- what did not change ---------------------------------------------------------------------------------------------


def a_closed_range() -> dict[str, str]:
    now = datetime.now(UTC)
    return {"from": (now - timedelta(days=20)).isoformat(), "to": (now - timedelta(days=1)).isoformat()}


def test_a_range_that_is_over_is_not_sent_again_until_a_late_event_changes_it(tmp_path: Path) -> None:
    with opened(tmp_path) as site:
        early = (datetime.now(UTC) - timedelta(days=2)).isoformat()
        site.publish(event(1, time=early))
        site.work()
        asked = a_closed_range()
        first = site.http.get("/v1/chargeback", params=asked)
        tag = first.headers["etag"]
        assert tag.startswith('W/"')
        site.publish(event(2))  # of today: no figure of the range changes, though the lake's snapshot does
        site.work()
        again = site.http.get("/v1/chargeback", params=asked, headers={"if-none-match": f'"other", {tag}'})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert again.headers["vary"] == "Accept"
        site.publish(event(3, time=early))
        site.work()
        changed = site.http.get("/v1/chargeback", params=asked, headers={"if-none-match": tag})
        assert (changed.status_code, changed.json()["total"]["requests"]) == (200, 2)
        assert changed.headers["etag"] != tag


@pytest.mark.parametrize("path", ["/v1/chargeback", "/v1/usage", "/v1/slo"])
def test_each_form_of_a_range_that_is_over_has_a_tag_of_its_own(site: Site, path: str) -> None:
    asked = a_closed_range()
    tags = {site.http.get(path, params=asked, headers={"accept": form.value}).headers["etag"] for form in Form}
    assert len(tags) == len(Form)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("params", [{}, {"from": "2026-01-01"}, {"from": "2026-01-01", "to": "2027-01-01"}])
def test_a_range_that_is_not_over_has_no_tag(site: Site, path: str, params: dict[str, str]) -> None:
    answer = site.http.get(path, params=params, headers={"if-none-match": "*"})
    assert answer.status_code == 200
    assert "etag" not in answer.headers


def test_a_tag_is_of_the_figures_and_of_who_sees_them() -> None:
    report: dict[str, Any] = {"total": 1, "as_of": {"snapshot": 1}}
    one = View((Grant("acme"),))
    tag = tag_of(report, Form.json, EVERYTHING)
    assert tag == tag_of({"total": 1, "as_of": {"snapshot": 2}}, Form.json, EVERYTHING)
    assert len({tag, tag_of({**report, "total": 2}, Form.json, EVERYTHING), tag_of(report, Form.json, one)}) == 3
    assert is_known(tag, tag.removeprefix("W/"))
    assert not is_known(tag, None)
