"""The control database on each of its twins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from meterhouse.warehouse.database import open_database, sqlite_url
from tests.services.postgres import Postgres


def with_driver(url: str) -> str:
    """A URL of PostgreSQL with the driver that comes with Meterhouse."""
    return url.replace("postgresql://", "postgresql+psycopg://", 1)


@pytest.fixture(params=["sqlite", "postgres"])
def control_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a control database that nobody has used, on each twin in turn."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "control.sqlite")
    server: Postgres = request.getfixturevalue("postgres")
    return with_driver(server.new_database())


@pytest.fixture
def engine(control_url: str) -> Iterator[sa.Engine]:
    """An open control database, on each twin in turn."""
    engine = open_database(control_url)
    yield engine
    engine.dispose()
