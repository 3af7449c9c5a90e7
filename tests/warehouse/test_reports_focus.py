"""The FOCUS export against charges added up row by row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meterhouse.streams.control import RateCard, Snapshot, Tenant
from meterhouse.warehouse.books import SeenBooks
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.reports.chargeback import chargeback
from meterhouse.warehouse.reports.errors import BooksError, ReportError
from meterhouse.warehouse.reports.focus import MAX_DAYS, focus
from meterhouse.warehouse.reports.focus_files import csv_pieces, parquet_pieces
from meterhouse.warehouse.reports.focus_query import BillingAccount, FocusQuery
from meterhouse.warehouse.reports.groups import Selection
from meterhouse.warehouse.view import EVERYTHING, Grant, View
from tests.builders import DAY_US, HOUR_US, MINUTE_US, T0_US
from tests.focus_checks import csv_rows, faults, parquet_rows, total
from tests.warehouse.filled import KINDS, card, charges_of, fill, microseconds

CHANGE_US = T0_US + 30 * MINUTE_US + 1  # the list price changes within an hour
OWN_CHANGE_US = T0_US + 45 * MINUTE_US  # and so does a negotiated one


def dated(made: RateCard, from_us: int, to_us: int | None = None) -> RateCard:
    return replace(made, valid_from_us=from_us, valid_to_us=to_us)


SNAPSHOT = Snapshot(
    version=3,
    currency="EUR",
    tenants=(
        Tenant("acme", 'Acme "Größe", Ltd.\nEurope', ("group", "consumer"), "CC-1"),
        Tenant("bolt", "=Bolt", ("group",), None),
        Tenant("cork", "Cork", (), "@CC"),
    ),
    rate_cards=(
        card(1, "atlas-large"),
        dated(card(2, "atlas-large", input=1_999_999, output=1), CHANGE_US),
        card(3, "atlas-large", "bolt", input=2_000_001),
        dated(card(4, "atlas-large", "bolt", input=7), OWN_CHANGE_US),
        card(5, "corks-own", "cork", cache_read=0),  # a negotiated price without a list price
        dated(card(6, "atlas-small"), T0_US - DAY_US, T0_US + 2 * HOUR_US),  # nobody agreed on a price after it
    ),
)
ACCOUNT = BillingAccount("platform-1", "Platform, Inc.")
TENANTS = ("acme", "bolt", "cork", "stranger")
MODELS = ("atlas-large", "atlas-small", "corks-own")
APPLICATIONS = ("=SUM(A1)", "+1", "-2", "@x", "поиск")
ROWS = [
    {
        "tenant": TENANTS[i % 4],
        "model": MODELS[i % 7 % 3],
        "application": APPLICATIONS[i % 11 % 5],
        "status": ("ok", "aborted", "error", "throttled", "ok")[i % 13 % 5],
        "time": T0_US - DAY_US // 2 + i * 1_234_567_891 % DAY_US if i // 4 % 2 else T0_US + i * 7_654_321 % HOUR_US,
        "partition": i % 2,
        "input_tokens": i * 37 % 1000,
        "cache_read_tokens": i * 11 % 64,
        "cache_write_tokens": i % 3,
        "output_tokens": i * 7 % 500,
        "reasoning_tokens": i % 2,
    }
    for i in range(500)
] + [{"tenant": "acme", "time": T0_US + HOUR_US, "input_tokens": 2**40, "offset": 500 + i} for i in range(3)]
WHOLE = Selection(T0_US - DAY_US, T0_US + DAY_US)
GRANTS = st.builds(Grant, st.sampled_from(TENANTS), st.sampled_from((None, *APPLICATIONS)))
VIEWS = st.one_of(st.just(EVERYTHING), st.builds(View, st.lists(GRANTS, max_size=3).map(tuple)))


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    folder: Path = tmp_path_factory.mktemp("lake")
    with Lake.open(LakeConfig(folder / "lake.sqlite", folder / "data", threads=1)) as lake:
        yield lake


@pytest.fixture(scope="module")
def charges(lake: Lake) -> list[dict[str, Any]]:
    return fill(lake, ROWS, snapshot=SNAPSHOT)


def asked(selection: Selection = WHOLE, control: Snapshot = SNAPSHOT) -> FocusQuery:
    return FocusQuery(control, control.rate_cards, ACCOUNT, selection)


def as_csv(lake: Lake, query: FocusQuery, view: View = EVERYTHING) -> list[dict[str, str]]:
    with focus(SeenBooks(lake, view), query) as export:
        return csv_rows(b"".join(csv_pieces(export)).decode())


def as_parquet(lake: Lake, query: FocusQuery, view: View = EVERYTHING) -> bytes:
    with focus(SeenBooks(lake, view), query) as export:
        return b"".join(parquet_pieces(export))


def of(charges: Sequence[dict[str, Any]], selection: Selection, view: View = EVERYTHING) -> list[dict[str, Any]]:
    return [
        row
        for row in charges
        if selection.from_us <= microseconds(row) < selection.to_us and view.sees(row["tenant"], row["application"])
    ]


def list_card(row: dict[str, Any]) -> int | None:
    """The list price that a charge is compared with, by hand."""
    if row["model"] != "atlas-large":
        return None if row["model"] == "corks-own" else 6
    return 2 if microseconds(row) >= CHANGE_US else 1


def truth(charges: Sequence[dict[str, Any]], selection: Selection) -> dict[tuple[str, ...], tuple[int, int, int]]:
    """Grain of a row → its tokens, and pico-units per token as billed and as listed."""
    prices = {c.id: c.pico_per_token for c in SNAPSHOT.rate_cards}
    sums: dict[tuple[str, ...], int] = defaultdict(int)
    picos: dict[tuple[str, ...], tuple[int, int]] = {}
    for row in charges:
        for kind in KINDS:
            if row["disposition"] == "billed" and row[f"{kind}_tokens"]:
                hour_us = microseconds(row) // HOUR_US * HOUR_US
                period = [max(hour_us, selection.from_us), min(hour_us + HOUR_US, selection.to_us)]
                listed = list_card(row)
                key = (
                    *(datetime.fromtimestamp(us / 1e6, UTC).isoformat().replace("+00:00", "Z") for us in period),
                    row["tenant"], row["application"], f"atlas/{row['model']}/{kind}", f"{row['card']}/{kind}",
                    f"{listed}/{kind}" if listed else "",
                )  # fmt: skip
                sums[key] += row[f"{kind}_tokens"]
                picos[key] = prices[row["card"]][kind], prices[listed or row["card"]][kind]
    return {key: (tokens, *picos[key]) for key, tokens in sums.items()}


def told(rows: Sequence[dict[str, str]]) -> dict[tuple[str, ...], tuple[int, int, int]]:
    names = (
        "ChargePeriodStart", "ChargePeriodEnd", "SubAccountId", "x_Application", "SkuId", "SkuPriceId",
        "x_ListSkuPriceId",
    )  # fmt: skip
    return {
        tuple(row[name] for name in names): (
            int(row["ConsumedQuantity"]),
            int(Decimal(row["ContractedUnitPrice"]).scaleb(6)),
            int(Decimal(row["ListUnitPrice"]).scaleb(6)),
        )
        for row in rows
    }


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(VIEWS, st.integers(-DAY_US // 2, 3 * HOUR_US), st.integers(1, DAY_US // 2 // 1_000_000))
def test_rows_are_the_charges_of_any_range_and_view_and_add_up_to_the_chargeback(
    lake: Lake, charges: list[dict[str, Any]], view: View, start: int, length_s: int
) -> None:
    selection = Selection(
        T0_US + start // 1_000_000 * 1_000_000, T0_US + start // 1_000_000 * 1_000_000 + length_s * 10**6
    )
    seen, query = of(charges, selection, view), asked(selection, view.cut(SNAPSHOT))
    rows = as_csv(lake, query, view)
    billed = Decimal(sum(row["cost_pico"] or 0 for row in seen)).scaleb(-12)
    assert chargeback(SeenBooks(lake, view), view.cut(SNAPSHOT), selection).total.cost == billed
    assert faults(rows, billed) == []
    assert told(rows) == truth(seen, selection)
    assert parquet_rows(as_parquet(lake, query, view)) == rows


def test_prices_that_change_within_an_hour_make_a_row_each(lake: Lake, charges: list[dict[str, Any]]) -> None:
    hour = Selection(T0_US, T0_US + HOUR_US, {"tenant": ["bolt"], "model": ["atlas-large"]})
    rows = [row for row in as_csv(lake, asked(hour)) if row["x_TokenKind"] == "input"]
    names = ("SkuPriceId", "ContractedUnitPrice", "x_ListSkuPriceId", "ListUnitPrice")
    assert sorted({tuple(row[name] for name in names) for row in rows}) == [
        ("3/input", "2.000001", "1/input", "2.500000"),
        ("3/input", "2.000001", "2/input", "1.999999"),
        ("4/input", "0.000007", "2/input", "1.999999"),
    ]


def test_without_a_list_price_the_negotiated_one_stands_for_it_and_no_id_does(
    lake: Lake, charges: list[dict[str, Any]]
) -> None:
    rows = as_csv(lake, asked(replace(WHOLE, filters={"model": ["corks-own"]})))
    assert {row["SubAccountId"] for row in rows} == {"cork"}
    assert {row["x_ListSkuPriceId"] for row in rows} == {""}
    assert all(row["ListCost"] == row["BilledCost"] for row in rows)
    free = [row for row in rows if row["x_TokenKind"] == "cache_read"]
    assert free  # tokens at a price of nothing are rows that cost nothing
    assert {row["BilledCost"] for row in free} == {"0.000000000000"}


def test_usage_without_a_price_is_counted_and_makes_no_row(lake: Lake, charges: list[dict[str, Any]]) -> None:
    late = Selection(T0_US + 2 * HOUR_US, T0_US + DAY_US, {"model": ["atlas-small"]})
    unpriced = [row for row in of(charges, late) if row["model"] == "atlas-small" and row["disposition"] == "unpriced"]
    assert unpriced
    table = pq.read_table(pa.BufferReader(as_parquet(lake, asked(late))))
    assert len(table) == 0
    assert table.schema.metadata[b"meterhouse.unpriced_requests"] == str(len(unpriced)).encode()
    assert table.schema.metadata[b"focus_version"] == b"1.4"


def test_texts_stand_as_they_are_whatever_they_hold(lake: Lake, charges: list[dict[str, Any]]) -> None:
    rows = as_csv(lake, asked())
    assert {row["x_Application"] for row in rows} == {*APPLICATIONS, "assistant"}
    assert {row["SubAccountName"] for row in rows} == {'Acme "Größe", Ltd.\nEurope', "=Bolt", "Cork", "stranger"}
    assert {row["Tags"] for row in rows if row["SubAccountId"] in ("acme", "stranger")} == {
        '{"meterhouse/cost_center":"CC-1","meterhouse/org_unit":"group/consumer"}',
        "{}",
    }
    assert {(row["BillingAccountId"], row["InvoiceIssuerName"], row["BillingCurrency"]) for row in rows} == {
        ("platform-1", "Platform, Inc.", "EUR")
    }


def test_the_least_and_the_largest_amounts_have_all_their_digits(lake: Lake, charges: list[dict[str, Any]]) -> None:
    rows = as_csv(lake, asked())
    largest = max(rows, key=lambda row: int(row["ConsumedQuantity"]))
    assert (largest["ConsumedQuantity"], largest["PricingQuantity"], largest["BilledCost"]) == (
        str(3 * 2**40), "3298534.883328", str(Decimal(3 * 2**40) * 1_999_999 / 10**12),
    )  # fmt: skip
    assert any(row["BilledCost"].startswith("0.00000000") and Decimal(row["BilledCost"]) for row in rows)


def test_a_range_that_cuts_a_second_says_so_in_its_charge_periods(lake: Lake, charges: list[dict[str, Any]]) -> None:
    rows = as_csv(lake, asked(Selection(T0_US + 1, T0_US + HOUR_US - 250_000)))
    assert {(row["ChargePeriodStart"], row["ChargePeriodEnd"]) for row in rows} == {
        ("2026-11-01T00:00:00.000001Z", "2026-11-01T00:59:59.750000Z")
    }


def test_a_charge_keeps_the_price_that_it_was_made_with(tmp_path: Path) -> None:
    """A price recorded later for an earlier time changes no row; two cards of one hour are two rows."""
    retroactive = dated(card(9, "atlas-large", input=5), T0_US - 1)
    later = replace(SNAPSHOT, rate_cards=(*SNAPSHOT.rate_cards, retroactive))
    with Lake.open(LakeConfig(tmp_path / "lake.sqlite", tmp_path / "data", threads=1)) as lake:
        fill(lake, [{"time": T0_US, "input_tokens": 10}], snapshot=SNAPSHOT)
        fill(lake, [{"time": T0_US, "input_tokens": 10, "offset": 1, "id": "second"}], snapshot=later)
        rows = as_csv(lake, asked(control=later))
    assert [(row["SkuPriceId"], row["BilledCost"]) for row in rows] == [
        ("1/input", "0.000025000000"),
        ("9/input", "0.000000000050"),
    ]


def test_an_export_that_does_not_add_up_to_the_chargeback_fails_at_its_end(tmp_path: Path) -> None:
    with Lake.open(LakeConfig(tmp_path / "lake.sqlite", tmp_path / "data", threads=1)) as lake:
        fill(lake, [{"time": T0_US, "input_tokens": 10}, {"time": T0_US, "output_tokens": 1}], snapshot=SNAPSHOT)
        with lake.borrowed() as cursor:
            cursor.execute("UPDATE rollup_day SET input_tokens = input_tokens + 1")
        with focus(lake, asked()) as export, pytest.raises(BooksError, match="run `meterhouse verify`"):
            list(csv_pieces(export))


def test_days_of_many_requests_are_read_one_after_the_other(
    lake: Lake, charges: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = as_csv(lake, asked())
    monkeypatch.setattr("meterhouse.warehouse.reports.focus.PART_REQUESTS", 100)
    with focus(lake, asked()) as export:
        assert export.parts == [(WHOLE.from_us, T0_US), (T0_US, WHOLE.to_us)]
        done = [export.parts_done for _ in csv_pieces(export)]
    assert (done[0], export.parts_done) == (0, 2)
    assert as_csv(lake, asked()) == whole


def test_an_empty_range_of_the_books_is_a_header_alone(lake: Lake, charges: list[dict[str, Any]]) -> None:
    nothing = Selection(T0_US - 100 * DAY_US, T0_US - 99 * DAY_US)
    assert as_csv(lake, asked(nothing)) == []
    assert parquet_rows(as_parquet(lake, asked(nothing))) == []


@pytest.mark.parametrize(
    ("selection", "message"),
    [(Selection(T0_US, T0_US), "the range is empty"), (Selection(T0_US, T0_US + MAX_DAYS * DAY_US + 1), "366 days")],
)
def test_a_range_without_sense_is_refused(lake: Lake, selection: Selection, message: str) -> None:
    with pytest.raises(ReportError, match=message), focus(lake, asked(selection)):
        pass


def test_the_charges_of_these_tests_meet_every_price() -> None:
    """A guard of these tests themselves."""
    made = charges_of(ROWS, SNAPSHOT)
    assert {row["card"] for row in made if row["card"]} == {c.id for c in SNAPSHOT.rate_cards}
    assert {row["disposition"] for row in made} == {"billed", "unpriced", "unbilled"}
    assert total([{"BilledCost": "0.1"}, {"BilledCost": "0.2"}]) == Decimal("0.3")
