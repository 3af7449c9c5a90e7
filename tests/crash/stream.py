"""A seeded stream of usage events as bad as a platform's worst day, and what it must come to.

Events come twice (at once, much later, under another tenant's key, in another partition, with another time of the same
minute), out of order, late, and between them stands what nobody can bill. The truth is taken when an event is made, so
it depends neither on what was acknowledged nor on how often anything was sent. It comes from the oracle alone.
"""

from __future__ import annotations

import base64
import json
import random
import zlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.crash.control_data import DAY_US, MINUTE_US
from tests.oracle import books, budgets

SPAN_MINUTES: Final = 85
"""Events lie in the 85 minutes before the stream is made; nothing of it is ahead of its arrival."""
SOURCES: Final = ("/gateway/1", "/gateway/2", "/gateway/3")
MEMORY: Final = 2_000
"""Events that may come again: of those made before, a sample of this size."""
PLAN_HEADER: Final = "plan"
"""The header that names a record's number in the plan; only a record that the meter forwarded is without one."""

Sums = dict[str, int]
Book = dict[tuple[str, str, str, str, int], Sums]
"""(tenant, application, provider, model, start of minute in microseconds) → requests by status, tokens by kind,
unpriced requests and cost in pico-units, all of which are whole numbers; zeros are left out."""


@dataclass(frozen=True)
class Entry:
    """A record of the plan. `read`: events that it holds; `rejects`: those of them that nobody can bill, by index."""

    number: int
    tenant: str | None  # the key
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    shift: int  # partitions to the right of the key's own
    read: int
    rejects: tuple[int, ...]

    def partition(self, partitions: int) -> int:
        return (zlib.crc32((self.tenant or "").encode()) % partitions + self.shift) % partitions

    @property
    def key(self) -> bytes | None:
        return None if self.tenant is None else self.tenant.encode()

    @property
    def all_headers(self) -> tuple[tuple[str, bytes], ...]:
        return (*self.headers, (PLAN_HEADER, str(self.number).encode()))

    def to_line(self) -> str:
        return json.dumps(
            {
                "number": self.number,
                "tenant": self.tenant,
                "value": None if self.value is None else base64.b64encode(self.value).decode(),
                "headers": [[name, text.decode()] for name, text in self.headers],
                "shift": self.shift,
                "read": self.read,
                "rejects": self.rejects,
            }
        )

    @classmethod
    def from_line(cls, line: str) -> Entry:
        told = json.loads(line)
        return cls(
            told["number"],
            told["tenant"],
            None if told["value"] is None else base64.b64decode(told["value"]),
            tuple((name, text.encode()) for name, text in told["headers"]),
            told["shift"],
            told["read"],
            tuple(told["rejects"]),
        )


def write_plan(path: Path, entries: Iterable[Entry]) -> None:
    path.write_text("".join(f"{entry.to_line()}\n" for entry in entries), encoding="utf-8")


def read_plan(path: Path) -> list[Entry]:
    return [Entry.from_line(line) for line in path.read_text(encoding="utf-8").splitlines()]


# -- the stream --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Made:
    """An event as it was first made."""

    tenant: str
    envelope: dict[str, Any]  # without its time
    time_us: int
    is_request: bool

    def json(self, time_us: int | None = None) -> bytes:
        time = books.rfc3339(self.time_us if time_us is None else time_us)
        return json.dumps({**self.envelope, "time": time}).encode()


