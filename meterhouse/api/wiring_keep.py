"""Wiring of back-ups: where the parts of a house are, and what holds a lake snapshot for one that is being made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Final

from meterhouse.api.settings import Settings
from meterhouse.api.wiring import House
from meterhouse.api.wiring_places import lake_config
from meterhouse.warehouse.backup.backups import Parts, Place
from meterhouse.warehouse.backup.databases import Database, PostgresDatabase, SqliteDatabase
from meterhouse.warehouse.backup.manifest import BackupError
from meterhouse.warehouse.lake_store import S3Place
from meterhouse.warehouse.listings import Listing, Listings

_EVERY_US: Final = 60_000_000
"""Between two looks whether the snapshot is still held: a listing lasts for ten times as long."""


def parts_of(settings: Settings, *, log: bool = True) -> Parts:
    """What a home and its settings say that there is. Opens nothing."""
    config = lake_config(settings)
    catalogue: Database
    if isinstance(config.catalogue, Path):
        catalogue = SqliteDatabase(config.catalogue)
    else:
        catalogue = PostgresDatabase(config.catalogue, config.named, catalogue=True)
    control: Database = SqliteDatabase(settings.control_path)
    if settings.control is not None:
        url = settings.control.get_secret_value()
        control = PostgresDatabase(url, replace(config, catalogue=url).named, catalogue=False)
    embedded = SqliteDatabase(settings.log_path) if settings.kafka_bootstrap is None and log else None
    return Parts(catalogue, control, config.data, embedded)


def place_of(settings: Settings, text: str) -> Place:
    """Where a back-up is: a folder, or a prefix of the store that has the lake's files. Raises BackupError."""
    if not text.startswith("s3://"):
        return Path(text)
    here = lake_config(settings).data
    if not isinstance(here, S3Place):
        raise BackupError("a back-up on S3 uses the store and the keys of METERHOUSE_DATA: set it, or name a folder")
    return replace(here, url=text)


class ListingHold:
    """Holds a lake snapshot as a listing does that somebody reads. May be used by several threads."""

    def __init__(self, listings: Listings, clock: Callable[[], int]) -> None:
        self._listings, self._clock = listings, clock
        self._lock = Lock()
        self._id = b""
        self._looked_us = 0

    def begin(self, snapshot: int) -> None:
        made = Listing("backup", "backup", snapshot, None, {})
        self._id, self._looked_us = made.id, self._clock()
        self._listings.begin(made, self._looked_us)

    def go_on(self) -> None:
        with self._lock:
            now_us = self._clock()
            if now_us - self._looked_us < _EVERY_US:
                return
            held = self._listings.find(self._id)
            if held is None or not self._listings.go_on(held, now_us):
                raise BackupError("the lake's snapshot was let go before its files were copied: try again")
            self._looked_us = now_us


def hold_of(house: House, clock: Callable[[], int]) -> ListingHold:
    return ListingHold(house.listings, clock)
