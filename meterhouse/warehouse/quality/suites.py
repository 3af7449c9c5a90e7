"""All that is expected of the data, in one place: each suite's checks, by kind.

`range`: values that can be. `set`: values that there are. `freshness`: what should have come by now has.
`completeness`: one side has what the other has. `drift`: a day is like the same weekday a week before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from meterhouse.ingest.event import BILLED_STATUSES, STATUSES, TOKEN_KINDS
from meterhouse.warehouse.quality.checks import Between, Check, OneOf, PairOneOf, Same, Suite

DAYS: Final = 8
"""Whole days of UTC, today's among them, that events and roll-ups are looked at: a week and the day that is compared
with the one a week before. `meterhouse verify` checks the whole lake."""
FRESH_S: Final = 900
"""Age of a partition's oldest record that is not in the lake: the lookout tells of a meter that is five minutes behind,
and this is the last to notice when nobody looks."""
PLAUSIBLE_TOKENS: Final = 20_000_000
"""Of one request: twice the largest context that models are sold with. What is more is in another unit, or a sum."""
PLAUSIBLE_US: Final = 86_400 * 1_000_000
"""A day: no request takes longer, and microseconds that are nanoseconds do."""
PLAUSIBLE_PICO: Final = 10_000 * 10**12
"""Cost of one request, ten thousand units of the currency."""
DEAREST_PICO: Final = 10**12
"""A token's price, one unit of the currency: what the control file takes at most."""
DEAREST_LIMIT: Final = 10**15
MIN_REQUESTS: Final = 1_000
"""Requests of a tenant's or model's day below which nothing is said of drift: fewer halve and double by chance."""

_DISPOSITIONS: Final = ("billed", "unpriced", "unbilled")
_PAIRS: Final = tuple(
    (status, disposition)
    for status in STATUSES
    for disposition in (_DISPOSITIONS[:2] if status in BILLED_STATUSES else _DISPOSITIONS[2:])
)
_ASK: Final = "ask who publishes for this tenant what changed; `meterhouse charges --where tenant=...` lists the events"
_VERIFY: Final = "run `meterhouse verify`: it names every row of the whole lake; restore the lake if it differs"

EVENTS: Final = (
    Check("tokens-low", "range", "events", Between("fewest_tokens", 0, None), "token counts are not negative", _ASK),
    Check(
        "tokens-high",
        "range",
        "events",
        Between("most_tokens", None, PLAUSIBLE_TOKENS),
        f"a request has at most {PLAUSIBLE_TOKENS:,} tokens",
        _ASK,
    ),
    Check("durations-low", "range", "events", Between("shortest_us", 0, None), "durations are not negative", _ASK),
    Check(
        "durations-high", "range", "events", Between("longest_us", None, PLAUSIBLE_US), "a request takes a day at most",
        "see that this gateway reports microseconds",
    ),
    Check(
        "first-token", "range", "events", Between("first_token_after_end", 0, 0),
        "the first token comes before the end",
        "see how this gateway measures `time_to_first_token_us`: from the request's start",
    ),
    Check("http-low", "range", "events", Between("least_http", 100, None), "an HTTP status is 100 or more", _ASK),
    Check("http-high", "range", "events", Between("most_http", None, 599), "an HTTP status is 599 or less", _ASK),
    Check(
        "cost-low", "range", "events", Between("least_cost_pico", 0, None), "no charge is negative", _VERIFY,
    ),
    Check(
        "cost-high", "range", "events", Between("most_cost_pico", None, PLAUSIBLE_PICO),
        f"a request costs at most {PLAUSIBLE_PICO // 10**12:,}",
        "look at the rate card: its price may be per thousand tokens where it is per million",
    ),
    Check(
        "not-early", "range", "events", Between("too_early_s", 0, 0), "no event is of a time far ahead of its arrival",
        "set the clock of what publishes for this tenant",
    ),
    Check(
        "not-late", "range", "events", Between("too_late_s", 0, 0), "no event is of a time far behind its arrival",
        "ask who publishes for this tenant why events are held back",
    ),
    Check("status", "set", "event_words", OneOf("status", STATUSES), "statuses are known", _VERIFY),
    Check("disposition", "set", "event_words", OneOf("disposition", _DISPOSITIONS), "dispositions are known", _VERIFY),
    Check(
        "status-disposition", "set", "event_words", PairOneOf("status", "disposition", _PAIRS),
        "what is billed follows from the status", _VERIFY,
    ),
    Check(
        "watermark", "freshness", "partitions", Between("waiting_s", None, FRESH_S),
        f"no record waits longer than {FRESH_S // 60} minutes for the lake",
        "see that a meter runs and what it says; the figures of this partition are as old as that",
    ),
    Check(
        "ledger-read", "completeness", "ledger_read", Same("read", "became"), "events read are what became of them",
        _VERIFY,
    ),
    Check("ledger-rows", "completeness", "ledger", Same("counted", "stored"), "the lake has the rows that were counted",
        _VERIFY,
    ),
    Check(
        "rejects-drift", "drift", "rejects", Between("grew_permille", None, 50),
        "the share of rejects grew by at most five points in a week",
        "`meterhouse rejects` says why they are refused; a new release of a gateway is the usual cause",
    ),
)  # fmt: skip

