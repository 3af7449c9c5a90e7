"""`meterhouse topics` on a real broker: it shows what changes, does it, and a second time there is nothing to do."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from meterhouse.ingest.kafka_log import KafkaLog
from tests.e2e.house import House
from tests.services.kafka import own_cluster

TOPICS = ["budget.alerts", "budget.states", "budget.totals", "usage.events", "usage.rejected"]


def test_topics_are_shown_made_grown_and_never_taken_from(tmp_path: Path) -> None:
    house = House(tmp_path / "home")
    with own_cluster() as cluster, closing(KafkaLog(cluster.bootstrap)) as log:
        four = {"METERHOUSE_KAFKA_BOOTSTRAP": cluster.bootstrap}
        assert "run `meterhouse topics apply` once" in house.run("work", "--until-idle", code=1, settings=four).stderr

        dry = house.run("topics", "apply", "--dry-run", settings=four).stdout
        assert sorted(line.split()[1].rstrip(":") for line in dry.splitlines() if line.startswith("+")) == TOPICS
        assert log.describe_topics(TOPICS) == {}

        assert "applied 5 changes" in house.run("topics", "apply", settings=four).stdout
        made = log.describe_topics(TOPICS)
        assert {name: (state.partitions, state.config["cleanup.policy"]) for name, state in made.items()} == {
            "usage.events": (4, "delete"),
            "usage.rejected": (4, "delete"),
            "budget.totals": (4, "compact"),
            "budget.states": (4, "compact"),
            "budget.alerts": (4, "delete"),
        }
        assert house.run("topics", "apply", "--yes", settings=four).stdout == "nothing to change\n"
        assert log.describe_topics(TOPICS) == made

        six = four | {"METERHOUSE_PARTITIONS": "6", "METERHOUSE_LOG_RETENTION_DAYS": "1"}
        grown = house.run("topics", "apply", settings=six).stdout
        assert "~ usage.events: partitions 4 -> 6" in grown
        assert "~ usage.events: retention.ms 3024000000 -> 86400000" in grown
        assert [log.describe_topics([name])[name].partitions for name in TOPICS] == [4, 4, 4, 6, 6]

        assert "set 6" in house.run("topics", "apply", settings=four, code=2).stderr
        refused = house.run("topics", "apply", settings=six | {"METERHOUSE_REPLICATION": "3"}, code=2).stderr
        assert "has replication 1, not 3: set METERHOUSE_REPLICATION to 1" in refused
        assert "usage.events" in house.run("topics", "show", settings=six).stdout


def test_the_embedded_log_makes_its_topics_itself(tmp_path: Path) -> None:
    said = House(tmp_path / "home").run("topics", "apply").stdout
    assert said.startswith("nothing to apply: the embedded log makes its topics when it is opened")
    assert said.count("\n") == 1
