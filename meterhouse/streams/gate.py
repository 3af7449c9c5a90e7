"""What a gateway asks before a request runs: `Gate.admit`, from what it knows, in microseconds, without waiting.

    gate = Gate(clock=now_us)
    with LogFeed(log, gate):                        # or HttpFeed(url, gate): keeps the gate up to date
        decision = gate.admit("acme-retail", "assistant", "atlas-large", max_cost_pico=bound)
        if decision.admitted:
            ...                                     # run it, publish its event
            gate.settle(decision.reservation, cost_pico, tokens)
        else:
            ...                                     # 429: `gate_http` has the answer's headers and body

An *admission* holds a *reservation*, its upper bound, in every budget that looks at the request. `settle` puts what it
came to in its place, `cancel` gives it back. What is settled counts until states cover it. How far that bounds what is
spent, with one gate and with many: docs/decisions/0020-the-gate.md.
"""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import msgspec
import structlog

from meterhouse.streams.gate_account import Account, Amount, Freshness, Verdict
from meterhouse.streams.gate_decision import Decision, Quota, Reason
from meterhouse.streams.gate_index import BudgetIndex
from meterhouse.streams.gate_wire import (
    Fresh,
    Said,
    State,
    Terms,
    WhenStale,
    fresh_key,
    is_fresh_key,
    read_said,
    read_state_key,
    read_terms_key,
    state_key,
    terms_key,
)

__all__ = ["Decision", "Gate", "GateSettings", "Quota", "Taker", "upper_bound_pico"]

INPUT_KINDS: Final = ("input", "cache_read", "cache_write")
OUTPUT_KINDS: Final = ("output", "reasoning")
RETRY_US: Final = 1_000_000  # of what passes soon: a feed that catches up, reservations that end

_log = structlog.get_logger("meterhouse.gate")


class GateSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a gate counts."""

    hold_s: int = 900
    """A reservation that nobody settles is taken as spent after so long, so no request may run longer, its event's way
    into the log included. Gateways commonly give up on a model after ten minutes at the latest."""
    margin_s: int = 2
    """From a settlement to its event's place in the log, and between the clocks of gateway and budget worker. Matters
    only where `settle` is not told the event's position."""
    gates: int = 1
    """How many gates admit against the same budgets. With N each takes at most 1/N of what is left."""
    when_not_ready: WhenStale = "closed"
    """Before the feed has caught up: refuse everything, or admit by what is known so far."""
    max_reservations: int = 100_000
    """That run at a time, some 60 MB: a hundred a second for as long as they are held."""


class Taker(Protocol):
    """What a feed fills."""

    def starts_over(self) -> None: ...

    def take(self, partition: int, key: bytes, value: bytes | None) -> None: ...

    def caught_up(self) -> None: ...


class _Reservation(msgspec.Struct, gc=False):  # holds nothing that leads back to it
    accounts: tuple[Account, ...]
    bound: Amount
    expires_us: int


