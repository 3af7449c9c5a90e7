"""`Meterhouse`: a method per operation of the API."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, BinaryIO, Final, Protocol, Self, TypeVar

import httpx
import msgspec

from meterhouse.client import charge_shapes, key_shapes, objective_shapes, quality_shapes, reconciliation_shapes, shapes
from meterhouse.client.errors import BadAnswer, TooLarge
from meterhouse.client.params import Filters, When, part_of, range_of, report_of
from meterhouse.client.retries import Patience
from meterhouse.client.transport import Call, Params, Surroundings, Transport

MAX_BODY_BYTES: Final = 4 * 2**20
"""Of one body of events, as the server's default is. A server that takes less says so, and bodies are halved."""
PAGE: Final = 500
"""Entries that an iterator fetches at a time; the server gives 1,000 at most."""
_BATCH: Final = {"content-type": "application/cloudevents-batch+json"}
_JSON: Final = {"content-type": "application/json"}

Shape = TypeVar("Shape", bound=shapes.Shape)
Entry = TypeVar("Entry")


class Page(Protocol):
    @property
    def next(self) -> str | None: ...


SomePage = TypeVar("SomePage", bound=Page)


class Meterhouse:
    """The API at `base_url` ("https://meterhouse.example"), as `key` may use it: an API key, or a bearer token.

    `timeout_s`: without a byte from the server for so long, an attempt ends; `patience` bounds a whole call.
    `transport` is httpx's: the place for certificates and proxies. Each method raises MeterhouseError.
    """

    def __init__(
        self,
        base_url: str,
        *,
        key: str | None = None,
        timeout_s: float = 10.0,
        patience: Patience | None = None,
        transport: httpx.BaseTransport | None = None,
        around: Surroundings | None = None,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(f"{base_url!r} is no address: give one as https://meterhouse.example")
        headers = {"user-agent": "meterhouse-client"} | ({"authorization": f"Bearer {key}"} if key else {})
        self._http = httpx.Client(base_url=base_url, headers=headers, transport=transport)
        self._transport = Transport(self._http, timeout_s, patience or Patience(), around or Surroundings())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # gateways

    def publish(self, events: Iterable[Mapping[str, Any]]) -> int:
        """Publishes CloudEvents, in bodies that the server takes, and returns how many. They are in the log durably
        then; after an error some may be. To publish an event again is harmless: it is billed once."""
        published = 0
        for body in _bodies(events):
            self._publish(body)
            published += len(body)
        return published

    def _publish(self, events: Sequence[bytes]) -> None:
        try:
            self._transport.ask(Call("POST", "/v1/events", body=b"[%b]" % b",".join(events), headers=_BATCH))
        except TooLarge:
            if len(events) == 1:
                raise
            half = len(events) // 2
            self._publish(events[:half])
            self._publish(events[half:])

    def admit(self, request: shapes.AdmissionRequest) -> shapes.Admission:
        """May this request run? Raises Refused where a budget does not let it."""
        call = Call("POST", "/v1/admissions", body=_encoded(request), headers=_JSON, repeatable=False)
        return self._read(call, shapes.Admission)

    def settle(
        self,
        reservation: str,
        *,
        cost: Decimal | None = None,
        tokens: int | None = None,
        position: shapes.Position | None = None,
    ) -> None:
        """The request has ended and its event is published. What is left out counts as much as was reserved."""
        body = _encoded(shapes.Settlement(cost=cost, tokens=tokens, position=position))
        path = f"/v1/admissions/{part_of(reservation)}/settlement"
        self._transport.ask(Call("POST", path, body=body, headers=_JSON, repeatable=False))

    def cancel(self, reservation: str) -> None:
        """The request did not run."""
        self._transport.ask(Call("DELETE", f"/v1/admissions/{part_of(reservation)}"))

    def prices(
        self, *, tenant: str | None = None, provider: str | None = None, model: str | None = None
    ) -> shapes.Prices:
        """Prices in force."""
        return self._get("/v1/prices", {"tenant": tenant, "provider": provider, "model": model}, shapes.Prices)

    # reports

    def chargeback(
        self,
        from_: When | None = None,
        to: When | None = None,
        *,
        group_by: Sequence[str] = (),
        where: Filters | None = None,
    ) -> shapes.Chargeback:
        """What was billed. Without a range: the current month (UTC)."""
        return self._get("/v1/chargeback", report_of(from_, to, group_by, where), shapes.Chargeback)

    def charges(
        self,
        from_: When | None = None,
        to: When | None = None,
        *,
        kind: str | None = None,
        where: Filters | None = None,
    ) -> Iterator[charge_shapes.Charge]:
        """The events behind the chargeback, the oldest first, fetched as they are asked for."""
        params = {**report_of(from_, to, (), where), "kind": kind}
        return self._pages("/v1/charges", params, charge_shapes.ChargePage, lambda page: page.charges)

    def charge(self, partition: int, offset: int, index: int) -> charge_shapes.ChargeAndRecord:
        """The charge of the event at a place in the log."""
        return self._get(f"/v1/charges/{partition}/{offset}/{index}", {}, charge_shapes.ChargeAndRecord)

    def org_tree(
        self, from_: When | None = None, to: When | None = None, *, where: Filters | None = None
    ) -> charge_shapes.OrgTree:
        """What was billed, by org unit, each where its tenants stood."""
        return self._get("/v1/chargeback/org-tree", report_of(from_, to, (), where), charge_shapes.OrgTree)

    def comparison(
        self,
        from_: When | None = None,
        to: When | None = None,
        *,
        group_by: Sequence[str] = (),
        where: Filters | None = None,
    ) -> charge_shapes.Comparison:
        """What was billed, beside the range before."""
        return self._get("/v1/chargeback/comparison", report_of(from_, to, group_by, where), charge_shapes.Comparison)

    def explanation(
        self, from_: When | None = None, to: When | None = None, *, where: Filters | None = None
    ) -> charge_shapes.Explanation:
        """Why the bill changed: parts that add up to the difference."""
        return self._get("/v1/chargeback/explanation", report_of(from_, to, (), where), charge_shapes.Explanation)

    def forecast(
        self,
        from_: When | None = None,
        to: When | None = None,
        *,
        group_by: Sequence[str] = (),
        where: Filters | None = None,
    ) -> charge_shapes.Forecast:
        """What will have been billed at the range's end."""
        return self._get("/v1/forecast", report_of(from_, to, group_by, where), charge_shapes.Forecast)

    def usage(
        self,
        from_: When | None = None,
        to: When | None = None,
        *,
        every: str = "day",
        group_by: Sequence[str] = (),
        where: Filters | None = None,
    ) -> shapes.Usage:
        """Requests and tokens, in buckets of a minute, an hour or a day."""
        return self._get("/v1/usage", {**report_of(from_, to, group_by, where), "every": every}, shapes.Usage)

    def slo(self, from_: When | None = None, to: When | None = None) -> shapes.Slo:
        """Objectives, each over its window that ends now, or over a range."""
        return self._get("/v1/slo", range_of(from_, to), shapes.Slo)

    def burn_down(self, objective: str, from_: When | None = None, to: When | None = None) -> objective_shapes.BurnDown:
        """What was left of an objective's error budget, step by step, over its window that ends now or a range."""
        params = {**range_of(from_, to), "objective": objective}
        return self._get("/v1/slo/burn-down", params, objective_shapes.BurnDown)

    def latencies(
        self,
        from_: When | None = None,
        to: When | None = None,
        *,
        every: str = "day",
        group_by: Sequence[str] = (),
        where: Filters | None = None,
    ) -> objective_shapes.Latencies:
        """Percentiles, in buckets of an hour, a day or a month, or of the whole range."""
        params = {**report_of(from_, to, group_by, where), "every": every}
        return self._get("/v1/latencies", params, objective_shapes.Latencies)

    def budgets(self, from_: When | None = None, to: When | None = None) -> shapes.Budgets:
        """Each budget's current window, or all its windows in a range."""
        return self._get("/v1/budgets", range_of(from_, to), shapes.Budgets)

    def reconciliation(
        self, from_: When | None = None, to: When | None = None, *, where: Filters | None = None
    ) -> reconciliation_shapes.Reconciliation:
        """What gateways and model nodes say of the same requests, by kind."""
        return self._get("/v1/reconciliation", report_of(from_, to, (), where), reconciliation_shapes.Reconciliation)

    def reconciled_requests(
        self,
        from_: When | None = None,
        to: When | None = None,
        *,
        kind: str | None = None,
        where: Filters | None = None,
    ) -> Iterator[reconciliation_shapes.ReconciledRequest]:
        """The requests of one kind, or all gaps, the oldest first, fetched as they are asked for."""
        params, page = {**report_of(from_, to, (), where), "kind": kind}, reconciliation_shapes.ReconciledRequestPage
        return self._pages("/v1/reconciliation/requests", params, page, lambda page: page.requests)

    def rejects(
        self,
        from_: When | None = None,
        to: When | None = None,
        *,
        reason: Sequence[str] = (),
        tenant: str | None = None,
        resolved: bool = False,
    ) -> Iterator[shapes.Reject]:
        """Events that were not taken, the newest first, fetched as they are asked for."""
        params = {**range_of(from_, to), "reason": list(reason), "tenant": tenant, "resolved": resolved}
        return self._pages("/v1/rejects", params, shapes.RejectPage, lambda page: page.rejects)

    def focus(
        self,
        file: BinaryIO,
        from_: When | None = None,
        to: When | None = None,
        *,
        where: Filters | None = None,
        parquet: bool = False,
    ) -> int:
        """Writes what was billed to a file as rows of FOCUS 1.4, CSV or Parquet, and returns its length."""
        params = {**(where or {}), **range_of(from_, to), "format": "parquet" if parquet else "csv"}
        return self.save("/v1/exports/focus", file, params=params)

    def save(self, path: str, file: BinaryIO, *, params: Params | None = None, accept: str = "*/*") -> int:
        """Writes what is at `path` to a file as it comes, and returns its length: for what is too large to be
        kept in memory."""
        return self._transport.save(Call("GET", path, params or {}, headers={"accept": accept}), file)

    # alerts

    def alerts(
        self,
        from_: When | None = None,
        to: When | None = None,
        *,
        status: str | None = None,
        kind: str | None = None,
        subject: str | None = None,
    ) -> Iterator[shapes.Alert]:
        """Alerts, the newest first, fetched as they are asked for."""
        params = {**range_of(from_, to), "status": status, "kind": kind, "subject": subject}
        return self._pages("/v1/alerts", params, shapes.AlertPage, lambda page: page.alerts)

    def alert(self, alert_id: str) -> shapes.AlertStory:
        """An alert with its history."""
        return self._get(f"/v1/alerts/{part_of(alert_id)}", {}, shapes.AlertStory)

    def acknowledge(self, alert_id: str, *, by: str, note: str | None = None) -> shapes.AlertStory:
        """Says who looks after an alert. Said again, the last one stands."""
        body = _encoded(shapes.Acknowledgement(by=by, note=note))
        call = Call("POST", f"/v1/alerts/{part_of(alert_id)}/acknowledgement", body=body, headers=_JSON)
        return self._read(call, shapes.AlertStory)

    def silences(self) -> list[shapes.Silence]:
        """Those that are not over."""
        return self._get("/v1/silences", {}, shapes.Silences).silences

    def silence(self, asked: shapes.NewSilence) -> shapes.Silence:
        """Keeps alerts from people for a while. Made once, however often it has to be sent."""
        headers = {**_JSON, "idempotency-key": str(uuid.uuid4())}
        return self._read(Call("POST", "/v1/silences", body=_encoded(asked), headers=headers), shapes.Silence)

    def end_silence(self, silence_id: str) -> None:
        self._transport.ask(Call("DELETE", f"/v1/silences/{part_of(silence_id)}"))

    # keys, and who did what

    def quality(self, suite: str | None = None) -> quality_shapes.Quality:
        """What each suite of data quality, or this one, came to when it was last run."""
        return self._get("/v1/quality", {"suite": suite}, quality_shapes.Quality)

    def me(self) -> key_shapes.Me:
        """Whose key this is, and what it may do."""
        return self._get("/v1/me", {}, key_shapes.Me)

    def keys(self) -> list[key_shapes.Key]:
        return self._get("/v1/keys", {}, key_shapes.Keys).keys

    def create_key(self, asked: key_shapes.NewKey) -> key_shapes.MadeKey:
        """A new key. Its text is in this answer and nowhere else."""
        call = Call("POST", "/v1/keys", body=_encoded(asked), headers=_JSON, repeatable=False)
        return self._read(call, key_shapes.MadeKey)

    def rotate_key(self, key_id: str, *, overlap_s: int) -> key_shapes.MadeKey:
        """A new key in place of one that goes on for so many seconds."""
        body, path = _encoded(key_shapes.Rotation(overlap_s=overlap_s)), f"/v1/keys/{part_of(key_id)}/rotation"
        return self._read(Call("POST", path, body=body, headers=_JSON, repeatable=False), key_shapes.MadeKey)

    def revoke_key(self, key_id: str) -> None:
        self._transport.ask(Call("DELETE", f"/v1/keys/{part_of(key_id)}"))

    def audit(
        self,
        from_: When | None = None,
        to: When | None = None,
        *,
        actor: str | None = None,
        action: str | None = None,
    ) -> Iterator[key_shapes.AuditEntry]:
        """Who did what, the newest first, fetched as they are asked for."""
        params = {**range_of(from_, to), "actor": actor, "action": action}
        return self._pages("/v1/audit", params, key_shapes.AuditPage, lambda page: page.entries)

    def _get(self, path: str, params: Params, shape: type[Shape]) -> Shape:
        return self._read(Call("GET", path, params), shape)

    def _read(self, call: Call, shape: type[Shape]) -> Shape:
        return _decoded(f"{call.method} {call.path}", self._transport.ask(call), shape)

    def _pages(
        self, path: str, params: Params, shape: type[Any], entries: Callable[[Any], Sequence[Entry]]
    ) -> Iterator[Entry]:
        after: str | None = None
        while True:
            page = self._get(path, {**params, "limit": PAGE, "after": after}, shape)
            yield from entries(page)
            if page.next is None:
                return
            if page.next == after:
                raise BadAnswer(f"GET {path}: the page after {after} is that page again")
            after = page.next


def _bodies(events: Iterable[Mapping[str, Any]]) -> Iterator[list[bytes]]:
    """Encoded events, as many together as a body may have."""
    body, size = list[bytes](), 0
    for event in events:
        encoded = msgspec.json.encode(event)
        if body and size + len(encoded) + 2 > MAX_BODY_BYTES:
            yield body
            body, size = [], 0
        body.append(encoded)
        size += len(encoded) + 1  # and a comma
    if body:
        yield body


def _encoded(shape: shapes.Shape) -> bytes:
    return msgspec.json.encode(shape)


def _decoded(asked: str, body: bytes, shape: type[Shape]) -> Shape:
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.DecodeError as wrong:
        raise BadAnswer(f"{asked}: {wrong}") from wrong
