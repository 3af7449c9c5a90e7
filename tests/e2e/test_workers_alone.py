"""Each worker runs alone as it runs beside the others, ends at SIGTERM with its work committed, and can be scraped."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
from contextlib import closing
from pathlib import Path

import httpx

from meterhouse.ingest.log import USAGE_EVENTS, Message
from meterhouse.ingest.sqlite_log import SqliteLog
from tests.e2e.house import COMMAND, CONTROL, DEADLINE_S, House, environment

ALONE = ("meter", "budget-worker", "alert-sender")


def fed(home: Path) -> House:
    house = House(home)
    house.run("apply", str(CONTROL))
    house.run("simulate", "--events", "2000", "--seed", "3")
    return house


def alerts(house: House) -> list[tuple[str, str, str]]:
    """What was said of which threshold; when is another matter."""
    listed = house.listing("alerts", "--limit", "1000", span=())
    return sorted((line["id"], line["spent"], line["state"]) for line in listed if line["kind"] == "threshold")


def test_the_three_workers_one_after_another_do_what_work_does(tmp_path: Path) -> None:
    alone = fed(tmp_path / "alone")
    together = alone.copy(tmp_path / "together")
    for command in ALONE:
        done = alone.run(command, "--until-idle")
        assert "log: embedded" in done.stderr
        assert "catalogue SQLite" in done.stderr
    together.run("work", "--until-idle")
    span = ("--from", "2020-01-01", "--to", "2100-01-01")
    for report in (("chargeback",), ("rejects", "--limit", "1000")):
        lines = "lines" if report[0] == "chargeback" else "rejects"
        assert alone.report(*report, span=span)[lines] == together.report(*report, span=span)[lines]
    assert alerts(alone) == alerts(together)
    assert len(alerts(alone)) > 0
    alone.run("verify")


def test_a_meter_is_scraped_and_stops_at_sigterm_with_all_it_read_committed(tmp_path: Path) -> None:
    house = fed(tmp_path / "home")
    settings = {"METERHOUSE_METRICS_PORT": "0", "METERHOUSE_COMMIT_EVERY_S": "300"}
    with subprocess.Popen(
        [*COMMAND, "--home", str(house.home), "meter"], stderr=subprocess.PIPE, text=True, env=environment(settings)
    ) as meter:
        assert meter.stderr is not None
        said = ""
        while (port := re.search(r'"port": ?(\d+)', said)) is None:
            line = meter.stderr.readline()
            assert line, said
            said += line
        assert "python_info" in httpx.get(f"http://127.0.0.1:{port[1]}/metrics").text
        meter.send_signal(signal.SIGTERM)
        said += meter.communicate(timeout=DEADLINE_S)[1]
    assert meter.returncode == 0, said
    assert re.search(r"committed [\d,]+ events", said)
    house.run("verify")


def test_a_metrics_port_that_is_taken_is_said_plainly(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = House(tmp_path / "home").run("work", "--until-idle", code=1, settings={"METERHOUSE_METRICS_PORT": port})
    assert "METERHOUSE_METRICS_PORT" in done.stderr
    assert "Traceback" not in done.stderr


def test_rejects_are_listed_requeued_repaired_and_discarded_by_command(tmp_path: Path) -> None:
    house = fed(tmp_path / "home")
    with closing(SqliteLog(house.home / "log.sqlite", clock=lambda: 1_700_000_000_000_000)) as log:
        log.append(USAGE_EVENTS, [Message(None, b"{rubbish"), Message(None, b"{more")])
    house.run("work", "--until-idle")
    listed = house.listing("rejects", "--limit", "1000", span=())
    assert {line["state"] for line in listed} == {"open"}
    place = "{partition}/{offset}/{index}".format(**listed[0])
    assert "left: " in house.run("rejects", "requeue", "--dry-run").stdout
    assert "--set" in house.run("rejects", "repair", place, code=2).stderr
    house.run("rejects", "discard", place, "--note", "rubbish", "--by", "ada")
    assert len(house.listing("rejects", "--limit", "1000", span=())) == len(listed) - 1
    shown = house.listing("rejects", "--all", "--limit", "1000", span=())
    assert [line["resolved_by"] for line in shown if line["state"] == "discarded"] == ["ada"]
    assert "nothing to do" in house.run("rejects", "discard", place, "--note", "again", code=1).stdout
