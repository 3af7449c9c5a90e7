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
# # SLO review
#
# For whoever answers for the platform: which objectives are met, how much of each error budget is left, on which days
# it went, and what burns now.

# %%
from decimal import Decimal

import charts
import matplotlib.pyplot as plt

from meterhouse.api.notebook import opened
from meterhouse.warehouse.reports.groups import datetime_of
from meterhouse.warehouse.reports.query import DAY_US
from meterhouse.warehouse.reports.slo import slo, slo_days

DAYS = 30

with opened() as moment:
    today_us = moment.at_us // DAY_US * DAY_US
    first_us = today_us - DAYS * DAY_US
    asked = moment.books, moment.control
    now = slo(*asked, moment.at_us, freshness=moment.freshness)
    whole = slo(*asked, today_us, (first_us, today_us), moment.freshness)
    daily = slo_days(moment.books, moment.control, first_us, today_us)

assert [line.ratio for line in whole.lines] == [line.whole for line in daily]

# %% [markdown]
# ## Where each objective stands
#
# Each over its own window, which ends now. An error budget is the share of bad requests that the target allows; below
# nothing the objective is missed.

# %%
charts.table(
    [
        {
            "id": line.objective.id,
            "window": f"{line.objective.window_days} days",
            "target": charts.percent(line.objective.target),
            "reached": charts.percent(line.ratio.compliance, 2),
            "requests": line.ratio.total,
            "left": charts.percent(line.error_budget_left, 0),
            "state": line.state,
            "burning": ", ".join(f"{rule.severity} ({rule.long})" for rule in line.burning) or None,
        }
        for line in now.lines
    ],
    id="Objective",
    window="Window",
    target="Target",
    reached="Reached",
    requests="Requests",
    left="Error budget left",
    state="State",
    burning="Burning now",
)

# %% [markdown]
# ## When the error budget went
#
# A day at burn rate 1 uses just what a day may; days above it are orange, and have to be made up for by others.

# %%
figure, grid = plt.subplots(len(daily), 1, figsize=(9, 1.7 * len(daily)), sharex=True, squeeze=False)
for axes, line in zip(grid[:, 0], daily, strict=True):
    dates = [datetime_of(start_us) for start_us in line.days]
    rates = [float(ratio.burn_rate(line.objective.target) or 0) for ratio in line.days.values()]
    axes.bar(dates, rates, width=0.86, color=[charts.MORE if rate > 1 else charts.MAIN for rate in rates])
    axes.axhline(1, color=charts.MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.set_title(f"{line.objective.id}: burn rate, day by day", fontsize=10)
    axes.set_ylim(0, max(1.3, *rates) * 1.05)
    if not any(rates):
        axes.annotate("no bad request", (0.5, 0.3), xycoords="axes fraction", ha="center", color=charts.MUTED)
    axes.grid(axis="y")
charts.days_below(grid[-1, 0])
plt.show()

# %% [markdown]
# ## How long requests took

# %%
charts.table(
    [{"id": line.objective.id, **charts.latencies(line)} for line in whole.lines],
    id="Objective",
    measure="Measure",
    p50="Half within",
    p95="95 % within",
    p99="99 % within",
)

# %% [markdown]
# ## What to conclude

# %%
missed = [line for line in now.lines if line.state == "missed"]
judged = [line for line in now.lines if line.error_budget_left is not None]
charts.need(judged, "sent that an objective looks at")
tightest = min(judged, key=lambda line: line.error_budget_left)
place = [line.objective.id for line in now.lines].index(tightest.objective.id)
rates = {start_us: ratio.burn_rate(tightest.objective.target) or 0 for start_us, ratio in daily[place].days.items()}
worst_us = max(rates, key=lambda start_us: rates[start_us])
bad_days = sum(rate > 1 for rate in rates.values())
burning = [line.objective.id for line in now.lines if line.burning]
charts.said(
    f"**{len(judged) - len(missed)} of {len(judged)} objectives are met**"
    + (f"; missed: **{', '.join(line.objective.id for line in missed)}**." if missed else "."),
    f"**{tightest.objective.id}** is the tightest: it has used "
    f"{charts.percent(1 - tightest.error_budget_left, 0)} of its error budget. "
    + (
        "Stop what is risky there until it has recovered."
        if tightest.error_budget_left < Decimal("0.25")
        else "There is room."
    ),
    f"Its budget went faster than it may on {bad_days} of {DAYS} days, fastest on {charts.day(worst_us)} "
    f"({float(rates[worst_us]):.1f} times). "
    + (
        "That is most days: the service itself is too slow or fails too often, and no single day is to blame."
        if bad_days * 2 > DAYS
        else "Those days are where to look for a cause."
    ),
    f"Burning now: **{', '.join(burning)}**." if burning else "Nothing burns now.",
)
charts.same_as(
    f"meterhouse slo {charts.options(first_us, today_us)}",
    ", ".join(f"{line.objective.id} {line.ratio.good} of {line.ratio.total}" for line in whole.lines),
)
