"""PostgreSQL and an S3-compatible store behind the same commands: the same bill, and no secret in what is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.e2e.house import CONTROL, START, House
from tests.services.postgres import Postgres
from tests.services.s3 import S3

SPAN = ("--from", "2026-03-01T00:00:00Z", "--to", "2026-04-01T00:00:00Z", "--format", "json")


def test_the_commands_give_the_same_books_on_postgresql_and_s3(tmp_path: Path, postgres: Postgres, s3: S3) -> None:
    place = s3.new_place()
    settings = {
        "METERHOUSE_CATALOGUE": postgres.new_database(),
        "METERHOUSE_CONTROL": postgres.new_database(),
        **s3.settings(place),
    }
    laptop, production = House(tmp_path / "laptop"), House(tmp_path / "production")
    said = ""

    def run(*arguments: str) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        nonlocal said
        answers = []
        for house, given in ((laptop, {}), (production, settings)):
            done = house.run(*arguments, settings=given)
            answers.append(json.loads(done.stdout) if "json" in arguments else None)
            said += (done.stdout + done.stderr) if given else ""
        return answers[0], answers[1]

    run("apply", str(CONTROL))
    run("simulate", "--events", "400", "--seed", "7", "--start", START)
    run("work", "--until-idle")
    for report in (("chargeback", "--group-by", "tenant,model"), ("usage",)):
        here, there = run(*report, *SPAN)
        assert here is not None
        assert there is not None
        assert (here["lines"], here["total"]) == (there["lines"], there["total"])
        assert here["lines"]
    run("rejects")
    _, verified = run("verify", "--format", "json")
    assert verified is not None
    assert verified["balanced"]
    assert s3.files(place)
    assert sorted(path.name for path in (tmp_path / "production").iterdir() if "log.sqlite" not in path.name) == []
    for secret in (s3.secret_key, s3.access_key, "not-a-secret"):
        assert secret not in said


def test_a_store_that_is_not_there_is_one_line(tmp_path: Path, postgres: Postgres, s3: S3) -> None:
    given = {**s3.settings(s3.new_place()), "METERHOUSE_S3_ENDPOINT": "http://127.0.0.1:1"}
    house = House(tmp_path / "home")
    house.run("apply", str(CONTROL))
    told = house.run("work", "--until-idle", code=1, settings=given | {"METERHOUSE_CATALOGUE": postgres.new_database()})
    assert "METERHOUSE_S3_ENDPOINT" in told.stderr
    assert "Traceback" not in told.stderr
