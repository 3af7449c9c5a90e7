# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Usage review
#
# For the owner of an application: how it was used in the last four weeks, what that cost, how fast it answered, and
# what the month will come to. The books are opened so that nothing of anyone else is in them.

# %%
import charts
import pandas as pd

from meterhouse.api.notebook import opened
from meterhouse.warehouse.reports.chargeback import chargeback
from meterhouse.warehouse.reports.comparison import comparison
from meterhouse.warehouse.reports.forecasts import forecasts
from meterhouse.warehouse.reports.groups import Selection, datetime_of, month_of
from meterhouse.warehouse.reports.query import DAY_US
from meterhouse.warehouse.reports.slo import slo
from meterhouse.warehouse.reports.usage import usage

MINE = "acme-retail/assistant"  # tenant/application

with opened(MINE) as moment:
    today_us = moment.at_us // DAY_US * DAY_US
    weeks = Selection(today_us - 28 * DAY_US, today_us)
    this_month = Selection(*month_of(moment.at_us))
    asked = moment.books, moment.control
    used = usage(*asked, weeks, ("tenant", "application", "model"), "day", moment.freshness)
    bill = chargeback(*asked, weeks, ("tenant", "application", "model"), moment.freshness)
    compared = comparison(*asked, weeks, (), moment.freshness)
    objectives = slo(*asked, moment.at_us, (weeks.from_us, weeks.to_us), moment.freshness)
    outlook = forecasts(*asked, this_month, (), moment.at_us, moment.freshness)

currency, span = bill.currency, f"{charts.day(weeks.from_us)} to {charts.day(weeks.to_us - DAY_US)}"
charts.need(bill.lines, f"billed to {MINE} from {span}")
seen = {f"{line.groups['tenant']}/{line.groups['application']}" for line in [*used.lines, *bill.lines]}
assert seen <= {MINE}, "figures of others are in these books"

# %% [markdown]
# ## How much it was used

# %%
rows = [
    {"day": datetime_of(line.time_us), "model": line.groups["model"], "requests": line.figures.requests}
    for line in used.lines
]
daily = pd.DataFrame(rows).pivot_table(index="day", columns="model", values="requests", aggfunc="sum", fill_value=0)
charts.stacked(f"Requests a day, by model, {span}", "requests", daily[daily.sum().sort_values(ascending=False).index])

# %%
statuses = used.total.by_status
charts.table(
    [
        {"status": status, "requests": count, "share": charts.percent(count / max(used.total.requests, 1))}
        for status, count in statuses.items()
    ],
    status="How requests ended",
    requests="Requests",
    share="Share",
)

# %% [markdown]
# ## What it cost

# %%
charts.bars(
    f"Cost by model, {span}", currency, {line.groups["model"]: charts.pico(line.figures.cost) for line in bill.lines}
)

# %% [markdown]
# ## How fast it answered
#
# Of the objectives that look at this application; the figures are of its own requests alone.

# %%
charts.table(
    [
        {
            "id": line.objective.id,
            "target": charts.percent(line.objective.target),
            "reached": charts.percent(line.ratio.compliance, 2),
            "state": line.state,
            **charts.latencies(line),
        }
        for line in objectives.lines
    ],
    id="Objective",
    target="Target",
    reached="Reached",
    state="State",
    measure="Measure",
    p50="Half within",
    p95="95 % within",
    p99="99 % within",
)

# %% [markdown]
# ## What to conclude

# %%
dearest = max(bill.lines, key=lambda line: line.figures.cost)
cost, was = compared.total.now_pico, compared.total.before_pico
tokens = used.total.tokens
of_input = tokens["input"] + tokens["cache_read"] + tokens["cache_write"]
missed = [line.objective.id for line in objectives.lines if line.state == "missed"]
charts.said(
    f"**{MINE} cost {charts.money(cost)} {currency} in four weeks**, {charts.more_or_less(cost, was)} in the four "
    f"before; {used.total.requests:,} requests.",
    f"**{dearest.groups['model']}** is {charts.percent(charts.pico(dearest.figures.cost) / cost, 0)} of the cost and "
    f"{charts.percent(dearest.figures.requests / used.total.requests, 0)} of the requests: a cheaper model pays here "
    "first.",
    f"{charts.percent(tokens['cache_read'] / of_input, 0)} of the input came from the cache.",
    f"{charts.percent(statuses['error'] / used.total.requests)} of the requests failed; "
    + (f"**missed: {', '.join(missed)}**." if missed else "every objective is met."),
    f"**{charts.month(moment.at_us)} is on course for {charts.money(outlook.total.forecast_pico)} {currency}**, "
    f"of which {charts.money(outlook.total.spent_pico)} is spent.",
)
tenant, application = MINE.split("/")
charts.same_as(
    f"meterhouse chargeback {charts.options(weeks.from_us, weeks.to_us)} --group-by model"
    f" --where tenant={tenant} --where application={application}",
    f"{charts.exact(charts.pico(bill.total.cost))} {currency}",
)
