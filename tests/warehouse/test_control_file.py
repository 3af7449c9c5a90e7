"""Reading a control file: exact values, and every problem told at once with its place."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterhouse.streams.control import Budget, Objective, RateCard, Scope, Tenant, WindowSpec
from meterhouse.warehouse.control_fields import Unfit, price, time_text, time_us
from meterhouse.warehouse.control_file import MAX_FILE_BYTES, ControlFile, parse
from tests.warehouse.control_texts import TEXT, edited

JANUARY_US = 1_767_225_600_000_000
"""2026-01-01T00:00:00Z."""


def values(file: ControlFile, section: str) -> list[object]:
    return [entry.value for entry in getattr(file, section)]


def told(text: str | bytes) -> list[str]:
    return [str(problem) for problem in parse(text).problems]


def test_a_file_is_read_to_the_last_digit() -> None:
    file = parse(TEXT)
    assert file.problems == ()
    assert file.currency is not None
    assert (file.currency.value, file.strict_tenants, file.unread) == ("EUR", None, False)
    assert values(file, "tenants") == [
        Tenant(id="acme", name="Acme", org=("group", "consumer"), cost_center="CC-1"),
        Tenant(id="no", name="no", org=("group",)),
    ]
    large = RateCard(
        id=0,
        provider="atlas",
        model="large",
        tenant=None,
        valid_from_us=JANUARY_US,
        valid_to_us=None,
        pico_per_token={"input": 2_500_000, "cache_read": 250_000, "output": 10_000_000},
        approved_by="finance@example.com",
    )
    swift = RateCard(
        id=0,
        provider="borea",
        model="swift",
        tenant=None,
        valid_from_us=JANUARY_US + 500_000,
        valid_to_us=JANUARY_US + 365 * 86_400_000_000,
        pico_per_token={"input": 1, "output": 0},
    )
    assert values(file, "rate_cards")[:2] == [large, swift]
    assert values(file, "budgets") == [
        Budget(
            id="acme-month",
            scope=Scope(tenant="acme", application="assistant", model="large"),
            window=WindowSpec("month", "Europe/Berlin"),
            limit_pico=20_000_000_000_000_000_001,
            limit_tokens=None,
            thresholds=(Decimal(50), Decimal("99.5"), Decimal(100)),
            on_exceeded="block",
        ),
        Budget(
            id="all-day",
            scope=Scope(),
            window=WindowSpec("day", "UTC"),
            limit_pico=None,
            limit_tokens=100,
            thresholds=(Decimal(100),),
            on_exceeded="notify",
        ),
    ]
    assert values(file, "objectives") == [
        Objective("fast", Scope(application="assistant"), "duration", 20_000, Decimal("0.99"), 30),
        Objective("up", Scope(org_unit="group"), "availability", None, Decimal("0.999"), 7),
    ]


def test_an_unquoted_price_does_not_pass_through_a_float() -> None:
    # 0.000003 is 3.0000000000000001e-06 to a float, and 9007199254740993 has no float at all.
    file = parse(
        edited(("input: 2.50", "input: 0.000003"), ('"20000000.000000000001"', "123456789012345.000000000007"))
    )
    assert file.rate_cards is not None
    assert file.budgets is not None
    assert file.rate_cards[0].value.pico_per_token["input"] == 3
    assert file.budgets[0].value.limit_pico == 123_456_789_012_345_000_000_000_007


def test_all_problems_of_a_file_are_told_together() -> None:
    text = edited(
        ("currency: EUR", "currency: euro"),
        ("{id: no, org: [group]}", "{id: acme, org: [group, group], cost_centre: x}"),
        ("input: 2.50", 'input: "-2.50"'),
        ('"0.000001"', '"0.0000001"'),
        ("limit_tokens: 100\n    limit: null", "limit_token: 100"),
        ("Europe/Berlin", "Europe/Berln"),
        ("[50, 99.5, 100]", "[80, 50]"),
        ('target: "0.99"', 'target: "99"'),
    )
    assert told(text) == [
        'currency (line 1) is "euro": write an ISO 4217 code, like USD or EUR',
        (
            "tenants[1].cost_centre (acme, line 4) is not known here (did you mean `cost_center`?): the keys are `id`, "
            "`name`, `org`, `cost_center`, `org_from`, `correct_history`"
        ),
        "tenants[1].org (acme, line 4) names an org unit twice: name each level once, from the root to the leaf",
        'tenants[1] (acme, line 4) has the id "acme" of tenants[0] again: remove one or change it',
        (
            "rate_card[0].per_million.input (atlas/large, line 9) is -2.50: a price is not negative (what is owed to a "
            "tenant is a correction, not a price)"
        ),
        (
            "rate_card[1].per_million.input (borea/swift, line 15) is 0.0000001: a price per million tokens has at "
            "most six decimals, so that a token costs a whole number of pico-units and bills add up exactly; round "
            "it to six decimals"
        ),
        (
            'budgets[0].window.time_zone (acme-month, line 24) is "Europe/Berln", which is no IANA time zone (like '
            "Europe/Berlin or UTC) (did you mean `Europe/Berlin`?)"
        ),
        (
            "budgets[0].thresholds (acme-month, line 26) are not ascending: write each once, from the lowest to the "
            "highest, like [50, 80, 100]"
        ),
        (
            "budgets[1].limit_token (all-day, line 31) is not known here (did you mean `limit_tokens`?): the keys are "
            "`id`, `scope`, `window`, `limit`, `limit_tokens`, `thresholds`, `on_exceeded`, `throttle_per_minute`, "
            "`when_stale`, `stale_after_s`"
        ),
        'budgets[1] (all-day, line 28) has no limit: add limit (money, like "250.00") or limit_tokens',
        "objectives[0].target (fast, line 33) is 99: it must lie between 0 and 1, both excluded; 99.9 percent is 0.999",
    ]


@pytest.mark.parametrize(
    ("old", "new", "path", "says"),
    [
        ("input: 2.50", "input: 1e-3", "rate_card[0].per_million.input", "plain digits"),
        ("input: 2.50", "input: .5", "rate_card[0].per_million.input", "plain digits"),
        ("input: 2.50", "input: 1000000.01", "rate_card[0].per_million.input", "another unit"),
        ("input: 2.50", "inptu: 2.50", "rate_card[0].per_million.inptu", "did you mean `input`"),
        ("{input: 2, output: 8}", "{}", "rate_card[2].per_million", "holds no price"),
        ("{input: 2, output: 8}", "8", "rate_card[2].per_million", "must be a mapping with `input`"),
        ("{input: 2, output: 8}", "{input: [2]}", "rate_card[2].per_million.input", "is a list"),
        ("2026-12-01T00:00:00Z", "2026-12-01T00:00:00", "rate_card[2].valid_from", "no time zone"),
        ("2026-12-01T00:00:00Z", "2026-12-01", "rate_card[2].valid_from", "like 2026-01-01T00:00:00Z"),
        ("2026-12-01T00:00:00Z", "2026-12-32T00:00:00Z", "rate_card[2].valid_from", "no time"),
        ("2026-12-01T00:00:00Z", "1026-12-01T00:00:00Z", "rate_card[2].valid_from", "2000"),
        ("2027-01-01T00:00:00Z", "2026-01-01T00:00:00.5Z", "rate_card[1].valid_to", "not later than valid_from"),
        ("    model: swift\n", "", "rate_card[1].model", "missing"),
        ('"20000000.000000000001"', '"0.0000000000001"', "budgets[0].limit", "twelve decimals"),
        ('"20000000.000000000001"', "0", "budgets[0].limit", "above 0"),
        ("limit_tokens: 100", "limit_tokens: 1.5", "budgets[1].limit_tokens", "whole number"),
        ("limit: null", "limit: 5", "budgets[1]", "both limit and limit_tokens"),
        ("[50, 99.5, 100]", "[50, 50]", "budgets[0].thresholds", "ascending"),
        ("[50, 99.5, 100]", "[50, 1000.01]", "budgets[0].thresholds[1]", "at most 1000"),
        ("[50, 99.5, 100]", "[0]", "budgets[0].thresholds[0]", "above 0"),
        ("[50, 99.5, 100]", "50", "budgets[0].thresholds", "must be a list"),
        ("on_exceeded: block", "on_exceeded: blok", "budgets[0].on_exceeded", "did you mean `block`"),
        ("every: month", "every: year", "budgets[0].window.every", "one of `day`, `week`, `month`"),
        ("time_zone: UTC", "time_zone: ../UTC", "budgets[1].window.time_zone", "no IANA time zone"),
        ("time_zone: UTC", "time_zone: Europe", "budgets[1].window.time_zone", "no IANA time zone"),
        ("below_ms: 20000, ", "", "objectives[0].below_ms", "below how many milliseconds"),
        ("sli: availability", "sli: availability, below_ms: 5", "objectives[1].below_ms", "remove it"),
        ("target: 0.999", "target: 1", "objectives[1].target", "between 0 and 1"),
        ("target: 0.999", "target: 0", "objectives[1].target", "between 0 and 1"),
        ("window_days: 7", "window_days: 367", "objectives[1].window_days", "from 1 to 366"),
        ("{id: no, org: [group]}", "{id: [no]}", "tenants[1].id", "is a list"),
        ("{id: no, org: [group]}", '{id: " no"}', "tenants[1].id", "without spaces"),
        ("{id: no, org: [group]}", "null", "tenants[1]", "must be a mapping"),
        ("tenants:", "tenant:", "tenant", "did you mean `tenants`"),
        ("tenants:", "strict_tenants: yes\ntenants:", "strict_tenants", "true or false"),
    ],
)
def test_a_wrong_field_is_told_with_its_path_and_what_to_do(old: str, new: str, path: str, says: str) -> None:
    first = parse(edited((old, new))).problems[0]
    assert first.path == path
    assert says in first.message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("- a\n", "must be a mapping with sections"),
        ("tenants:\n", "write [] if it shall be empty"),
        ("tenants: {id: acme}\n", "begin each entry with `-`"),
        ("tenants: [\n", "is not YAML"),
        ("tenants: &all []\nbudgets: *all\n", "uses an anchor"),
        ("budgets: *all\n", "uses an alias"),
        ("tenants: !!python/object:os.system []\n", "uses a tag"),
        ("tenants: []\n---\nbudgets: []\n", "second document with sections"),
        ("tenants: []\ntenants: []\n", "says `tenants` twice (first on line 1)"),
        ("? [a]\n: b\n", "a key is a text"),
        ("[" * 5000, "nested deeper than"),
        (b"tenants: \xff\n", "is not UTF-8 (byte 9)"),
        ("tenants: \x00\n", "is not YAML"),
        (b" " * (MAX_FILE_BYTES + 1), f"at most {MAX_FILE_BYTES} are read"),
    ],
)
def test_what_is_no_control_file_is_refused_as_a_whole(text: str | bytes, says: str) -> None:
    file = parse(text)
    assert says in str(file.problems[0])


def test_a_byte_order_mark_and_json_are_read_too() -> None:
    file = parse('\ufeff{"tenants": [{"id": "acme", "name": null}]}')
    assert (file.problems, values(file, "tenants")) == ((), [Tenant(id="acme", name="acme")])


@given(st.text() | st.binary())
@settings(max_examples=200, deadline=None)
def test_no_file_makes_the_reader_fail(content: str | bytes) -> None:
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogatepass")
    parse(content)


@given(st.integers(0, 10**12))
@settings(max_examples=200)
def test_a_price_of_six_decimals_is_a_whole_number_of_pico_per_token(pico: int) -> None:
    text = f"{Decimal(pico) / 10**6:f}"
    assert price(text) == price(text + ("0" if "." in text else ".0")) == pico


@given(st.integers(1, 10**13).filter(lambda n: n % 10))
@settings(max_examples=100)
def test_a_price_of_seven_decimals_is_refused(tenths: int) -> None:
    with pytest.raises(Unfit, match=r"six decimals|another unit"):
        price(f"{Decimal(tenths) / 10**7:f}")


@given(st.datetimes(), st.integers(-14 * 60, 14 * 60))
@settings(max_examples=200)
def test_times_keep_every_microsecond(moment: object, offset_minutes: int) -> None:
    from datetime import datetime, timedelta, timezone

    assert isinstance(moment, datetime)
    if not 2001 <= moment.year <= 9997:
        return
    zoned = moment.replace(tzinfo=timezone(timedelta(minutes=offset_minutes)))
    at_us = time_us(zoned.isoformat())
    assert time_us(time_text(at_us)) == at_us
    assert datetime.fromisoformat(time_text(at_us)) == zoned
