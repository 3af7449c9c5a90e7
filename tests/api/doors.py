"""A server with authentication on: its house, its keys, an issuer, and what its audit log says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import sqlalchemy as sa
from fastapi import FastAPI

from meterhouse.api.app import create_app
from meterhouse.api.clock import now_us
from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.warehouse.api_keys import NewKey
from meterhouse.warehouse.control_file import parse
from meterhouse.warehouse.control_plan import plan
from meterhouse.warehouse.control_tables import AUDIT_LOG, RATE_CARDS, TENANTS
from meterhouse.warehouse.control_tables import CONTROL as CONTROL_HEAD
from meterhouse.warehouse.view import Grant
from tests.api.serving import served
from tests.services.issuer import AUDIENCE, Issuer

AT_WILL: Final = "ingest=9999999 admissions=9999999 reports=9999999 exports=9999999"
"""Tests wait by asking again and again."""
CONTROL: Final = """
currency: USD
tenants:
  - {id: acme, name: Acme, org: [group], cost_center: CC-1}
  - {id: borea, name: Borea, org: [group], cost_center: CC-2}
rate_card:
  - provider: atlas
    model: large
    valid_from: 2026-01-01T00:00:00Z
    per_million: {input: "2.50", cache_read: "0.25", cache_write: "3.125", output: "10.00", reasoning: "10.00"}
  - provider: atlas
    model: large
    tenant: borea
    valid_from: 2026-01-01T00:00:00Z
    per_million: {input: "1.00", cache_read: "0.25", cache_write: "3.125", output: "1.00", reasoning: "1.00"}
    approved_by: finance@example.com
budgets:
  - {id: month, scope: {application: assistant}, window: {every: month, time_zone: UTC}, limit: "100"}
"""


@dataclass
class Gatehouse:
    """A server, and `keys` of it by a name of the test's own."""

    house: House
    app: FastAPI
    http: httpx.Client
    keys: dict[str, str] = field(default_factory=dict)

    def make(self, name: str, role: str, *grants: Grant, expires_us: int | None = None) -> str:
        """Makes a key and returns its id."""
        made = self.house.keys.create(
            NewKey(name=name, role=role, grants=grants or None, expires_us=expires_us), "ann", now_us()
        )
        self.keys[name] = made.text
        return made.key.id

    def ask(self, name: str, path: str = "/v1/me", method: str = "GET", **more: Any) -> httpx.Response:
        """Asks with the key of this name."""
        return self.show(self.keys[name], path, method, **more)

    def show(self, credentials: str, path: str = "/v1/me", method: str = "GET", **more: Any) -> httpx.Response:
        return self.http.request(method, path, headers={"authorization": f"Bearer {credentials}"}, **more)

    def audited(self, action: str) -> list[dict[str, Any]]:
        """What the log says of an action: actor, subject and detail of each entry, the oldest first."""
        url = f"sqlite:///{self.house.settings.control_path}"
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            chosen = sa.select(AUDIT_LOG).where(AUDIT_LOG.c.action == action).order_by(AUDIT_LOG.c.seq)
            rows = connection.execute(chosen).mappings().all()
        engine.dispose()
        return [{"actor": r["actor"], "subject": r["subject"], **json.loads(r["detail"])} for r in rows]


def apply(house: House) -> None:
    """Control data of two tenants."""
    house.control.apply(plan(parse(CONTROL), house.control.snapshot(), now_us()), now_us())


def delete_tenant(house: House, tenant: str) -> None:
    """Takes a tenant out of control data, which a control file does not."""
    engine = sa.create_engine(f"sqlite:///{house.settings.control_path}")
    with engine.begin() as connection:
        connection.execute(sa.delete(RATE_CARDS).where(RATE_CARDS.c.tenant == tenant))
        connection.execute(sa.delete(TENANTS).where(TENANTS.c.id == tenant))
        connection.execute(sa.update(CONTROL_HEAD).values(version=CONTROL_HEAD.c.version + 1))
    engine.dispose()


@contextmanager
def gatehouse(folder: Path, issuer: Issuer | None = None, **settings: Any) -> Iterator[Gatehouse]:
    """A server of two tenants and a key of each role."""
    if issuer is not None:
        settings |= {"oidc_issuer": issuer.url, "oidc_audience": AUDIENCE}
    settings = {"rate_per_minute": AT_WILL} | settings
    with ExitStack() as stack:
        house = stack.enter_context(House(Settings(home=folder / "home", **settings), writer=True))
        apply(house)
        there = Gatehouse(house, FastAPI(), httpx.Client())
        there.http.close()
        for role in ("admin", "finance", "auditor", "gateway"):
            there.make(role, role)
        there.make("product_owner", "product_owner", Grant("acme"))
        there.make("acme_gateway", "gateway", Grant("acme"))
        there.make("assistant_gateway", "gateway", Grant("acme", "assistant"))
        there.app = create_app(house)
        there.http = stack.enter_context(served(there.app, settings.get("port", 0)))
        there.http.timeout = httpx.Timeout(60)
        yield there
