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
# # Cache savings and capacity
#
# For platform owners: what the prompt cache saved last month and where more is to be had, and how many tokens each
# model has to serve at its busiest hour.

# %%
import charts
import matplotlib.pyplot as plt
import pandas as pd

from meterhouse.api.notebook import opened
from meterhouse.warehouse.reports.groups import Selection, datetime_of, month_of
from meterhouse.warehouse.reports.query import DAY_US
from meterhouse.warehouse.reports.usage import usage
from meterhouse.warehouse.reports.what_if import what_if, without_cache

with opened() as moment:
    this_month_us, _ = month_of(moment.at_us)
    last = Selection(*month_of(this_month_us - 1))
    today_us = moment.at_us // DAY_US * DAY_US
    weeks = Selection(today_us - 28 * DAY_US, today_us)
    uncached = what_if(moment.books, moment.control, last, without_cache, moment.freshness)
    hourly = usage(moment.books, moment.control, weeks, ("model",), "hour", moment.freshness)

currency, name = uncached.currency, charts.month(last.from_us)
charts.need(uncached.lines and hourly.lines, f"billed in {name} or in the last four weeks")

# %% [markdown]
# ## What the cache saved
#
# Reading a token from the cache costs less than sending it, writing it there costs more. What was saved is what the
# month would have cost more with all of that as plain input.

# %%
INPUT = ("input", "cache_read", "cache_write")
rows = []
for application in sorted({line.groups["application"] or "–" for line in uncached.lines}):
    lines = [line for line in uncached.lines if (line.groups["application"] or "–") == application]
    counts = {kind: sum(line.tokens[kind] for line in lines) for kind in INPUT}
    rows.append(
        {
            "application": application,
            "input": sum(counts.values()),
            "read": counts["cache_read"] / max(sum(counts.values()), 1),
            "charged_pico": sum(line.charged_pico for line in lines),
            "saved_pico": sum(line.difference_pico for line in lines),
        }
    )
charts.table(
    [
        {
            **row,
            "share": charts.percent(row["read"]),
            "charged": charts.money(row["charged_pico"]),
            "saved": charts.money(row["saved_pico"]),
            "of": charts.percent(row["saved_pico"] / max(row["charged_pico"] + row["saved_pico"], 1)),
        }
        for row in rows
    ],
    application="Application",
    input="Input tokens",
    share="Read from the cache",
    charged=f"Charged, {currency}",
    saved="Saved",
    of="Saved, of the cost without a cache",
)

# %%
models = sorted({line.groups["model"] for line in uncached.lines})
saved = {each: sum(line.difference_pico for line in uncached.lines if line.groups["model"] == each) for each in models}
charts.bars(f"What the cache saved in {name}, by model", currency, saved)

# %% [markdown]
# ## What has to be served
#
# Tokens a minute in the mean of each hour, all kinds but those read from the cache. What is provisioned has to hold for
# the busiest hour; the more that stands above the mean, the more of it idles.

# %%
load = pd.DataFrame(
    [
        {
            "hour": datetime_of(line.time_us),
            "model": line.groups["model"],
            "tokens": sum(count for kind, count in line.figures.tokens.items() if kind != "cache_read"),
        }
        for line in hourly.lines
    ]
).pivot_table(index="hour", columns="model", values="tokens", aggfunc="sum", fill_value=0)
hours = pd.date_range(datetime_of(weeks.from_us), datetime_of(weeks.to_us), freq="h", inclusive="left")
load = load.reindex(hours, fill_value=0) / 60
load = load[load.max().sort_values(ascending=False).index]
peaks = [
    {
        "model": each,
        "peak": int(load[each].max()),
        "at": f"{load[each].idxmax():%a %-d %b, %H:%M}",
        "often": int(load[each].quantile(0.95)),
        "mean": int(load[each].mean()),
        "ratio": load[each].max() / load[each].mean(),
    }
    for each in load.columns
]
charts.table(
    [{**row, "ratio": f"{row['ratio']:.1f} ×"} for row in peaks],
    model="Model",
    peak="Busiest hour, tokens a minute",
    at="When (UTC)",
    often="19 of 20 hours are below",
    mean="Mean",
    ratio="Busiest to mean",
)

# %%
axes = charts.chart(
    f"In how many hours how much is needed, {charts.day(weeks.from_us)} to {charts.day(weeks.to_us - DAY_US)}",
    unit="tokens a minute",
)
for each in load.columns:
    highest_first = load[each].sort_values(ascending=False).to_numpy()
    axes.step([100 * number / len(load) for number in range(len(load))], highest_first, where="post", label=each)
axes.set_xlim(0, 20)
axes.set_ylim(bottom=0)
axes.set_xlabel("share of the hours, busiest first, %")
axes.grid(axis="y")
charts.counts_at(axes.yaxis)
axes.legend(loc="upper right")
plt.show()

# %% [markdown]
# ## What to conclude

# %%
saved_pico, least = uncached.difference_pico, min(rows, key=lambda row: row["read"])
largest, steepest = peaks[0], max(peaks, key=lambda row: row["ratio"])
together, week = load.sum(axis=1), 7 * 24
growth = together.iloc[-week:].mean() / together.iloc[:week].mean() - 1
refused = hourly.total.by_status["throttled"]
charts.said(
    f"**The cache saved {charts.money(saved_pico)} {currency} in {name}**: without it, "
    f"{charts.percent(saved_pico / uncached.charged_pico)} would have come on top.",
    f"**{least['application']}** reads the smallest share of its input from the cache "
    f"({charts.percent(least['read'])}): look there first for prompts whose beginning never changes.",
    f"**{largest['model']} needs {largest['peak']:,} tokens a minute** at its busiest hour, and in 19 of 20 hours "
    f"{largest['often']:,} are enough: between the two, waiting in a queue is what less capacity costs.",
    f"{steepest['model']} stands {steepest['ratio']:.1f} times above its mean at its busiest: work that can wait, "
    "such as batches, belongs in its quiet hours.",
    f"The load is {charts.percent(abs(growth), 0)} {'higher' if growth > 0 else 'lower'} in the last of these weeks "
    f"than in the first; {refused:,} requests were throttled.",
)
charts.same_as(
    f"meterhouse chargeback {charts.options(last.from_us, last.to_us)}",
    f"{charts.exact(uncached.charged_pico)} {currency}",
)