class Gate:
    """See the module. All methods may be called from any thread; none of them waits for more than a lock.

    `clock`: microseconds since 1970, UTC.
    """

    def __init__(self, clock: Callable[[], int], settings: GateSettings | None = None) -> None:
        self._clock = clock
        self._settings = settings or GateSettings()
        if self._settings.gates < 1 or min(self._settings.hold_s, self._settings.margin_s) < 0:
            raise ValueError("a gate needs gates >= 1, hold_s >= 0 and margin_s >= 0")
        self._margin_us = self._settings.margin_s * 1_000_000
        self._lock = threading.Lock()
        self._ready = False
        self._generation = 0
        self._accounts: dict[str, Account] = {}
        self._index: BudgetIndex[Account] = BudgetIndex()
        self._fresh: dict[int, Freshness] = {}
        self._held: OrderedDict[str, _Reservation] = OrderedDict()  # by age
        self._name = uuid.uuid4().hex
        self._reserved = 0  # reservations so far

    # --- what the feed says ---

    @property
    def ready(self) -> bool:
        """Has the feed caught up once?"""
        return self._ready

    @property
    def reservations(self) -> int:
        """How many are held."""
        return len(self._held)

    def starts_over(self) -> None:
        """All records come anew: what is not among them by the time of `caught_up` is gone."""
        with self._lock:
            self._generation += 1

    def take(self, partition: int, key: bytes, value: bytes | None) -> None:
        """A record of this partition of `budget.states`. One that makes no sense is skipped, aloud."""
        try:
            said = None if value is None else read_said(key, value)
            with self._lock:
                if said is None:
                    self._unsay(partition, key)
                else:
                    self._say(partition, key, said)
        except ValueError as wrong:
            _log.error("record skipped", partition=partition, key=repr(key[:200]), reason=str(wrong))

    def caught_up(self) -> None:
        """All that was there when the feed started (over) has been taken."""
        with self._lock:
            for budget_id, account in list(self._accounts.items()):
                if account.generation < self._generation:
                    self._end_terms(account)
                account.unsay_older(self._generation)
                self._forget_if_empty(budget_id, account)
            for fresh in self._fresh.values():
                if fresh.generation < self._generation:
                    fresh.forget()
            self._ready = True

    def _say(self, partition: int, key: bytes, said: Said) -> None:
        match said:
            case Terms():
                _check_key(key, terms_key(said.budget_id))
                account = self._account(said.budget_id)
                before = account.terms
                account.agree(said, self._freshness(partition), self._generation, self._clock())
                if before is not None:
                    self._index.remove(before)
                self._index.put(said, account)
            case State():
                window = (said.window_start_us, said.window_end_us)
                _check_key(key, state_key(said.budget_id, window))
                self._account(said.budget_id).say(said, self._generation, self._clock())
            case Fresh():
                _check_key(key, fresh_key(partition))
                offsets = {int(each): offset for each, offset in said.offsets.items()}
                self._freshness(partition).say(said.as_of_us, offsets, self._generation)

    def _unsay(self, partition: int, key: bytes) -> None:
        if is_fresh_key(key):
            self._freshness(partition).forget()
            return
        budget_id, window = read_terms_key(key), None
        if budget_id is None:
            budget_id, window = read_state_key(key)
        account = self._accounts.get(budget_id)
        if account is None:
            return
        if window is None:
            self._end_terms(account)
        else:
            account.unsay(window)
        self._forget_if_empty(budget_id, account)

    def _account(self, budget_id: str) -> Account:
        account = self._accounts.get(budget_id)
        if account is None:
            account = self._accounts[budget_id] = Account()
        return account

    def _freshness(self, partition: int) -> Freshness:
        fresh = self._fresh.get(partition)
        if fresh is None:
            fresh = self._fresh[partition] = Freshness()
        return fresh

    def _end_terms(self, account: Account) -> None:
        if account.terms is not None:
            self._index.remove(account.terms)
            account.terms = None

    def _forget_if_empty(self, budget_id: str, account: Account) -> None:
        if account.is_empty:
            del self._accounts[budget_id]

    # --- admissions ---

    def admit(self, tenant: str, application: str, model: str, *, max_cost_pico: int, max_tokens: int = 0) -> Decision:
        """May this request run? An upper bound of its cost counts in budgets of money, one of its tokens in those of
        tokens; 0: unknown, so only a limit that is reached stops it. Raises ValueError for a negative bound.

        Refused goes before throttled, throttled before allowed; nothing is reserved anywhere unless it is admitted.
        """
        if max_cost_pico < 0 or max_tokens < 0:
            raise ValueError("an upper bound is 0 (unknown) or more")
        now_us = self._clock()
        with self._lock:
            if not self._ready and self._settings.when_not_ready == "closed":
                return _refused_by_gate("not_ready", now_us)
            self._expire(now_us)
            accounts = self._index.find(tenant, application, model)
            against: list[Verdict] = []
            for account in accounts:
                verdict = account.judge(now_us, max_cost_pico, max_tokens, self._settings.gates)
                if verdict is not None:
                    against.append(verdict)
            if against and (worst := max(against, key=_weight)).rank:
                return _decision(worst, accounts, now_us)
            if not accounts:
                return Decision(outcome="allow", now_us=now_us)
            if len(self._held) >= self._settings.max_reservations:
                return _refused_by_gate("too_many", now_us)
            for account in accounts:
                account.reserve(max_cost_pico, max_tokens)
            for verdict in against:
                verdict.account.take_turn(now_us)
            return self._admitted(accounts, (max_cost_pico, max_tokens), against, now_us)

    def outlook(self, budget_id: str) -> Decision | None:
        """What a request of unknown cost would be told now, were this budget the only one that looks at it. Nothing is
        reserved. None: the gate knows no such budget."""
        now_us = self._clock()
        with self._lock:
            if not self._ready and self._settings.when_not_ready == "closed":
                return _refused_by_gate("not_ready", now_us)
            self._expire(now_us)
            account = self._accounts.get(budget_id)
            if account is None or account.terms is None:
                return None
            verdict = account.judge(now_us, 0, 0, self._settings.gates)
            if verdict is not None and verdict.rank:
                return _decision(verdict, (account,), now_us)
            rate = None if verdict is None else account.throttle_per_minute
            return Decision(outcome="allow", budget_id=budget_id, throttle_per_minute=rate, now_us=now_us)

    def settle(
        self,
        reservation: str | None,
        cost_pico: int | None,
        tokens: int | None,
        position: tuple[int, int] | None = None,
    ) -> bool:
        """The request came to so much, and its event is in the log, at `position` (partition, offset) where known.
        None: not known, so it is taken for as much as was reserved.

        False: there is no such reservation (None, settled before, cancelled, or held too long), and nothing changes.
        """
        if (cost_pico or 0) < 0 or (tokens or 0) < 0:
            raise ValueError("a request costs nothing or more")
        now_us = self._clock()
        with self._lock:
            held = self._held.pop(reservation or "", None)
            if held is not None:
                pico = held.bound[0] if cost_pico is None else cost_pico
                actual = (pico, held.bound[1] if tokens is None else tokens)
                self._settle(held, actual, position or (None, now_us + self._margin_us))
        return held is not None

    def cancel(self, reservation: str | None) -> bool:
        """Nothing was spent. False: there is no such reservation."""
        with self._lock:
            held = self._held.pop(reservation or "", None)
            if held is not None:
                self._settle(held, (0, 0), (None, 0))
        return held is not None

    def _admitted(self, accounts: tuple[Account, ...], bound: Amount, in_rate: list[Verdict], now_us: int) -> Decision:
        self._reserved += 1
        reservation = f"{self._name}-{self._reserved:x}"
        self._held[reservation] = _Reservation(accounts, bound, now_us + self._settings.hold_s * 1_000_000)
        if not in_rate:
            return Decision(outcome="allow", reservation=reservation, tightest=_tightest(accounts), now_us=now_us)
        slowest = min((each.account for each in in_rate), key=lambda account: account.throttle_per_minute)
        return Decision(
            outcome="allow",
            budget_id=slowest.budget_id,
            window_end_us=slowest.window[1],
            throttle_per_minute=slowest.throttle_per_minute,
            reservation=reservation,
            tightest=_tightest(accounts),
            now_us=now_us,
        )

    def _expire(self, now_us: int) -> None:
        """Takes as spent what nobody has settled."""
        while self._held:
            reservation, held = next(iter(self._held.items()))
            if held.expires_us > now_us:
                break
            del self._held[reservation]
            self._settle(held, held.bound, (None, held.expires_us + self._margin_us))

    def _settle(self, held: _Reservation, actual: Amount, covered_by: tuple[int | None, int]) -> None:
        for account in held.accounts:
            account.settle(held.bound, actual, *covered_by)


