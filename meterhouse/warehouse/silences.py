"""Silences in the control database: the durable twin of `streams.silence_store.MemorySilences`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import sqlalchemy as sa

from meterhouse.streams.alerts import storable
from meterhouse.streams.silence_store import refuse_one_more
from meterhouse.streams.silences import Silence
from meterhouse.warehouse.alert_outbox import available
from meterhouse.warehouse.audit import UNKNOWN, Deed, append
from meterhouse.warehouse.control_tables import SILENCES as TABLE
from meterhouse.warehouse.database import Along, reading, writing


class SqlSilences:
    """A SilenceStore in the database of `database.open_database`."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def add(self, silence: Silence, actor: str | None = None, along: Along | None = None) -> None:
        """`actor`: who the audit log says made it (None: its `by`). `along` is called within the transaction."""
        texts = {name: storable(value) for name, value in asdict(silence).items() if isinstance(value, str)}
        with available(), writing(self._engine) as connection:
            counted = sa.select(sa.func.count()).where(TABLE.c.until_us > silence.created_us)
            taken = connection.execute(sa.select(TABLE.c.id).where(TABLE.c.id == silence.id)).first()
            refuse_one_more(connection.execute(counted).scalar_one(), taken=taken is not None)
            connection.execute(sa.insert(TABLE).values(asdict(silence) | texts))
            if along is not None:
                along(connection)
            append(connection, _made(silence, actor), silence.created_us)

    def standing(self, now_us: int) -> Sequence[Silence]:
        query = sa.select(TABLE).where(TABLE.c.until_us > now_us).order_by(TABLE.c.until_us, TABLE.c.id)
        with available(), reading(self._engine) as connection:
            return tuple(Silence(**row) for row in connection.execute(query).mappings())

    def end(self, silence_id: str, now_us: int, actor: str = UNKNOWN) -> None:
        stands = sa.and_(TABLE.c.id == silence_id, TABLE.c.until_us > now_us)
        with available(), writing(self._engine) as connection:
            begun = sa.update(TABLE).where(stands, TABLE.c.from_us < now_us).values(until_us=now_us)
            has_begun = connection.execute(begun).rowcount
            if not has_begun and not connection.execute(sa.delete(TABLE).where(stands)).rowcount:
                raise KeyError(silence_id)
            append(connection, Deed(actor, "silence.ended", silence_id, {"had_begun": bool(has_begun)}), now_us)


def _made(silence: Silence, actor: str | None) -> Deed:
    told = {name: storable(value) if isinstance(value, str) else value for name, value in asdict(silence).items()}
    return Deed(actor or storable(silence.by), "silence.made", told.pop("id"), told)
