"""Where a house's databases and files are, as its settings say it."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from meterhouse.api.settings import Settings
from meterhouse.warehouse.database import sqlite_url
from meterhouse.warehouse.lake import LakeConfig
from meterhouse.warehouse.lake_store import S3Place


def control_url(settings: Settings) -> str:
    """The URL of control data, with the driver that comes with Meterhouse."""
    if settings.control is None:
        return sqlite_url(settings.control_path)
    named = sa.make_url(settings.control.get_secret_value()).set(drivername="postgresql+psycopg")
    return named.render_as_string(hide_password=False)


def lake_config(settings: Settings) -> LakeConfig:
    """Where the lake is."""
    catalogue = settings.catalogue.get_secret_value() if settings.catalogue else settings.catalogue_path
    return LakeConfig(catalogue, _files(settings))


def _files(settings: Settings) -> Path | S3Place:
    access, secret = settings.s3_access_key, settings.s3_secret_key
    if settings.data is None or access is None or secret is None:  # settings with the one have the others
        return settings.data_path
    return S3Place(
        settings.data, access.get_secret_value(), secret.get_secret_value(), settings.s3_endpoint, settings.s3_region
    )
