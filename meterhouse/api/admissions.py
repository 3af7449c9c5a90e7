"""Admissions over HTTP: this server's gate, what fills it, and the prices that bound a request's cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from msgspec.structs import replace

from meterhouse.api.auth.caller import Caller
from meterhouse.api.auth.ownership import Ownership
from meterhouse.api.metrics import GateMetrics
from meterhouse.api.prices import PriceBook, SeveralProviders
from meterhouse.api.problems import Problem
from meterhouse.api.schemas.admissions import AdmissionRequest, Settlement
from meterhouse.streams.gate import Decision, Gate, upper_bound_pico
from meterhouse.streams.gate_hub import StateHub
from meterhouse.streams.money import from_text, to_text


@dataclass(frozen=True)
class Admissions:
    """Nothing here waits for more than a lock."""

    gate: Gate
    hub: StateHub
    prices: PriceBook
    metrics: GateMetrics
    clock: Callable[[], int]
    _owners: Ownership = field(default_factory=Ownership)

    def admit(self, asked: AdmissionRequest, who: Caller) -> tuple[Decision, int | None]:
        """What becomes of a request, and the upper bound of its cost that counts, pico-units; None: not known.

        Raises Problem (`forbidden`: not of the caller's tenants, `invalid-parameter`) and ControlUnavailable.
        """
        if not who.view.sees(asked.tenant, asked.application):
            raise Problem(
                "forbidden",
                "The request is of a tenant or application that this key or token may not ask for. Use another key, or"
                " ask for a grant.",
            )
        bound_pico = self._bound(asked)
        tokens = (asked.input_tokens or 0) + (asked.max_tokens or 0)
        decision = self.gate.admit(
            asked.tenant, asked.application, asked.model, max_cost_pico=bound_pico or 0, max_tokens=tokens
        )
        self.metrics.admitted(decision.outcome, decision.reason)
        if (reservation := decision.reservation) is not None:
            decision = replace(decision, reservation=self._owners.outside(reservation, who))
        return decision, bound_pico

    def _bound(self, asked: AdmissionRequest) -> int | None:
        if asked.max_cost is not None:
            return _amount(asked.max_cost, "max_cost")
        if (asked.input_tokens is None) != (asked.max_tokens is None):
            raise Problem(
                "invalid-parameter",
                "A request has an upper bound when both `input_tokens` and `max_tokens` are known (0: it has none):"
                " give both, or `max_cost`, or neither.",
            )
        if asked.input_tokens is None or asked.max_tokens is None:
            return None
        now_us, prices = self.clock(), self.prices.current
        try:
            if asked.provider is None:
                card = prices.card_of_model(asked.model, asked.tenant, now_us)
            else:
                card = prices.card(asked.provider, asked.model, asked.tenant, now_us)
        except SeveralProviders as several:
            raise Problem("invalid-parameter", str(several)) from None
        try:
            return None if card is None else upper_bound_pico(card.pico_per_token, asked.input_tokens, asked.max_tokens)
        except ValueError:  # a kind of token without a price
            return None

    def settle(self, reservation: str, actual: Settlement, who: Caller) -> None:
        """Raises Problem (`invalid-parameter`, `not-found`: also where another caller made it)."""
        cost_pico = None if actual.cost is None else _amount(actual.cost, "cost")
        position = None if actual.position is None else (actual.position.partition, actual.position.offset)
        _found(self.gate.settle(self._owners.inside(reservation, who), cost_pico, actual.tokens, position))

    def cancel(self, reservation: str, who: Caller) -> None:
        """Raises Problem (`not-found`: also where another caller made it)."""
        _found(self.gate.cancel(self._owners.inside(reservation, who)))

    def state_age_s(self) -> float | None:
        """How old the spend is that admissions are judged by, seconds; None: not known."""
        as_of_us = self.hub.as_of_us()
        return None if as_of_us is None else (self.clock() - as_of_us) / 1e6


def answer_of(decision: Decision, bound_pico: int | None) -> dict[str, str | int | None]:
    """The body of a decision that admits."""
    answer: dict[str, str | int | None] = {
        "outcome": decision.outcome,
        "reservation": decision.reservation,
        "bound": None if bound_pico is None else to_text(bound_pico),
        "budget": None,
        "unit": None,
        "remaining": None,
        "throttle_per_minute": decision.throttle_per_minute,
    }
    if (quota := decision.tightest) is not None:
        left = str(quota.remaining) if quota.unit == "tokens" else to_text(quota.remaining)
        answer |= {"budget": quota.budget_id, "unit": quota.unit, "remaining": left}
    return answer


def _amount(text: str, name: str) -> int:
    try:
        pico = from_text(text)
    except ValueError as wrong:
        raise Problem("invalid-parameter", f"{name}: {wrong}") from None
    if pico < 0:
        raise Problem("invalid-parameter", f"{name}: {text!r} is negative: a request costs nothing or more")
    return pico


def _found(was_there: bool) -> None:
    if not was_there:
        raise Problem(
            "not-found",
            "There is no such reservation: it was settled or cancelled before, or held for so long that its upper bound"
            " was taken as spent. Nothing has to be done.",
        )
