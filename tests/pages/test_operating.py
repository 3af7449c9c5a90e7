"""Pages for those who run a house: rejects, rate cards, the pipeline, the audit log. Without a browser."""

from __future__ import annotations

import html
import json
import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import pytest

from meterhouse.api.clock import now_us
from meterhouse.api.figures import Reports
from meterhouse.api.pages.checks import Check
from meterhouse.api.pages.payloads import as_hex, as_text
from meterhouse.api.pages.pipeline import PARTS
from meterhouse.api.problems import Problem
from meterhouse.api.workers import Workers
from meterhouse.ingest.log import USAGE_EVENTS, Message
from meterhouse.warehouse.control_file import parse
from meterhouse.warehouse.control_plan import plan
from meterhouse.warehouse.lake_trouble import LakeUnavailable
from meterhouse.warehouse.view import EVERYTHING
from tests.api.doors import Gatehouse
from tests.pages.place import event

REJECT = "usage.events/0/0/0"


class Person:
    """Someone who signed in, without a browser."""

    def __init__(self, doors: Gatehouse, role: str) -> None:
        base = str(doors.http.base_url)
        self.http = httpx.Client(base_url=base, timeout=60, follow_redirects=True, headers={"accept": "text/html"})
        self.http.headers["origin"] = base.rstrip("/")
        self.token = ""
        self.post("/sign-in", credentials=doors.keys[role])
        self.open("/overview")

    def open(self, path: str) -> str:
        text = self.http.get(path).text
        self.token = found[1] if (found := re.search(r'name="form_token" value="(\w+)"', text)) else self.token
        return text

    def post(self, path: str, **fields: str) -> httpx.Response:
        if not self.token:
            self.open("/sign-in")
        return self.http.post(path, data={"form_token": self.token, **fields})


@pytest.fixture
def admin(doors: Gatehouse) -> Iterator[Person]:
    person = Person(doors, "admin")
    yield person
    person.http.close()


def table(text: str, id_: str) -> list[list[str]]:
    """The texts of the cells of a table's body."""
    body = re.search(rf'<table id="{id_}".*?<tbody>(.*?)</tbody>', text, re.DOTALL)
    assert body is not None, id_
    rows = re.findall(r"<tr.*?</tr>", body[1], re.DOTALL)
    cells = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    return [[html.unescape(re.sub(r"<[^>]+>|\s+", " ", cell)).strip() for cell in row] for row in cells]


# -- rejects ----------------------------------------------------------------------------------------------------------


def test_rejects_are_those_of_the_api_and_their_bytes_act_on_no_page(doors: Gatehouse, admin: Person) -> None:
    said = doors.ask("admin", "/v1/rejects", params={"tenant": "acme"}).json()["rejects"]
    rows = table(admin.open("/rejects?tenant=acme&reason=&from=&to="), "rejects")
    assert [(row[2], row[3], row[6], row[7]) for row in rows] == [
        (each["tenant"], each["reason"].replace("_", " "), str(len(each["payload"])), "0/0/0") for each in said
    ]
    shown = admin.open(f"/rejects/{REJECT}")
    assert "&lt;b&gt;wrong&lt;/b&gt;" in shown
    assert "<b>wrong" not in shown
    assert said[0]["payload"].encode()[:16].hex(" ") in admin.open(f"/rejects/{REJECT}?view=hex")


def test_a_reader_of_one_tenant_sees_its_rejects_and_no_form(doors: Gatehouse) -> None:
    owner = Person(doors, "product_owner")
    assert len(table(owner.open("/rejects"), "rejects")) == 1
    assert "action=" not in owner.open(f"/rejects/{REJECT}").partition('<main id="content"')[2]
    assert owner.http.get("/rejects/usage.events/0/1/0").status_code == 404
    assert owner.post("/rejects/resolutions", action="discard", note="no", **{f"at:{REJECT}": "1"}).status_code == 403
    owner.http.close()


@pytest.mark.parametrize(
    "fields",
    [
        {"action": "burn", f"at:{REJECT}": "1"},
        {"action": "requeue"},
        {"action": "discard", "note": " ", f"at:{REJECT}": "1"},
        {"action": "requeue", "at:nowhere": "1"},
        {"action": "requeue", f"at:{REJECT}": "1", "form_token": "0" * 64},
    ],
)
def test_a_form_that_says_nothing_to_do_does_nothing(doors: Gatehouse, admin: Person, fields: dict[str, str]) -> None:
    answer = admin.post("/rejects/resolutions", **fields)
    assert answer.status_code == (403 if "form_token" in fields else 400)
    assert {each["state"] for each in doors.ask("admin", "/v1/rejects").json()["rejects"]} == {"open"}


