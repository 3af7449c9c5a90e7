"""The FOCUS export of a replayed trace: exact against the oracle, sound to `focus-toolkit`, and with a planted fault
found out by one of the two checks."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Literal

import pytest

from tests.e2e.conftest import Books
from tests.e2e.house import SPAN
from tests.focus_checks import csv_rows, faults, parquet_rows, toolkit
from tests.oracle import books

Row = dict[str, str]


def exported(kept: Books, *more: str) -> str:
    """What a pipe gets, with its line ends."""
    return kept.house.ask("export", "focus", *SPAN, *more)


def billed(kept: Books) -> Decimal:
    return Decimal(books.money(sum((each.cost for each in kept.charges), Fraction(0))))


def test_the_rows_of_a_trace_are_those_of_the_oracle(kept: Books) -> None:
    truth: dict[tuple[str, ...], tuple[int, Fraction]] = defaultdict(lambda: (0, Fraction(0)))
    for each in kept.charges:
        event = each.event
        hour = books.rfc3339(event.time // 3_600_000_000 * 3_600_000_000)
        for kind in books.KINDS:
            if each.disposition == "billed" and event.tokens[kind]:
                price = books.price_at(kept.control, event.provider, event.model, event.tenant, event.time)
                assert price is not None
                per_million = f"{int(price.per_million[kind] * 10**6):07d}"
                key = (event.tenant, event.application, event.provider, event.model, kind, hour, per_million)
                tokens, cost = truth[key]
                truth[key] = tokens + event.tokens[kind], cost + each.costs[kind]
    rows = csv_rows(exported(kept))
    names = ("SubAccountId", "x_Application", "x_Provider", "x_Model", "x_TokenKind", "ChargePeriodStart")
    ours: dict[tuple[str, ...], tuple[int, Fraction]] = defaultdict(lambda: (0, Fraction(0)))
    for row in rows:
        key = (*(row[name] for name in names), row["ContractedUnitPrice"].replace(".", ""))
        tokens, cost = ours[key]  # where the list price changes beside a negotiated one, there is a row for each
        ours[key] = tokens + int(row["ConsumedQuantity"]), cost + Fraction(row["BilledCost"])
    assert dict(ours) == dict(truth)
    assert faults(rows, billed(kept)) == []
    assert Decimal(kept.house.report("chargeback")["total"]["cost"]) == billed(kept)


@pytest.fixture
def one(replayed: Callable[[str], Books]) -> Books:
    """The books of the trace that reads from caches, only to be read."""
    return replayed("mooncake")


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_the_toolkit_finds_nothing_wrong_with_a_file(one: Books, tmp_path: Path, form: str) -> None:
    file = tmp_path / f"focus.{form}"
    said = one.house.run("export", "focus", *SPAN, "--format", form, "-o", str(file))
    assert said.stdout == ""
    assert "have no price yet and are not in it" in said.stderr
    assert list(tmp_path.iterdir()) == [file]
    rows = csv_rows(exported(one))
    data = file.read_bytes()
    assert (csv_rows(data.decode()) if form == "csv" else parquet_rows(data)) == rows
    checked = toolkit(file)
    assert checked.returncode == 0, checked.stdout + checked.stderr


Finder = Literal["toolkit", "ours"]


def _set(name: str, value: str) -> Callable[[list[Row]], list[Row]]:
    """The same rows, but for one cell of the third."""
    return lambda rows: [*rows[:2], rows[2] | {name: value}, *rows[3:]]


def _more(name: str, by: str) -> Callable[[list[Row]], list[Row]]:
    return lambda rows: _set(name, str(Decimal(rows[2][name]) + Decimal(by)))(rows)


PLANTED: dict[str, tuple[Finder, Callable[[list[Row]], list[Row]]]] = {
    "a list cost that is not price times quantity": ("toolkit", _more("ListCost", "0.01")),
    "a contracted cost that is not price times quantity": ("toolkit", _more("ContractedCost", "0.01")),
    "a column is missing": (
        "toolkit",
        lambda rows: [{name: cell for name, cell in row.items() if name != "BillingPeriodEnd"} for row in rows],
    ),
    "a column that FOCUS does not know": ("toolkit", lambda rows: [row | {"Requests": "1"} for row in rows]),
    "a period that is no time": ("toolkit", _set("ChargePeriodEnd", "2026-03-28 23:00")),
    "a category that FOCUS does not know": ("toolkit", _set("ServiceCategory", "Artificial Intelligence")),
    "a kind of charge that FOCUS does not know": ("toolkit", _set("ChargeCategory", "Tokens")),
    "a currency that there is not": ("toolkit", _set("BillingCurrency", "USDX")),
    "a cost that is null": ("toolkit", _set("BilledCost", "")),
    "a quantity without a unit": ("toolkit", _set("PricingUnit", "")),
    "a price without its list price": ("toolkit", _set("ListUnitPrice", "")),
    "usage without a price id": ("toolkit", _set("SkuPriceId", "")),
    "details that are no object": ("toolkit", _set("SkuPriceDetails", "input")),
    "a pico-unit too much": ("ours", _more("ListCost", "0.000000000001")),
    "a billed cost beside the contracted one": ("ours", _more("BilledCost", "0.000000000001")),
    "a number with an exponent": ("ours", _set("BilledCost", "1E-7")),
    "a billing period of another month": ("ours", _set("BillingPeriodStart", "2026-02-01T00:00:00Z")),
    "a charge period of more than an hour": ("ours", _set("ChargePeriodEnd", "2026-03-29T03:00:00Z")),
    "a row too few": ("ours", lambda rows: rows[:2] + rows[3:]),
    "a row twice": ("ours", lambda rows: [*rows, rows[2]]),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(one: Books, tmp_path: Path, fault: str) -> None:
    finder, plant = PLANTED[fault]
    rows = plant(csv_rows(exported(one))[:50])
    whole = sum((Decimal(row["BilledCost"]) for row in csv_rows(exported(one))[:50]), Decimal(0))
    if finder == "ours":
        assert faults(rows, whole) != []
        return
    file = tmp_path / "planted.csv"
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    file.write_text(text.getvalue(), encoding="utf-8", newline="")
    checked = toolkit(file)
    assert checked.returncode == 1, checked.stdout + checked.stderr


def test_a_file_that_cannot_be_finished_leaves_the_old_one(one: Books, tmp_path: Path) -> None:
    house, file = one.house.copy(tmp_path / "home"), tmp_path / "files" / "focus.csv"
    file.parent.mkdir()
    file.write_text("the old one")
    for parquet in (house.home / "lake" / "data" / "main" / "charges").rglob("*.parquet"):
        parquet.unlink()
    said = house.run("export", "focus", *SPAN, "-o", str(file), code=1)
    assert "cannot be read" in said.stderr
    assert file.read_text() == "the old one"
    assert list(file.parent.iterdir()) == [file]


def test_one_tenants_file_has_its_rows_alone(one: Books) -> None:
    rows = csv_rows(exported(one, "--tenant", "acme-bank"))
    assert rows == [row for row in csv_rows(exported(one)) if row["SubAccountId"] == "acme-bank"]
    assert rows


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--format", "parquet"), "-o"),
        (("--from", "2026-01-01", "--to", "2026-01-01"), "the range is empty"),
        (("--from", "2020-01-01"), "a year at a time"),
    ],
)
def test_a_wrong_use_says_what_to_do(one: Books, arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(AssertionError, match=said):  # with what it printed to stderr
        one.house.ask("export", "focus", *arguments)
    assert one.house.ask("export", "focus", *arguments, code=2) == ""
