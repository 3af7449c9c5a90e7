"""The lake on a PostgreSQL catalogue: many writers, one fence, and a catalogue that goes and comes back."""

from __future__ import annotations

from pathlib import Path

import pytest

from meterhouse.streams.ledger import Fenced, LedgerUnavailable
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.lake_ledger import LakeLedger
from tests.ledger_units import Shape, unit
from tests.services.postgres import Postgres, own_postgres


def test_two_lakes_write_and_of_one_partition_only_the_first_commits(postgres: Postgres, tmp_path: Path) -> None:
    config = LakeConfig(postgres.new_database(), tmp_path, threads=1)
    with Lake.open(config) as first, Lake.open(config) as second:
        one, other = LakeLedger(first), LakeLedger(second)
        one.seed(2)
        one.commit(unit(Shape()))
        other.commit(unit(Shape(partition=1)))
        with pytest.raises(Fenced):
            other.commit(unit(Shape()))
        assert [one.positions()[p].next_offset for p in range(2)] == [25, 25]
        with first.read() as cursor:
            assert cursor.execute("SELECT count(*) FROM charges").fetchone() == (40,)


def test_a_catalogue_that_is_down_is_told_without_its_password_and_its_return_is_enough(tmp_path: Path) -> None:
    with own_postgres() as server, Lake.open(LakeConfig(server.url("lake"), tmp_path, threads=1)) as lake:
        ledger = LakeLedger(lake)
        ledger.seed(1)
        server.kill()
        with pytest.raises(LedgerUnavailable) as told:
            ledger.commit(unit(Shape()))
        assert "not-a-secret" not in str(told.value)
        server.start()
        ledger.commit(unit(Shape()))
        assert ledger.positions()[0].next_offset == 25