@dataclass
class Stream:
    """Makes records; `truth` is what all made so far come to, `spend` what of it counts for budgets."""

    seed: int
    now_us: int
    control: books.Control
    truth: Book = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    spend: budgets.Spend = field(default_factory=dict)
    events: int = 0
    records: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)  # (read, rejects) by number
    node_events: int = 0

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._memory: list[_Made] = []
        self._tenants = [tenant["id"] for tenant in self.control.tenants]
        self._models = [*self.control.models, ("borea", "borea-next")]  # the last has no price

    def take(self, events: int) -> list[Entry]:
        """The next records, of that many new events, in the order in which they are sent."""
        rng, wanted, entries = self._rng, self.events + events, []
        while self.events < wanted:
            draw = rng.random()
            if draw < 0.03:
                entries.append(self._poison())
            elif draw < 0.12:
                entries.append(self._batch())
            elif draw < 0.20 and self._memory:
                entries.append(self._again(rng.choice(self._memory)))
            else:
                made = self._make()
                entries.append(self._binary(made) if rng.random() < 0.1 else self._single(made))
                if rng.random() < 0.05:
                    entries.append(self._again(made))
        # Neighbours change places: order is what no log of many publishers has.
        order = sorted(range(len(entries)), key=lambda at: at + rng.uniform(0, 30))
        return [entries[at] for at in order]

    # -- events ------------------------------------------------------------------------------------------------------

    def _make(self, tenant: str | None = None) -> _Made:
        rng = self._rng
        tenant = tenant or rng.choice(self._tenants)
        provider, model = rng.choice(self._models)
        late = rng.random() < 0.05
        minutes_ago = SPAN_MINUTES if late else rng.triangular(0, SPAN_MINUTES, 3)
        time_us = self.now_us - int(minutes_ago * MINUTE_US) - 1
        tokens = {
            "input": rng.randrange(4_000), "cache_read": rng.choice((0, rng.randrange(2_000))),
            "cache_write": rng.choice((0, 0, rng.randrange(500))), "output": rng.randrange(900),
            "reasoning": rng.choice((0, rng.randrange(700))),
        }  # fmt: skip
        is_request = rng.random() >= 0.03
        status = rng.choices(books.STATUSES, (90, 3, 3, 2, 2))[0]
        application = rng.choice(books.APPLICATIONS)
        self.events += 1
        counts = {
            "input_tokens": tokens["input"] + tokens["cache_read"] + tokens["cache_write"],
            "cache_read_input_tokens": tokens["cache_read"],
            "cache_write_input_tokens": tokens["cache_write"],
            "output_tokens": tokens["output"] + tokens["reasoning"],
            "reasoning_output_tokens": tokens["reasoning"],
        }
        named = (
            {"application": application, "status": status, "duration_us": rng.randrange(10**7)}
            if is_request
            else {"request_id": f"r-{self.events}", "node": "node-1"}
        )
        envelope = {
            "specversion": "1.0",
            "type": "meterhouse.request.v1" if is_request else "meterhouse.inference.v1",
            # Ids are told apart by their source: every gateway counts for itself.
            "id": f"e-{self.events // 2}" if is_request else f"n-{self.events}",
            "source": SOURCES[self.events % 2] if is_request else SOURCES[2],
            "subject": tenant,
            "data": {"model": model, "provider": provider, **named, **counts},
        }
        made = _Made(tenant, envelope, time_us, is_request)
        if is_request:
            event = books.Event(
                id=envelope["id"], source=envelope["source"], tenant=tenant, application=application,
                provider=provider, model=model, time=time_us, status=status, tokens=tokens,
                duration=0, time_to_first_token=0,
            )  # fmt: skip
            charge = books.charge(self.control, event)
            account(self.truth, charge)
            budgets.account(self.spend, charge)
        else:
            self.node_events += 1
        if len(self._memory) < MEMORY:
            self._memory.append(made)
        else:
            self._memory[rng.randrange(MEMORY)] = made
        return made

    def _again(self, made: _Made) -> Entry:
        """The same event once more: as it was, or with a later time of its minute, or where it does not belong."""
        rng = self._rng
        way = rng.randrange(4)
        if way == 0:
            return self._single(made)
        if way == 1:
            return self._entry(rng.choice(self._tenants), made.json())
        if way == 2:
            return self._entry(made.tenant, made.json(), shift=1)
        return self._entry(made.tenant, made.json(self._other_time(made)))

    def _other_time(self, made: _Made) -> int:
        """Another time of the same minute and under the same price, so that the truth is the same."""
        last_us = made.time_us // MINUTE_US * MINUTE_US + MINUTE_US - 1
        edges = [edge for price in self.control.prices for edge in (price.valid_from - 1,) if edge >= made.time_us]
        return self._rng.randint(made.time_us, min([last_us, *edges]))

    # -- records -----------------------------------------------------------------------------------------------------

    def _entry(
        self,
        tenant: str | None,
        value: bytes | None,
        content_type: str = "application/cloudevents+json",
        *,
        shift: int = 0,
        rejects: tuple[int, ...] = (),
        read: int = 1,
        headers: tuple[tuple[str, bytes], ...] | None = None,
    ) -> Entry:
        entry = Entry(
            number=len(self.records),
            tenant=tenant,
            value=value,
            headers=(("content-type", content_type.encode()),) if headers is None else headers,
            shift=shift,
            read=read,
            rejects=rejects,
        )
        self.records.append((read, rejects))
        return entry

    def _single(self, made: _Made) -> Entry:
        # One in twenty first events is under another tenant's key as well, or in another's partition.
        draw = self._rng.random()
        if draw < 0.03:
            return self._entry(self._rng.choice(self._tenants), made.json())
        return self._entry(made.tenant, made.json(), shift=1 if draw < 0.05 else 0)

    def _binary(self, made: _Made) -> Entry:
        told = json.loads(made.json())
        data = json.dumps(told.pop("data")).encode()
        headers = (("content-type", b"application/json"), *((f"ce_{name}", told[name].encode()) for name in told))
        return self._entry(made.tenant, data, headers=headers)

    def _batch(self) -> Entry:
        """An array of events of one tenant, some twice, some that nobody can bill."""
        rng = self._rng
        tenant = rng.choice(self._tenants)
        payloads: list[bytes] = []
        rejects: list[int] = []
        for _ in range(rng.randrange(2, 30)):
            draw = rng.random()
            if draw < 0.03:
                rejects.append(len(payloads))
                payloads.append(
                    self._unsound(tenant, kinds=5)
                )  # of the large ones a few would be too much for a record
                continue
            payloads.append(self._make(tenant).json())
            if draw > 0.95:
                payloads.append(payloads[-1])
        return self._entry(
            tenant,
            b"[" + b",".join(payloads) + b"]",
            "application/cloudevents-batch+json",
            rejects=tuple(rejects),
            read=len(payloads),
        )

    def _unsound(self, tenant: str, kinds: int = 6) -> bytes:
        """An event in sound JSON that nobody can bill. Its id is one that no other event has."""
        rng = self._rng
        told: dict[str, Any] = {
            "specversion": "1.0", "type": "meterhouse.request.v1", "id": f"bad-{len(self.records)}-{rng.random()}",
            "source": SOURCES[2], "subject": tenant, "time": books.rfc3339(self.now_us - MINUTE_US),
            "data": {"application": "assistant", "model": "atlas-large", "provider": "atlas", "status": "ok"},
        }  # fmt: skip
        match rng.randrange(kinds):
            case 0:
                told["data"]["input_tokens"] = -5
            case 1:
                told["subject"] = "nobody-knows"
            case 2:
                told["time"] = books.rfc3339(self.now_us - 40 * DAY_US)  # its books are closed
            case 3:
                told["data"] |= {"input_tokens": 5, "cache_read_input_tokens": 6}
            case 4:
                told["data"]["status"] = "fine"
            case _:
                told["data"]["user"] = "x" * 300_000  # a prompt, most likely
        return json.dumps(told).encode()

    def _poison(self) -> Entry:
        rng = self._rng
        tenant = rng.choice(self._tenants)
        match rng.randrange(6):
            case 0:
                return self._entry(tenant, b"\x00\xff not JSON at all", rejects=(-1,))
            case 1:
                return self._entry(tenant, None, rejects=(-1,))
            case 2:  # an array that breaks off
                return self._entry(
                    tenant, b'[{"specversion":"1.0"}, {', "application/cloudevents-batch+json", rejects=(-1,)
                )
            case 3:
                return self._entry(None, self._unsound(tenant), rejects=(0,))
            case _:
                return self._entry(tenant, self._unsound(tenant), rejects=(0,))


def account(book: Book, charge: books.Charge) -> None:
    """Adds one charge up."""
    event = charge.event
    sums = book[event.tenant, event.application, event.provider, event.model, event.time // MINUTE_US * MINUTE_US]
    sums[event.status] += 1
    sums["unpriced"] += charge.disposition == "unpriced"
    for kind, tokens in event.tokens.items():
        sums[kind] += tokens
    cost_pico = charge.cost * 10**12
    assert cost_pico.denominator == 1
    sums["cost_pico"] += cost_pico.numerator


def plain(book: Book) -> Book:
    """Without zeros, as plain dicts."""
    return {key: {name: value for name, value in sums.items() if value} for key, sums in book.items()}