ROLLUPS: Final = (
    Check("requests-low", "range", "rollups", Between("least_requests", 0, None), "requests are not negative", _VERIFY),
    Check("tokens-low", "range", "rollups", Between("least_tokens", 0, None), "tokens are not negative", _VERIFY),
    Check("cost-low", "range", "rollups", Between("least_cost", 0, None), "costs are not negative", _VERIFY),
    Check("steps", "range", "rollups", Between("off_step", 0, 0), "times are whole minutes, hours and days", _VERIFY),
    Check("status", "set", "rollup_words", OneOf("status", STATUSES), "statuses are known", _VERIFY),
    Check(
        "status-disposition", "set", "rollup_words", PairOneOf("status", "disposition", _PAIRS),
        "what is billed follows from the status", _VERIFY,
    ),
    Check(
        "newest", "freshness", "rollup_newest", Between("steps_behind", 0, 0),
        "minutes, hours and days reach as far as the charges", _VERIFY,
    ),
    Check(
        "requests", "completeness", "rollup_sums", Same("requests", "charged_requests"),
        "roll-ups have the requests of the charges", _VERIFY,
    ),
    Check(
        "tokens", "completeness", "rollup_sums", Same("tokens", "charged_tokens"),
        "roll-ups have the tokens of the charges", _VERIFY,
    ),
    Check(
        "cost", "completeness", "rollup_sums", Same("cost", "charged_cost"), "roll-ups have the cost of the charges",
        _VERIFY,
    ),
    Check(
        "requests-drift", "drift", "days", Between("requests_percent", 33, 300),
        "a day has between a third and three times the requests of the week before",
        "ask the tenant; a gateway that publishes twice, or not at all, looks like this",
    ),
    Check(
        "cost-drift", "drift", "days", Between("cost_percent", 33, 300),
        "a day costs between a third and three times what it cost the week before",
        "`meterhouse explain` says whether price, volume or model mix did it",
    ),
    Check(
        "tokens-drift", "drift", "days", Between("tokens_a_request_percent", 50, 200),
        "a request has between half and twice the tokens of the week before",
        "ask who publishes for this tenant: counts that are sums of a session look like this, and so do lost ones",
    ),
)  # fmt: skip

_APPLY: Final = "correct the control file and `meterhouse apply` it"

CONTROL: Final = (
    Check(
        "prices", "range", "prices", Between("pico_per_token", 0, DEAREST_PICO),
        "a token's price is between nothing and one unit of the currency", _APPLY,
    ),
    Check("limits", "range", "budgets", Between("limit_units", 1, DEAREST_LIMIT), "limits are above nothing", _APPLY),
    Check("thresholds-low", "range", "budgets", Between("lowest_threshold", 1, None), "thresholds are above nothing",
        _APPLY,
    ),
    Check("thresholds-high", "range", "budgets", Between("highest_threshold", None, 1_000),
        "thresholds are at most ten times the limit", _APPLY,
    ),
    Check(
        "overlaps", "range", "card_spans", Between("overlap_s", 0, 0), "no two prices hold at once",
        "end one rate card where the next begins; leave valid_to out and it does",
    ),
    Check("kinds", "set", "prices", OneOf("kind", tuple(kind.name for kind in TOKEN_KINDS)), "token kinds are known",
        _APPLY,
    ),
    Check("scopes", "set", "scopes", OneOf("names", ("known",)), "budgets and objectives name what there is",
        "a budget of a tenant or model that nobody knows never fills: correct its scope",
    ),
    Check("tenants", "set", "used_tenants", OneOf("in_control_data", ("yes",)), "who is billed is in control data",
        "add the tenant to the control file: without it there is no cost center to charge",
    ),
    Check("cards", "set", "used_cards", OneOf("in_control_data", ("yes",)), "the prices that charges name are there",
        "restore the control database from the back-up that goes with this lake",
    ),
    Check("versions-known", "completeness", "versions", Between("versions_ahead", None, 0),
        "charges name no version that control data has not",
        "restore the control database from the back-up that goes with this lake",
    ),
    Check("versions-fresh", "freshness", "versions", Between("versions_behind", None, 0),
        "meters rate under the version in force",
        "restart the meters: they cannot read the control database, see what they say",
    ),
    Check("gaps", "completeness", "card_spans", Between("gap_s", 0, 0), "prices follow each other without a gap",
        "requests in a gap have no price, or the list price: add a rate card that fills it",
    ),
    Check("unpriced", "completeness", "used_models", Between("unpriced", 0, 0), "every model that is used has a price",
        "add a rate card for all kinds of tokens that it has",
    ),
    Check("price-drift", "drift", "price_steps", Between("percent", 10, 1_000),
        "a price is between a tenth and ten times the one before it",
        "see that the price is per million tokens; a price in force is corrected by a card with a later valid_from",
    ),
)  # fmt: skip

SUITES: Final[Mapping[Suite, tuple[Check, ...]]] = {"events": EVENTS, "rollups": ROLLUPS, "control": CONTROL}
