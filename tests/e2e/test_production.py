"""Kafka, PostgreSQL and an S3-compatible store behind the same commands: the same bill, and no secret said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House as Wired
from meterhouse.ingest.log import USAGE_EVENTS, Message
from tests.e2e.house import CONTROL, House
from tests.services.kafka import own_cluster
from tests.services.postgres import Postgres
from tests.services.s3 import S3

SPAN = ("--from", "2020-01-01T00:00:00Z", "--to", "2100-01-01T00:00:00Z", "--format", "json")


@dataclass
class Both:
    """The same commands on a laptop and in production."""

    laptop: House
    production: House
    settings: Mapping[str, str]
    said: list[str] = field(default_factory=list)

    def run(self, *arguments: str) -> tuple[str, str]:
        here = self.laptop.run(*arguments)
        there = self.production.run(*arguments, settings=self.settings)
        self.said += [there.stdout, there.stderr]
        return here.stdout, there.stdout

    def same(self, *arguments: str) -> dict[str, Any]:
        """A report that is the same on both, but for what it is as of."""
        here, there = (json.loads(text) for text in self.run(*arguments, *SPAN))
        for report in (here, there):
            report.pop("as_of", None)
        assert here == there
        return dict(here)


def rejects(both: Both) -> list[list[dict[str, Any]]]:
    """Those that are open, of either: places differ, since partitions do not fill alike."""
    return [json.loads(text)["rejects"] for text in both.run("rejects", "--limit", "1000", "--format", "json")]


def test_the_commands_give_the_same_books_on_kafka_postgresql_and_s3(
    tmp_path: Path, postgres: Postgres, s3: S3
) -> None:
    place = s3.new_place()
    with own_cluster(steady=True) as kafka:
        settings = {
            "METERHOUSE_KAFKA_BOOTSTRAP": kafka.bootstrap,
            "METERHOUSE_CATALOGUE": postgres.new_database(),
            "METERHOUSE_CONTROL": postgres.new_database(),
            **s3.settings(place),
        }
        both = Both(House(tmp_path / "laptop"), House(tmp_path / "production"), settings)
        both.run("topics", "apply", "--yes")
        both.run("apply", str(CONTROL))
        start = datetime.now(UTC) - timedelta(days=3)
        long_ago = ("simulate", "--events", "1", "--start", "2026-03-01T00:00:00Z")
        assert "Kafka would remove" in both.production.run(*long_ago, code=2, settings=settings).stderr
        both.run("simulate", "--events", "400", "--seed", "7", "--start", start.isoformat())
        _append_rubbish(both)
        both.run("work", "--until-idle")
        before = both.same("chargeback", "--group-by", "tenant,model")
        assert before["lines"]
        both.same("usage")
        here, there = rejects(both)
        assert len(here) == len(there) > 1
        _repair_and_discard(both, tmp_path / "fixed.json")
        both.run("work", "--until-idle")
        after = both.same("chargeback", "--group-by", "tenant,model")
        assert after["total"]["requests"] == before["total"]["requests"] + 1
        assert [len(each) for each in rejects(both)] == [len(here) - 2] * 2
        assert all(json.loads(text)["balanced"] for text in both.run("verify", "--format", "json"))
    assert s3.files(place)
    assert sorted(path.name for path in (tmp_path / "production").iterdir()) == ["dedupe"]
    for secret in (s3.secret_key, s3.access_key, "not-a-secret"):
        assert secret not in "".join(both.said)


def _append_rubbish(both: Both) -> None:
    for house, given in ((both.laptop, {}), (both.production, both.settings)):
        told = {name.removeprefix("METERHOUSE_").lower(): value for name, value in given.items()}
        with Wired(Settings(home=house.home, **told)) as opened:  # type: ignore[arg-type]
            opened.log.append(USAGE_EVENTS, [Message(None, b"{rubbish"), Message(None, b"{more")])


def _repair_and_discard(both: Both, corrected: Path) -> None:
    """One reject of each is sent again as it should have been, another is not to be billed."""
    event = {
        "specversion": "1.0", "id": "mended", "source": "/gateway", "type": "meterhouse.request.v1",
        "subject": "acme-retail", "time": datetime.now(UTC).isoformat(),
        "data": {"application": "assistant", "model": "atlas-large", "provider": "atlas", "status": "ok"},
    }  # fmt: skip
    corrected.write_text(json.dumps(event), encoding="utf-8")
    for house, settings in ((both.laptop, None), (both.production, both.settings)):
        listed = json.loads(house.run("rejects", "--limit", "2", "--format", "json", settings=settings).stdout)
        first, second = ("{partition}/{offset}/{index}".format(**line) for line in listed["rejects"])
        house.run("rejects", "repair", first, "--file", str(corrected), settings=settings)
        house.run("rejects", "discard", second, "--note", "rubbish", settings=settings)


def test_a_store_that_is_not_there_is_one_line(tmp_path: Path, postgres: Postgres, s3: S3) -> None:
    given = {**s3.settings(s3.new_place()), "METERHOUSE_S3_ENDPOINT": "http://127.0.0.1:1"}
    house = House(tmp_path / "home")
    house.run("apply", str(CONTROL))
    told = house.run("work", "--until-idle", code=1, settings=given | {"METERHOUSE_CATALOGUE": postgres.new_database()})
    assert "METERHOUSE_S3_ENDPOINT" in told.stderr
    assert "Traceback" not in told.stderr
