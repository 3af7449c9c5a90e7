"""The lake on each of its catalogues and stores, for tests that must hold on all.

`lake_config` has a value per combination that people run: nothing but a folder, PostgreSQL with a shared folder,
PostgreSQL with an S3-compatible store.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final
from uuid import uuid4

import pytest

from meterhouse.warehouse.lake import LakeConfig
from meterhouse.warehouse.lake_store import S3Place
from tests.services.postgres import Postgres
from tests.services.s3 import S3

KINDS: Final = ("sqlite-folder", "postgres-folder", "postgres-s3")

MakeLake = Callable[[str], LakeConfig]


@pytest.fixture
def new_lake(request: pytest.FixtureRequest, tmp_path: Path) -> MakeLake:
    """A function from a kind to where a new lake of that kind is; servers start when first needed."""

    def make(kind: str) -> LakeConfig:
        folder = tmp_path / f"lake-{uuid4().hex}"
        catalogue: Path | str = folder / "lake.sqlite"
        if kind.startswith("postgres"):
            server: Postgres = request.getfixturevalue("postgres")
            catalogue = server.new_database()
        data: Path | S3Place = folder / "data"
        if kind.endswith("s3"):
            store: S3 = request.getfixturevalue("s3")
            data = store.new_place()
        return LakeConfig(catalogue, data, threads=1)

    return make


@pytest.fixture(params=KINDS)
def lake_config(request: pytest.FixtureRequest, new_lake: MakeLake) -> LakeConfig:
    """Where a new lake is, of each kind in turn."""
    return new_lake(request.param)
