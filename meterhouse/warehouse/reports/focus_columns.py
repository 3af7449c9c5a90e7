"""The columns of a FOCUS 1.4 file, dataset Cost and Usage: one table of them, as typed values and as cells of CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from meterhouse.warehouse.lake_schema import quoted, sql_text
from meterhouse.warehouse.reports.query import PICO

FOCUS_VERSION: Final = "1.4"
MICRO: Final = "0.000001"
"""As an SQL literal, DECIMAL(6,6): one token in millions of them; one pico-unit per token as a price per million."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column, and its value in SQL over a line of `focus_query`: text, a DECIMAL, or microseconds of UTC."""

    name: str
    kind: Literal["text", "decimal", "time"]
    sql: str


def _text(name: str, sql: str) -> Column:
    return Column(name, "text", sql)


def _always(name: str, value: str) -> Column:
    return Column(name, "text", sql_text(value))


def _decimal(name: str, sql: str) -> Column:
    return Column(name, "decimal", sql)


def _time(name: str, sql: str) -> Column:
    return Column(name, "time", sql)


def _month(add: str = "") -> str:
    """Start of the month of UTC in which a line's hour lies, or of the one after it."""
    return f"epoch_us(date_trunc('month', make_timestamp(start_us)){add})"


def _cost(price: str) -> str:
    """Units of the currency, twelve decimals: tokens × pico-units per token, as each charge was worked out."""
    return f"(tokens * {price})::DECIMAL(26,0) * {PICO}"


def _unit_price(price: str) -> str:
    return f"{price}::DECIMAL(18,0) * {MICRO}"


COLUMNS: Final[Sequence[Column]] = (
    _decimal("BilledCost", _cost("own_pico")),
    _text("BillingAccountId", "$account_id"),
    _text("BillingAccountName", "$account_name"),
    _text("BillingCurrency", "$currency"),
    _time("BillingPeriodEnd", _month(" + INTERVAL 1 MONTH")),
    _time("BillingPeriodStart", _month()),
    _always("ChargeCategory", "Usage"),
    # Law 5 has corrections as rows of their own: they will say `Correction` where their month is invoiced already.
    _text("ChargeClass", "NULL::VARCHAR"),
    _text("ChargeDescription", "concat(meter, ' of ', model, ' by ', application)"),
    _always("ChargeFrequency", "Usage-Based"),
    _time("ChargePeriodEnd", "end_us"),
    _time("ChargePeriodStart", "start_us"),
    _decimal("ConsumedQuantity", "tokens::DECIMAL(26,0)"),
    _always("ConsumedUnit", "Tokens"),
    _decimal("ContractedCost", _cost("own_pico")),
    _decimal("ContractedUnitPrice", _unit_price("own_pico")),
    _decimal("EffectiveCost", _cost("own_pico")),
    _text("HostProviderName", "provider"),
    _text("InvoiceIssuerName", "$account_name"),
    _decimal("ListCost", _cost("list_pico")),
    _decimal("ListUnitPrice", _unit_price("list_pico")),
    _decimal("PricingQuantity", f"tokens::DECIMAL(26,0) * {MICRO}"),
    _always("PricingUnit", "1000000 Tokens"),
    _always("ServiceCategory", "AI and Machine Learning"),
    _text("ServiceName", "model"),
    _text("ServiceProviderName", "provider"),
    _always("ServiceSubcategory", "Generative AI"),
    _text("SkuId", "concat_ws('/', provider, model, kind)"),
    _text("SkuMeter", "meter"),
    _text("SkuPriceDetails", "details"),
    _text("SkuPriceId", "concat_ws('/', card, kind)"),
    _text("SubAccountId", "tenant"),
    _text("SubAccountName", "coalesce(tenant_name, tenant)"),
    _text("Tags", "coalesce(tags, '{}')"),
    _text("x_Application", "application"),
    _text("x_ListSkuPriceId", "CASE WHEN has_list_price THEN concat_ws('/', list_card, kind) END"),
    _text("x_Model", "model"),
    _text("x_Provider", "provider"),
    _text("x_TokenKind", "kind"),
)
"""In the order of the file: those of the specification by name, then our own."""

HEADER: Final = ",".join(column.name for column in COLUMNS) + "\r\n"
COST: Final = "BilledCost"
TOKENS: Final = "ConsumedQuantity"
LINE: Final = "line"


def typed_sql() -> str:
    """The select list of typed columns: text, DECIMALs wide enough to be exact, times in UTC."""
    return ", ".join(f"{_typed(column)} AS {quoted(column.name)}" for column in COLUMNS)


def csv_sql() -> str:
    """The select list of a line of CSV (RFC 4180), and of what is added up: LINE, COST, TOKENS.

    Texts are in quotes, so that an empty one is no null; numbers have all their digits and no exponent.
    """
    cells = ", ".join(f"coalesce({_cell(column)}, '')" for column in COLUMNS)
    by_name = {column.name: column.sql for column in COLUMNS}
    sums = f"{by_name[COST]} AS {quoted(COST)}, {by_name[TOKENS]} AS {quoted(TOKENS)}"
    return f"concat(concat_ws(',', {cells}), chr(13), chr(10)) AS {LINE}, {sums}"


def _typed(column: Column) -> str:
    return f"make_timestamptz({column.sql})" if column.kind == "time" else column.sql


def _cell(column: Column) -> str:
    if column.kind == "text":
        return f"""'"' || replace({column.sql}, '"', '""') || '"'"""
    if column.kind == "decimal":
        return f"({column.sql})::VARCHAR"
    moment = f"make_timestamp({column.sql})"
    # A part of a second only where there is one: a range may begin or end within it.
    return (
        f"CASE WHEN {column.sql} % 1000000 = 0 THEN strftime({moment}, '%Y-%m-%dT%H:%M:%SZ')"
        f" ELSE strftime({moment}, '%Y-%m-%dT%H:%M:%S.%fZ') END"
    )
