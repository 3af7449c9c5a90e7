"""A user is erased from a home: no file but the log names them any more, and every report is what it was."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.ingest.log import CONTENT_TYPE, STRUCTURED, USAGE_EVENTS, Message
from tests.commands import invoked
from tests.e2e.house import CONTROL

USER = "zoe-the-only-one"


def event(number: int, **more: Any) -> bytes:
    data = {
        "application": "assistant", "model": "atlas-large", "provider": "atlas", "status": "ok", "user": USER,
        "input_tokens": 1_000, "output_tokens": number, "request_id": f"{USER}/{number}", **more,
    }  # fmt: skip
    document = {
        "specversion": "1.0", "id": f"e{number}", "source": "/gateway", "type": "meterhouse.request.v1",
        "subject": "acme-retail", "time": datetime.now(UTC).isoformat(), "data": data,
    }  # fmt: skip
    return json.dumps(document).encode()


def publish(home: Path, *events: bytes) -> None:
    headers = ((CONTENT_TYPE, STRUCTURED.encode()),)
    with House(Settings(home=home)) as house:
        house.log.append(USAGE_EVENTS, [Message(b"acme-retail", each, headers) for each in events])


def run(home: Path, *words: str) -> str:
    done = invoked(home, *words)
    assert done.exit_code == 0, f"{' '.join(words)}\n{done.output}"
    return done.output


def named(home: Path) -> list[str]:
    """Files that name the user, packed or not."""
    found = []
    for path in home.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if path.suffix == ".parquet":
                content += repr(pq.read_table(pa.BufferReader(content)).to_pylist()).encode()
            if USER.encode() in content:
                found.append(str(path.relative_to(home)))
    return found


def books(home: Path) -> list[Any]:
    today = datetime.now(UTC).date()
    span = ("--from", (today - timedelta(days=30)).isoformat(), "--to", (today + timedelta(days=2)).isoformat())
    lines = ("chargeback", "--group-by", "tenant,application,model", *span)
    reports = (lines, ("usage", *span), ("slo", *span), ("export", "focus", *span), ("verify",))
    told: list[Any] = []
    for words in reports:
        form = "csv" if words[0] == "export" else "json"
        text = invoked(home, *words, "--format", form).stdout
        told.append(text if form == "csv" else {k: v for k, v in json.loads(text).items() if k != "as_of"})
    return told


def test_an_erased_user_is_in_no_file_but_the_log_and_every_report_is_what_it_was(tmp_path: Path) -> None:
    home, mended = tmp_path / "home", tmp_path / "mended.json"
    run(home, "apply", str(CONTROL))
    run(home, "simulate", "--events", "300", "--seed", "3")
    publish(home, event(1), event(2), event(3, input_tokens=-1), event(4, status="well"))
    run(home, "work", "--until-idle")
    mended.write_bytes(event(4))
    rejects = json.loads(run(home, "rejects", "--format", "json"))["rejects"]
    [first] = [line for line in rejects if line["reason"] == "bad_status"]
    run(home, "rejects", "repair", "{partition}/{offset}/{index}".format(**first), "--file", str(mended))
    run(home, "work", "--until-idle")
    wanted = books(home)
    assert {"control.sqlite", "log.sqlite"} < {name.removesuffix("-wal") for name in named(home)}
    told = json.loads(run(home, "erase-user", "acme-retail", USER, "--yes", "--format", "json"))
    assert told["rows"] == {"charges": 3, "rejects": 2}
    assert told["repairs"] == 1
    assert {name.removesuffix("-wal") for name in named(home)} == {"log.sqlite"}
    assert books(home) == wanted
    [entry] = json.loads(run(home, "audit", "list", "--action", "user.erased", "--format", "json"))["entries"]
    assert entry["detail"] == {"charges": 3, "rejects": 2, "repairs": 1}
    assert entry["subject"].startswith("acme-retail/")


def test_a_lake_made_again_from_the_log_does_not_bring_an_erased_user_back(tmp_path: Path) -> None:
    home = tmp_path / "home"
    run(home, "apply", str(CONTROL))
    publish(home, event(1), event(2))
    run(home, "work", "--until-idle")
    run(home, "erase-user", "acme-retail", USER, "--yes")
    for path in sorted((home / "lake").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    publish(home, event(5))  # of now: that they are here again is for the gateway to know
    run(home, "work", "--until-idle")
    with House(Settings(home=home)) as house, house.lake.read() as cursor:
        rows = cursor.execute('SELECT "user", output_tokens FROM charges ORDER BY 2').fetchall()
    assert rows == [(None, 1), (None, 2), (USER, 5)]
