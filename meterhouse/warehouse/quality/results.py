"""What the suites came to, in the control database: the newest runs of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from meterhouse.streams.alerts import storable
from meterhouse.warehouse.control_tables import QUALITY_RUNS as TABLE
from meterhouse.warehouse.database import available, reading, writing
from meterhouse.warehouse.quality.checks import Suite, SuiteResult, result_json

KEEP: Final = 200
"""Runs of a suite that are kept: a week of one an hour. With all checks failing that is some megabytes."""


@dataclass(frozen=True, slots=True)
class QualityRun:
    """A run of a suite as it is kept; `checks` are those of `checks.result_json`."""

    suite: str
    at_us: int
    passed: bool
    lake_snapshot: int
    watermark_us: int | None
    control_version: int
    checks: Sequence[dict[str, Any]]


class QualityResults:
    """In the database of `database.open_database`. Each method raises ControlUnavailable."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def add(self, result: SuiteResult) -> None:
        """Of two runs of one suite in the same microsecond the second takes the first's place."""
        mine = TABLE.c.suite == result.suite
        kept = sa.select(TABLE.c.at_us).where(mine).order_by(TABLE.c.at_us.desc()).limit(1).offset(KEEP - 1)
        with available(), writing(self._engine) as connection:
            connection.execute(sa.delete(TABLE).where(mine, TABLE.c.at_us == result.at_us))
            connection.execute(
                sa.insert(TABLE).values(
                    suite=result.suite,
                    at_us=result.at_us,
                    passed=result.passed,
                    lake_snapshot=result.lake_snapshot,
                    watermark_us=result.watermark_us,
                    control_version=result.control_version,
                    checks=[_storable(result_json(each)) for each in result.checks],
                )
            )
            oldest_us = connection.execute(kept).scalar()
            if oldest_us is not None:
                connection.execute(sa.delete(TABLE).where(mine, TABLE.c.at_us < oldest_us))

    def forget(self, before_us: int) -> int:
        """Removes runs of before, but for the newest of each suite; gives their number."""
        newest = sa.select(TABLE.c.suite, sa.func.max(TABLE.c.at_us)).group_by(TABLE.c.suite)
        with available(), writing(self._engine) as connection:
            keep = [row[1] for row in connection.execute(newest)]
            old = sa.and_(TABLE.c.at_us < before_us, TABLE.c.at_us.not_in(keep))
            return connection.execute(sa.delete(TABLE).where(old)).rowcount

    def last(self) -> Sequence[QualityRun]:
        """The newest run of each suite."""
        newest = sa.select(TABLE.c.suite, sa.func.max(TABLE.c.at_us).label("at_us")).group_by(TABLE.c.suite).subquery()
        query = sa.select(TABLE).join(newest, sa.and_(newest.c.suite == TABLE.c.suite, newest.c.at_us == TABLE.c.at_us))
        with available(), reading(self._engine) as connection:
            return tuple(QualityRun(**row) for row in connection.execute(query).mappings())

    def passed_us(self, suite: Suite, before_us: int) -> dict[str, int]:
        """When each check last passed before `before_us`, of those that did in a run that is kept."""
        query = sa.select(TABLE.c.at_us, TABLE.c.checks).where(TABLE.c.suite == suite, TABLE.c.at_us < before_us)
        found: dict[str, int] = {}
        with available(), reading(self._engine) as connection:
            for at_us, checks in connection.execute(query.order_by(TABLE.c.at_us.desc())):
                for each in checks:
                    if each["passed"]:
                        found.setdefault(each["check"], at_us)
        return found


def _storable(check: dict[str, Any]) -> dict[str, Any]:
    """Names of models and tenants are what senders wrote."""
    trouble = check["trouble"]
    rows = [storable(row) for row in check["rows"]]
    return {**check, "rows": rows, "trouble": None if trouble is None else storable(trouble)}
