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
# # What if the price changed?
#
# For finance and product owners: last month's requests rated again at another list price. Every charge is taken with
# the tokens that it has; nothing is stored. Change the prices below and run it again.

# %%
import charts

from meterhouse.api.notebook import opened
from meterhouse.warehouse.reports.groups import Selection, month_of
from meterhouse.warehouse.reports.what_if import list_price, what_if

PROVIDER, MODEL = "atlas", "atlas-large"
NEW = {"input": "2.00", "cache_read": "0.20", "output": "8.00"}  # per million tokens; kinds left out keep their price

with opened() as moment:
    this_month_us, _ = month_of(moment.at_us)
    last = Selection(*month_of(this_month_us - 1))
    found = what_if(moment.books, moment.control, last, list_price(PROVIDER, MODEL, NEW), moment.freshness)

currency, name = found.currency, charts.month(last.from_us)
charts.need(found.lines, f"billed in {name}")
of_model = [line for line in found.lines if (line.groups["provider"], line.groups["model"]) == (PROVIDER, MODEL)]

# %% [markdown]
# ## Who would pay what

# %%
tenants = sorted({line.groups["tenant"] for line in found.lines})
charged = {each: sum(line.charged_pico for line in found.lines if line.groups["tenant"] == each) for each in tenants}
would = {each: sum(line.would_pico for line in found.lines if line.groups["tenant"] == each) for each in tenants}


sides = zip(
    [*tenants, "All"],
    charts.statement([charged[each] for each in tenants]),
    charts.statement([would[each] for each in tenants]),
    strict=True,
)
*rows, total = (
    {
        "tenant": tenant,
        "charged": was,
        "would": then,
        "difference": then - was,
        "share": charts.percent((then - was) / was) if was else None,
    }
    for tenant, was, then in sides
)
shown = {each["tenant"]: each["difference"] for each in rows}
charts.table(
    rows,
    total=total,
    tenant="Tenant",
    charged=f"As charged, {currency}",
    would="At the new price",
    difference="Difference",
    share="Of its bill",
)

# %%
charts.differences(
    f"How the bills of {name} would differ with {MODEL} at the new price",
    currency,
    {each: charts.pico(shown[each]) for each in sorted(tenants, key=lambda each: shown[each])},
)

# %% [markdown]
# ## Where the difference arises

# %%
applications = sorted({line.groups["application"] for line in of_model if line.groups["application"]})
charts.bars(
    f"{MODEL} by application in {name}: at the new price, and as charged",
    currency,
    {each: sum(line.would_pico for line in of_model if line.groups["application"] == each) for each in applications},
    beside={
        each: sum(line.charged_pico for line in of_model if line.groups["application"] == each) for each in applications
    },
    legend=("new price", "as charged"),
)

# %% [markdown]
# ## What to conclude

# %%
model_charged, model_would = sum(line.charged_pico for line in of_model), sum(line.would_pico for line in of_model)
users = {line.groups["tenant"] for line in of_model}
same = sorted(each for each in users if would[each] == charged[each])
most = max(tenants, key=lambda each: abs(would[each] - charged[each]))
feels = charts.signed(charts.pico(shown[most]))
charts.said(
    f"**{name} would have cost {charts.money(found.would_pico)} instead of {charts.money(found.charged_pico)} "
    f"{currency}**: {charts.signed(found.difference_pico)}, "
    f"{charts.percent(abs(found.difference_pico) / found.charged_pico)} "
    f"{'less' if found.difference_pico < 0 else 'more'}.",
    f"**{most}** feels it most: {feels} {currency}.",
    f"{', '.join(same)} would pay the same for {MODEL}: a price of their own is in force, and a list price does not "
    "change it."
    if same
    else f"All who use {MODEL} are affected: nobody has a price of their own.",
    f"For the same money, {charts.percent(model_charged / model_would - 1, 0)} more of {MODEL} could be used."
    if model_would < model_charged
    else f"To spend the same, {charts.percent(1 - model_charged / model_would, 0)} less of {MODEL} could be used.",
    "It takes the requests as they were. Whether a new price brings more of them is for you to judge.",
)
charts.same_as(
    f"meterhouse chargeback {charts.options(last.from_us, last.to_us)} --group-by tenant",
    f"{charts.exact(found.charged_pico)} {currency}",
)