def test_rejects_are_sent_again_corrected_and_discarded(doors: Gatehouse, admin: Person) -> None:
    kept = doors.ask("admin", "/v1/rejects", params={"tenant": "acme"}).json()["rejects"][0]["payload"]
    assert "status" in admin.post("/rejects/resolutions", action="requeue", **{f"at:{REJECT}": "1"}).text
    refused = admin.post("/rejects/resolutions", action="repair", payload=kept, note="", **{f"at:{REJECT}": "1"})
    assert "0 of 1 done" in refused.text
    event = json.loads(kept)
    event["data"]["status"] = "ok"
    sent = admin.post(
        "/rejects/resolutions", action="repair", payload=json.dumps(event), note="typo", **{f"at:{REJECT}": "1"}
    )
    assert "1 of 1 done" in sent.text
    other = "usage.events/0/1/0"
    assert (
        "1 of 1 done"
        in admin.post("/rejects/resolutions", action="discard", note="a test", **{f"at:{other}": "1"}).text
    )
    lines = doors.ask("admin", "/v1/rejects", params={"resolved": "true"}).json()["rejects"]
    found = {line["tenant"]: (line["state"], line["resolved_by"], line["note"]) for line in lines}
    assert found == {"acme": ("repaired", "admin", "typo"), "borea": ("discarded", "admin", "a test")}
    assert "is waiting for someone" in admin.open("/rejects")


@pytest.mark.parametrize(
    ("payload", "text", "hexadecimal"),
    [
        (b"{}\n", "{}\n", "000000  7b 7d 0a" + " " * 41 + "{}."),
        (b"\xff\x00a", "\\xff\\x00a", "000000  ff 00 61" + " " * 41 + "..a"),
        ("\u202ea".encode(), "\\u202ea", "000000  e2 80 ae 61" + " " * 38 + "...a"),
        (b"", "", ""),
    ],
)
def test_bytes_are_shown_as_they_are(payload: bytes, text: str, hexadecimal: str) -> None:
    assert (as_text(payload), as_hex(payload)) == (text, hexadecimal)


# -- rate cards -------------------------------------------------------------------------------------------------------


def test_prices_are_those_of_the_api(doors: Gatehouse, admin: Person) -> None:
    [price] = doors.ask("admin", "/v1/prices").json()["prices"]
    [row] = table(admin.open("/rate-cards"), "prices")
    assert row[:2] == [price["provider"], price["model"]]
    kinds = ("input", "cache_read", "cache_write", "output", "reasoning")
    assert row[2:7] == [price["per_million"][kind] for kind in kinds]
    assert row[-1] == "borea"
    assert "finance@example.com" in admin.open("/rate-cards?provider=atlas&model=large")
    assert admin.http.get("/rate-cards?model=nothing").status_code == 404


# -- the pipeline -----------------------------------------------------------------------------------------------------


def test_the_ledger_adds_up_line_by_line(doors: Gatehouse, admin: Person) -> None:
    rows = [[int(cell.replace(",", "")) for cell in row[:-1]] for row in table(admin.open("/pipeline"), "ledger")]
    for _partition, read, *rest in rows:
        assert (read, rest[len(PARTS)]) == (sum(rest[: len(PARTS)]), 0)
    total = Reports(doors.house, EVERYTHING).ledger()["total"]
    assert sum(row[1] for row in rows) == total["read"] > 50
    assert sum(row[2 + PARTS.index("rejected")] for row in rows) == total["rejected"] == 2


def test_laws_are_verified_when_someone_asks(doors: Gatehouse, admin: Person) -> None:
    assert "Not verified since" in admin.open("/pipeline")
    shown = admin.post("/pipeline/verification").text
    laws = Reports(doors.house, EVERYTHING).verify()["laws"]
    assert [row[1] for row in table(shown, "laws-lines")] == [law["name"] for law in laws]
    assert {row[-1] for row in table(shown, "laws-lines")} == {"yes"}
    assert "Every law holds" in shown


def test_a_check_is_made_one_at_a_time_and_its_outcome_stays() -> None:
    check = Check("The laws are")
    first = check.make(lambda: "whole")

    def meanwhile() -> str:
        with pytest.raises(Problem, match="being checked already"):
            check.make(lambda: "twice")
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        check.make(meanwhile)
    assert check.last is first
    assert check.make(lambda: "again").found == "again"


# -- the audit log ----------------------------------------------------------------------------------------------------


def test_the_audit_log_is_that_of_the_api_page_by_page(doors: Gatehouse, admin: Person) -> None:
    said = doors.ask("admin", "/v1/audit", params={"action": "key.created"}).json()["entries"]
    rows = table(admin.open("/audit?action=key.created&actor=&from=&to="), "entries")
    assert [row[0] for row in rows] == [f"{each['seq']:,}" for each in said]
    assert [(row[2], row[4]) for row in rows] == [(each["actor"], each["subject"]) for each in said]
    assert "No entry matches" in admin.open("/audit?actor=nobody")


def test_the_chain_is_checked_when_someone_asks(doors: Gatehouse, admin: Person) -> None:
    shown = admin.post("/audit/verification").text
    assert "The log is whole" in shown
    assert doors.house.audit.head().hash.hex() in shown


# -- all rejects that match -------------------------------------------------------------------------------------------

NEWCO = """
currency: USD
tenants:
  - {id: newco, name: Newco, org: [group], cost_center: CC-3}
"""


