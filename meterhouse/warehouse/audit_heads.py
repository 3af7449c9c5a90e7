"""Heads of the audit log as the lake knows them: what the control database cannot be made to say otherwise.

Whoever may write to the control database may write its whole audit log anew, hashes and head included. The lake's heads
are in another place, written by another process and never changed, so such a log is found out up to the newest of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import duckdb

from meterhouse.warehouse.audit_chain import Head
from meterhouse.warehouse.lake import Lake, table_names
from meterhouse.warehouse.lake_schema import AUDIT_HEADS
from meterhouse.warehouse.lake_trouble import roll_back

_PAGE: Final = 10_000
"""Heads that are read at a time: some 2 MB. Reads are short, since maintenance lets a lake snapshot go
after minutes."""


def note_head(lake: Lake, head: Head, at_us: int) -> bool:
    """Writes a head to the lake, unless it is there; says whether it did. One commit, of the lake's writer.
    Raises what a lake in trouble does (`lake_trouble.TROUBLE`): nothing was written, or it was after all."""
    with lake.writing, lake.borrowed() as cursor, lake.passage.through():
        known = [head.seq, head.hash.hex()]
        if cursor.execute(f"SELECT 1 FROM {AUDIT_HEADS} WHERE seq = ? AND hash = ?", known).fetchone():
            return False
        try:
            cursor.execute("BEGIN TRANSACTION")
            cursor.execute(f"INSERT INTO {AUDIT_HEADS} VALUES (?, ?, make_timestamptz(?))", [*known, at_us])
            cursor.execute("COMMIT")
        except duckdb.Error:
            roll_back(cursor)
            raise
    return True


def known_heads(lake: Lake) -> Iterator[Head]:
    """All heads in the lake now, by seq, a page at a time; what is written later is not among them.

    Raises LakeError.
    """
    with lake.read() as cursor:
        if AUDIT_HEADS not in table_names(cursor):
            return iter(())
        newest = cursor.execute(f"SELECT max(seq) FROM {AUDIT_HEADS}").fetchone()
    return _pages(lake, 0 if newest is None or newest[0] is None else int(newest[0]))


def _pages(lake: Lake, newest: int) -> Iterator[Head]:
    last = (0, "")
    while True:
        with lake.read() as cursor:
            rows = cursor.execute(
                f"SELECT DISTINCT seq, hash FROM {AUDIT_HEADS} WHERE (seq > ? OR (seq = ? AND hash > ?)) AND seq <= ?"
                f" ORDER BY seq, hash LIMIT {_PAGE}",
                [last[0], *last, newest],
            ).fetchall()
        for seq, digest in rows:
            yield Head(int(seq), _bytes(digest))
        if len(rows) < _PAGE:
            return
        last = (int(rows[-1][0]), str(rows[-1][1]))


def _bytes(digest: str) -> bytes:
    try:
        return bytes.fromhex(digest)
    except ValueError:
        return b""  # it was tampered with, and is no entry's
