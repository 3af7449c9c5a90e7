"""Keys on the command line, and a server that is reached from elsewhere only by who has one."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.house import CONTROL, House
from tests.e2e.test_admissions import serving


def test_the_first_key_opens_a_server_that_binds_beyond_loopback(tmp_path: Path) -> None:
    house = House(tmp_path / "home")
    house.run("apply", str(CONTROL))
    refused = house.run("serve", "--host", "0.0.0.0", "--port", "0", code=2)
    assert "meterhouse keys create --role admin" in refused.stderr
    off = house.run("serve", "--host", "0.0.0.0", "--port", "0", code=2, settings={"METERHOUSE_AUTH": "off"})
    assert "METERHOUSE_AUTH is off" in off.stderr
    made = house.run("keys", "create", "--role", "admin", "--name", "ann")
    key = made.stdout.strip()
    assert "shown this once" in made.stderr
    with serving(house, {"METERHOUSE_HOST": "0.0.0.0"}) as (http, _):
        assert http.get("/v1/me").status_code == 401
        assert http.get("/v1/me", headers={"authorization": f"Bearer {key}"}).json()["name"] == "ann"


def test_keys_are_made_listed_replaced_and_revoked(tmp_path: Path) -> None:
    house = House(tmp_path / "home")
    house.ask("apply", str(CONTROL))
    assert house.ask("keys", "list").strip() == "No keys."
    made = house.ask("keys", "create", "--role", "product_owner", "--tenant", "acme-retail",
                     "--application", "acme-retail/search", "--expires", "90d").strip()  # fmt: skip
    key_id = made[4:16]
    renewed = house.ask("keys", "rotate", key_id, "--overlap", "0m").strip()
    house.ask("keys", "revoke", renewed[4:16])
    listed = json.loads(house.ask("keys", "list", "--format", "json"))["keys"]
    assert [(line["id"], line["standing"], line["replaces"]) for line in listed] == [
        (key_id, "expired", None), (renewed[4:16], "revoked", key_id),
    ]  # fmt: skip
    assert listed[0]["grants"] == [
        {"tenant": "acme-retail", "application": None}, {"tenant": "acme-retail", "application": "search"},
    ]  # fmt: skip
    assert "acme-retail/search" in house.ask("keys", "list")
    for wrong in (
        ("--role", "product_owner"), ("--role", "finance", "--tenant", "acme-retail"),
        ("--role", "gateway", "--tenant", "nobody"), ("--role", "admin", "--expires", "soon"),
        ("--role", "gateway", "--application", "acme-retail"),
    ):  # fmt: skip
        house.ask("keys", "create", *wrong, code=2)
    house.ask("keys", "revoke", "nobody", code=1)