def sent(doors: Gatehouse, tenant: str, *numbers: int, **wrong: str) -> None:
    """Events of a tenant."""
    now = datetime.now(UTC)
    events = [event(tenant, number, now) for number in numbers]
    for each in events:
        each["data"] |= {"model": "large", **wrong}
    messages = [Message(tenant.encode(), json.dumps(each).encode(), partition=0) for each in events]
    doors.house.log.append(USAGE_EVENTS, messages)


def metered(doors: Gatehouse) -> None:
    with Workers(doors.house) as workers:
        workers.run_until_idle(threading.Event())


def form_of(text: str) -> dict[str, str]:
    """What the page's form of all that match would send."""
    (form,) = re.findall(r'<form [^>]*id="sweep">(.*?)</form>', text, re.DOTALL)
    return {name: html.unescape(value) for name, value in re.findall(r'name="(\w+)" value="([^"]*)"', form)}


def states(doors: Gatehouse) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in doors.ask("admin", "/v1/rejects", params={"resolved": "true"}).json()["rejects"]:
        found.setdefault(line["tenant"], []).append(line["state"])
    return {tenant: sorted(all_states) for tenant, all_states in found.items()}


def test_all_rejects_that_match_are_sent_again_once_and_no_other(doors: Gatehouse, admin: Person) -> None:
    others = sum(each.count("open") for each in states(doors).values())
    sent(doors, "newco", 1, 2)
    sent(doors, "acme", 2_001, status="wrong")
    metered(doors)
    before = admin.open("/rejects/matching")
    assert f"<b>{others + 3}</b> rejects match" in before
    assert 'value="requeue">Send' not in before  # the tenant is not known yet
    doors.house.control.apply(plan(parse(NEWCO), doors.house.control.snapshot(), now_us()), now_us())
    shown = admin.open("/rejects/matching")
    assert ("Send 2 again" in shown, f"<b>{others + 1}</b> would be rejected again" in shown) == (True, True)
    sent(doors, "acme", 2_002, status="wrong")  # which nobody was shown
    metered(doors)
    form = form_of(shown)
    assert f"2 of {others + 3} done" in admin.post("/rejects/matching", **form).text
    again = admin.post("/rejects/matching", **form).text
    assert (f"0 of {others + 1} done" in again, "2 had been dealt with before" in again) == (True, True)
    assert states(doors)["newco"] == ["requeued", "requeued"]
    assert sum(each.count("open") for each in states(doors).values()) == others + 2
    deeds = doors.audited("reject.requeue")
    assert [deed["actor"] for deed in deeds][-2:] == ["admin", "admin"]
    metered(doors)
    assert doors.ask("admin", "/v1/chargeback", params={"tenant": "newco"}).json()["total"]["requests"] == 2


def test_all_rejects_that_match_are_discarded_with_a_reason_that_is_kept(doors: Gatehouse, admin: Person) -> None:
    sent(doors, "acme", 2_003, status="wrong")
    metered(doors)
    waiting = states(doors)["acme"].count("open")
    shown = admin.open("/rejects/matching?action=discard&tenant=acme&reason=bad_status")
    form = form_of(shown) | {"action": "discard"}
    assert admin.post("/rejects/matching", **form).status_code == 400
    assert f"{waiting} of {waiting} done" in admin.post("/rejects/matching", **form, note="a sender's test").text
    assert states(doors)["acme"].count("open") == 0
    assert {deed["note"] for deed in doors.audited("reject.discard")[-waiting:]} == {"a sender's test"}
    assert "No reject that waits for someone matches" in admin.open("/rejects/matching?tenant=acme")


def test_only_who_deals_with_rejects_is_asked_about_all_that_match(doors: Gatehouse) -> None:
    for role in ("finance", "product_owner", "auditor"):
        assert doors.ask(role, "/rejects/matching").status_code == 403
    auditor = Person(doors, "auditor")
    assert auditor.post("/rejects/matching", action="requeue", from_us="0", to_us="1").status_code == 403
    assert "rejects/matching" not in auditor.open("/rejects")
    auditor.http.close()


# -- when something is not as it should be ----------------------------------------------------------------------------


def test_figures_that_are_behind_say_so_first(doors: Gatehouse, admin: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Figures are behind" not in admin.open("/overview")
    late = json.dumps(event("acme", 3_001, datetime.now(UTC))).encode()
    doors.house.log.append(USAGE_EVENTS, [Message(b"acme", late, partition=0)])
    monkeypatch.setattr(doors.app.state.pages, "_behind_s", 0.0)
    shown = admin.open("/overview").partition('<main id="content"')[2]
    assert 0 < shown.index("Figures are behind") < shown.index("This month so far")


def test_books_that_are_away_are_told_in_the_place_of_the_part_that_was_asked_for(
    admin: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise LakeUnavailable("/somewhere is away")

    monkeypatch.setattr(Reports, "slo", away)
    answer = admin.http.get("/overview/risks", headers={"HX-Request": "true", "HX-Target": "risks"})
    assert answer.status_code == 503
    assert re.search(r'id="risks">\s+<h2>Not able to do this now</h2>', answer.text)
    assert "<details><summary>What went wrong</summary>" in answer.text
    assert 'id="x"' not in admin.http.get("/slo", headers={"HX-Target": "x"}).text
