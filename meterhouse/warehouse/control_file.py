"""The control file: YAML text → values, and everything that is wrong with it.

It is one document with our sections, or OpenSLO documents (`control_openslo`), or both: the objectives of the file are
all that are in either.

What can be told from the file alone is told here (shapes, numbers, times, ids twice); what needs the control data that
is in force is told by `control_plan`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from typing import Final, TypeVar, cast

from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.ingest.formats.event_types import EventType
from meterhouse.streams.control import (
    Budget,
    Every,
    Objective,
    OnExceeded,
    RateCard,
    Tenant,
    WhenStale,
    WindowSpec,
)
from meterhouse.warehouse.control_event_types import event_type
from meterhouse.warehouse.control_fields import (
    Entry,
    Located,
    Problem,
    Unfit,
    money,
    name,
    number,
    one_of,
    price,
    time_us,
    time_zone,
    truth,
    whole,
)
from meterhouse.warehouse.control_objectives import read_objective, scope_of
from meterhouse.warehouse.control_openslo import is_openslo, read_openslo
from meterhouse.warehouse.control_places import Move
from meterhouse.warehouse.control_yaml import Node, load

T = TypeVar("T")

MAX_FILE_BYTES: Final = 4 * 1024 * 1024
"""Room for 20,000 tenants and prices of 200 bytes each; a file beyond it is most likely another file."""
MAX_ORG_LEVELS: Final = 16
MAX_THRESHOLDS: Final = 16
"""Each threshold is an alert per window."""
MAX_THRESHOLD: Final = 1000
"""Percent: ten times the limit. Who needs news beyond it needs another limit."""
MAX_THROTTLE_PER_MINUTE: Final = 60_000
"""A thousand a second through one gate is no throttle any more."""
MIN_STALE_S: Final = 5
"""States say how fresh they are about once a second; a rebalance of workers or meters takes some seconds."""
MAX_STALE_S: Final = 86_400

SECTIONS: Final = ("tenants", "rate_card", "budgets", "objectives", "event_types")
TOP_KEYS: Final = ("currency", "strict_tenants", *SECTIONS)
KINDS: Final = tuple(kind.name for kind in TOKEN_KINDS)


@dataclass(frozen=True, slots=True)
class ControlFile:
    """What a file says. A section that is None is absent: what is stored of it stays as it is.

    Rate cards have id 0: ids are given by the plan. `unread`: a section could not be read at all, so that nothing can
    be said about what refers to it.
    """

    currency: Located[str] | None = None
    strict_tenants: bool | None = None
    tenants: tuple[Located[Tenant], ...] | None = None
    moves: Mapping[str, Move] = field(default_factory=dict)  # by tenant id, where the file says anything of them
    rate_cards: tuple[Located[RateCard], ...] | None = None
    budgets: tuple[Located[Budget], ...] | None = None
    objectives: tuple[Located[Objective], ...] | None = None
    event_types: tuple[Located[EventType], ...] | None = None
    problems: tuple[Problem, ...] = ()
    notes: tuple[Problem, ...] = ()  # what is in the file, but not read
    unread: bool = False


def parse(content: str | bytes) -> ControlFile:
    """Reads a control file (UTF-8). Never raises on what the file holds: see `problems` of the result."""
    data = content.encode() if isinstance(content, str) else content
    if len(data) > MAX_FILE_BYTES:
        return _unreadable(f"has {len(data)} bytes: at most {MAX_FILE_BYTES} are read; apply its sections one by one")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return _unreadable(f"is not UTF-8 (byte {error.start}): save it as UTF-8")
    roots, yaml_problems = load(text)
    problems = [Problem("the file", problem.message, problem.line) for problem in yaml_problems]
    if not roots:
        problems = problems or [Problem("the file", "is empty: write at least one section, like `tenants:`")]
        return ControlFile(problems=tuple(problems), unread=True)
    ours = [root for root in roots if not is_openslo(root)]
    if len(ours) > 1:
        message = (
            "begins a second document with sections: keep one; only OpenSLO documents (`apiVersion`) may be several"
        )
        return ControlFile(problems=(*problems, Problem("the file", message, ours[1].line)), unread=True)
    root = ours[0] if ours else Node({}, 1)
    if not isinstance(root.value, dict):
        return _unreadable(f"is {root.what}: it must be a mapping with sections like `tenants:`")
    return _parsed(root, [each for each in roots if is_openslo(each)], problems)


def _parsed(root: Node, documents: list[Node], problems: list[Problem]) -> ControlFile:
    top = Entry(root, "", TOP_KEYS, problems, about="")
    before = len(problems)
    sections = {key: _section(top, key) for key in SECTIONS}
    unread = len(problems) > before
    moves: dict[str, Move] = {}
    file = ControlFile(
        currency=_currency(top),
        strict_tenants=top.maybe("strict_tenants", truth),
        tenants=_read(sections["tenants"], "tenants", partial(_tenant, moves), lambda tenant: tenant.id, problems),
        moves=moves,
        rate_cards=_read(sections["rate_card"], "rate_card", _rate_card, _card_key, problems),
        budgets=_read(sections["budgets"], "budgets", _budget, lambda budget: budget.id, problems),
        event_types=_read(sections["event_types"], "event_types", event_type, lambda type_: type_.type, problems),
        unread=unread,
    )
    stated = _read(sections["objectives"], "objectives", read_objective, lambda objective: objective.id, problems)
    objectives, notes = read_openslo(documents, stated, problems)
    return replace(file, objectives=objectives, problems=tuple(problems), notes=tuple(notes))


def _unreadable(message: str) -> ControlFile:
    return ControlFile(problems=(Problem("the file", message),), unread=True)


def _section(top: Entry, key: str) -> list[Node] | None:
    if key not in top.nodes:
        return None
    node = top.nodes[key]
    if isinstance(node.value, list):
        return node.value
    remedy = (
        "write [] if it shall be empty, or leave the key out" if node.value is None else "begin each entry with `-`"
    )
    top.tell(f"is {node.what}: it must be a list; {remedy}", key)
    return None


def _read(
    nodes: list[Node] | None,
    section: str,
    read: Callable[[Node, str, list[Problem]], Located[T]],
    key_of: Callable[[T], Hashable],
    problems: list[Problem],
) -> tuple[Located[T], ...] | None:
    """The entries of a section, and a problem for each key that an earlier entry has."""
    if nodes is None:
        return None
    entries: list[Located[T]] = []
    first: dict[Hashable, str] = {}
    for place, node in enumerate(nodes):
        entry = read(node, f"{section}[{place}]", problems)
        key = key_of(entry.value)
        # A placeholder is no key: its problem is told already.
        if key != "" and not (isinstance(key, tuple) and not entry.sound):
            if key in first:
                shown = f'the id "{key}"' if isinstance(key, str) else "provider, model, tenant and valid_from"
                problems.append(entry.problem(f"has {shown} of {first[key]} again: remove one or change it"))
                entry = replace(entry, sound=False)
            first.setdefault(key, entry.path)
        entries.append(entry)
    return tuple(entries)


def _currency(top: Entry) -> Located[str] | None:
    def code(text: str) -> str:
        if not (len(text) == 3 and text.isascii() and text.isupper()):
            raise Unfit(f'is "{text}": write an ISO 4217 code, like USD or EUR')
        return text

    found = top.maybe("currency", code)
    return Located(found, "currency", top.nodes["currency"].line, "") if found else None


def _tenant(moves: dict[str, Move], node: Node, path: str, problems: list[Problem]) -> Located[Tenant]:
    """The tenant; what its entry says of its move goes into `moves`."""
    entry = Entry(node, path, ("id", "name", "org", "cost_center", "org_from", "correct_history"), problems)
    id_ = entry.take("id", name, "")
    org = entry.many("org", name, MAX_ORG_LEVELS)
    if len(set(org)) < len(org):
        entry.tell("names an org unit twice: name each level once, from the root to the leaf", "org")
    tenant = Tenant(
        id=id_, name=entry.maybe("name", name) or id_, org=org, cost_center=entry.maybe("cost_center", name)
    )
    move = Move(entry.maybe("org_from", time_us), entry.maybe("correct_history", truth) or False)
    if move.corrects and move.from_us is None:
        entry.tell("needs org_from beside it: say from when on the place holds", "correct_history")
    if move != Move():
        moves[id_] = move
    return entry.located(tenant)


def _card_key(card: RateCard) -> tuple[str, str, str | None, int]:
    return (card.provider, card.model, card.tenant, card.valid_from_us)


def _rate_card(node: Node, path: str, problems: list[Problem]) -> Located[RateCard]:
    known = ("provider", "model", "tenant", "valid_from", "valid_to", "per_million", "approved_by")
    entry = Entry(node, path, known, problems)
    prices: dict[str, int] = {}
    if not entry.has("per_million"):
        entry.tell('is missing: add prices, like {input: "2.50", output: "10.00"}', "per_million")
    else:
        listed = entry.child("per_million", KINDS)
        prices = {kind: listed.take(kind, price, 0) for kind in KINDS if listed.has(kind)}
        if not prices and listed.sound:
            listed.tell("holds no price: add at least one")
    valid_from_us = entry.take("valid_from", time_us, 0)
    valid_to_us = entry.maybe("valid_to", time_us)
    if valid_to_us is not None and valid_from_us and valid_to_us <= valid_from_us:
        entry.tell(
            "is not later than valid_from: a price holds from valid_from up to, not including, valid_to", "valid_to"
        )
    card = RateCard(
        id=0,
        provider=entry.take("provider", name, ""),
        model=entry.take("model", name, ""),
        tenant=entry.maybe("tenant", name),
        valid_from_us=valid_from_us,
        valid_to_us=valid_to_us,
        pico_per_token=prices,
        approved_by=entry.maybe("approved_by", name),
    )
    return entry.located(card)


def _window(entry: Entry) -> WindowSpec:
    if not entry.has("window"):
        entry.tell("is missing: add one, like {every: month, time_zone: Europe/Berlin}", "window")
        return WindowSpec("month", "UTC")
    window = entry.child("window", ("every", "time_zone"))
    every = window.take("every", one_of("day", "week", "month"), "month")
    return WindowSpec(cast("Every", every), window.take("time_zone", time_zone, "UTC"))


def _thresholds(entry: Entry) -> tuple[Decimal, ...]:
    def percent(text: str) -> Decimal:
        amount = number(text)
        if not 0 < amount <= MAX_THRESHOLD:
            raise Unfit(f"is {text}: a threshold is a percentage above 0 and at most {MAX_THRESHOLD}")
        if amount * 100 != int(amount * 100):
            raise Unfit(f"is {text}: at most two decimals are allowed")
        return amount

    if not entry.has("thresholds"):
        return (Decimal(100),)
    thresholds = entry.many("thresholds", percent, MAX_THRESHOLDS)
    if any(later <= earlier for earlier, later in itertools.pairwise(thresholds)):
        entry.tell(
            "are not ascending: write each once, from the lowest to the highest, like [50, 80, 100]", "thresholds"
        )
    return thresholds


def _budget(node: Node, path: str, problems: list[Problem]) -> Located[Budget]:
    known = (
        "id", "scope", "window", "limit", "limit_tokens", "thresholds", "on_exceeded",
        "throttle_per_minute", "when_stale", "stale_after_s",
    )  # fmt: skip
    entry = Entry(node, path, known, problems)
    if entry.has("limit") and entry.has("limit_tokens"):
        entry.tell("has both limit and limit_tokens: keep one, and make a second budget for the other")
    elif not entry.has("limit") and not entry.has("limit_tokens"):
        entry.tell('has no limit: add limit (money, like "250.00") or limit_tokens')
    on_exceeded = entry.maybe("on_exceeded", one_of("notify", "throttle", "block")) or "notify"
    if entry.has("throttle_per_minute") and on_exceeded != "throttle":
        entry.tell("has a meaning only beside on_exceeded: throttle", "throttle_per_minute")
    budget = Budget(
        id=entry.take("id", name, ""),
        scope=scope_of(entry),
        window=_window(entry),
        limit_pico=entry.maybe("limit", money),
        limit_tokens=entry.maybe("limit_tokens", whole(1, 2**62)),
        thresholds=_thresholds(entry),
        on_exceeded=cast("OnExceeded", on_exceeded),
        throttle_per_minute=entry.maybe("throttle_per_minute", whole(1, MAX_THROTTLE_PER_MINUTE)) or 60,
        when_stale=cast("WhenStale", entry.maybe("when_stale", one_of("open", "closed")) or "open"),
        stale_after_s=entry.maybe("stale_after_s", whole(MIN_STALE_S, MAX_STALE_S)) or 60,
    )
    return entry.located(budget)
