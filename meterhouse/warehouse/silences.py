"""Silences in the control database: the durable twin of `streams.silence_store.MemorySilences`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import sqlalchemy as sa

from meterhouse.streams.alerts import storable
from meterhouse.streams.silence_store import refuse_one_more
from meterhouse.streams.silences import Silence
from meterhouse.warehouse.alert_outbox import available
from meterhouse.warehouse.control_tables import SILENCES as TABLE
from meterhouse.warehouse.database import reading, writing


class SqlSilences:
    """A SilenceStore in the database of `database.open_database`."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def add(self, silence: Silence) -> None:
        texts = {name: storable(value) for name, value in asdict(silence).items() if isinstance(value, str)}
        with available(), writing(self._engine) as connection:
            counted = sa.select(sa.func.count()).where(TABLE.c.until_us > silence.created_us)
            taken = connection.execute(sa.select(TABLE.c.id).where(TABLE.c.id == silence.id)).first()
            refuse_one_more(connection.execute(counted).scalar_one(), taken=taken is not None)
            connection.execute(sa.insert(TABLE).values(asdict(silence) | texts))

    def standing(self, now_us: int) -> Sequence[Silence]:
        query = sa.select(TABLE).where(TABLE.c.until_us > now_us).order_by(TABLE.c.until_us, TABLE.c.id)
        with available(), reading(self._engine) as connection:
            return tuple(Silence(**row) for row in connection.execute(query).mappings())

    def end(self, silence_id: str, now_us: int) -> None:
        stands = sa.and_(TABLE.c.id == silence_id, TABLE.c.until_us > now_us)
        with available(), writing(self._engine) as connection:
            begun = sa.update(TABLE).where(stands, TABLE.c.from_us < now_us).values(until_us=now_us)
            if connection.execute(begun).rowcount:
                return
            if not connection.execute(sa.delete(TABLE).where(stands)).rowcount:
                raise KeyError(silence_id)
