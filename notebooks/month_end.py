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
# # Month end
#
# For finance: what each cost center owes for the last whole month (UTC), how that compares with the month before, why
# it changed, and whether the month can be closed.

# %%
import charts

from meterhouse.api.notebook import opened
from meterhouse.warehouse.reports.chargeback import chargeback
from meterhouse.warehouse.reports.comparison import comparison, explanation
from meterhouse.warehouse.reports.groups import Selection, month_of

with opened() as moment:
    this_month_us, _ = month_of(moment.at_us)
    closing = Selection(*month_of(this_month_us - 1))
    bill = chargeback(moment.books, moment.control, closing, ("cost_center", "tenant"), moment.freshness)
    compared = comparison(moment.books, moment.control, closing, ("tenant",), moment.freshness)
    why = explanation(moment.books, moment.control, closing, moment.freshness)

currency, now, before = bill.currency, charts.month(closing.from_us), charts.month(why.before_us[0])
charts.need(bill.lines, f"billed in {now}")

# %% [markdown]
# ## The statement
#
# Amounts are rounded here so that the lines add up to the total that is shown. Charts round each amount by itself.

# %%
*amounts, total = charts.statement([charts.pico(line.figures.cost) for line in bill.lines])
lines = [
    {**line.groups, "requests": line.figures.billed_requests, "amount": amount}
    for line, amount in zip(bill.lines, amounts, strict=True)
]
charts.table(
    lines,
    total={"cost_center": "Total", "tenant": "", "requests": bill.total.billed_requests, "amount": total},
    cost_center="Cost center",
    tenant="Tenant",
    requests="Billed requests",
    amount=f"{now}, {currency}",
)


# %% [markdown]
# ## Against the month before

# %%
charts.bars(
    f"What each tenant owes for {now}, and what it owed for {before}",
    currency,
    {line.groups["tenant"]: line.now_pico for line in compared.lines},
    beside={line.groups["tenant"]: line.before_pico for line in compared.lines},
    legend=(now, before),
)

# %% [markdown]
# ## Why the bill changed
#
# *Volume* is more or fewer tokens, *model mix* other models, *output share* longer or shorter answers, *cache share*
# more or less of the input from a cache, *price* what a token costs. The parts add up to the difference, exactly.

# %%
charts.steps(
    f"From the bill of {before} to that of {now}", currency, (before, why.before_pico), why.parts, (now, why.now_pico)
)

# %% [markdown]
# ## Can the month be closed?
#
# It can when every event that arrived before its end is in the books, and no request waits for a price: such a request
# is not free, and will be billed later.

# %%
watermark_us, unpriced = bill.as_of.watermark_us, bill.total.unpriced_requests
complete = watermark_us is not None and watermark_us >= closing.to_us
charts.table(
    [
        {
            "check": "The books reach the month's end",
            "is": complete,
            "figure": watermark_us and charts.day(watermark_us),
        },
        {"check": "Every request has a price", "is": unpriced == 0, "figure": f"{unpriced:,} without one"},
    ],
    check="Check",
    figure="Found",
    **{"is": "Holds"},
)

# %% [markdown]
# ## What to conclude

# %%
difference = why.now_pico - why.before_pico
with_it, against_it = (max, min) if difference > 0 else (min, max)
cause, other = (choose(why.parts, key=lambda name: why.parts[name]) for choose in (with_it, against_it))
mover = with_it(compared.lines, key=lambda line: line.difference_pico)
told = {name: f"{charts.signed(why.parts[name])} for {name.replace('_', ' ')}" for name in (cause, other)}
charts.said(
    f"**{now} comes to {charts.money(why.now_pico)} {currency}**, "
    f"{charts.more_or_less(why.now_pico, why.before_pico)} {before}.",
    f"Of the difference of {charts.signed(difference)} {currency}, **{told[cause]}** is the largest part"
    + (f"; against it stands {told[other]}." if why.parts[other] * difference < 0 else "."),
    f"**{mover.groups['tenant']}** moved it most: {charts.signed(mover.difference_pico)} {currency}.",
    "**Close the month**: the books are complete, and `meterhouse export focus` writes it for other tools."
    if complete and not unpriced
    else "**Do not close it yet**: "
    + ("price the models that lack a price first." if unpriced else "wait until the meter has caught up."),
)
charts.same_as(
    f"meterhouse chargeback {charts.options(closing.from_us, closing.to_us)} --group-by cost_center,tenant",
    f"{charts.exact(charts.pico(bill.total.cost))} {currency}",
)