def upper_bound_pico(pico_per_token: Mapping[str, int], input_tokens: int, max_output_tokens: int) -> int:
    """The most that a request can cost, pico-units: each input token at the dearest price of an input kind, each output
    token at the dearer one of output and reasoning.

    Raises ValueError where the price of input or output is missing and needed, or a count is negative. Other kinds
    without a price are left out: a request that has such tokens all the same is unpriced.
    """
    if input_tokens < 0 or max_output_tokens < 0:
        raise ValueError("token counts are 0 or more")
    of_input = _dearest(pico_per_token, INPUT_KINDS) if input_tokens else 0
    of_output = _dearest(pico_per_token, OUTPUT_KINDS) if max_output_tokens else 0
    return input_tokens * of_input + max_output_tokens * of_output


def _dearest(pico_per_token: Mapping[str, int], kinds: tuple[str, ...]) -> int:
    if kinds[0] not in pico_per_token:
        raise ValueError(f"there is no price for {kinds[0]} tokens: the request has no upper bound; price its model")
    return max(pico_per_token[kind] for kind in kinds if kind in pico_per_token)


def _check_key(key: bytes, expected: bytes) -> None:
    if key != expected:
        raise ValueError(f"the record is that of key {expected!r}")


def _weight(verdict: Verdict) -> tuple[int, int]:
    return verdict.rank, verdict.retry_us


def _decision(worst: Verdict, accounts: tuple[Account, ...], now_us: int) -> Decision:
    retryable = bool(worst.retry_us)
    throttled = worst.reason == "throttled"
    return Decision(
        outcome="throttle" if throttled else "refuse",
        reason=worst.reason,
        budget_id=worst.account.budget_id,
        window_end_us=worst.account.window[1],
        retryable=retryable,
        retry_after_s=_seconds(worst.retry_us) if retryable else None,
        throttle_per_minute=worst.account.throttle_per_minute if throttled else None,
        tightest=_tightest(accounts),
        now_us=now_us,
    )


def _refused_by_gate(reason: Reason, now_us: int) -> Decision:
    return Decision(outcome="refuse", reason=reason, retryable=True, retry_after_s=_seconds(RETRY_US), now_us=now_us)


def _seconds(duration_us: int) -> int:
    """Whole seconds, rounded up."""
    return -(-duration_us // 1_000_000)


def _tightest(accounts: tuple[Account, ...]) -> Quota:
    """The one that has the smallest part of its limit left."""
    tightest, least = accounts[0], accounts[0].remaining
    for account in accounts[1:]:
        remaining = account.remaining
        if remaining * (tightest.limit or 1) < least * (account.limit or 1):
            tightest, least = account, remaining
    return Quota(tightest.budget_id, tightest.unit, tightest.limit, least, *tightest.window)
