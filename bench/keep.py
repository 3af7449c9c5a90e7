"""A back-up of two million charges of four days, an erasure of one of 5,000 users, and a day's retention.

The limit of a back-up is to read its parts once and hash them, on one core; of an erasure one scan of the columns that
say whose a row is, and to write every file again; of retention one scan of the day. Run: python -m bench.keep
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from bench.report import Row, show
from meterhouse.ingest.event import TOKEN_KINDS
from meterhouse.warehouse.backup.backups import Parts, create, restore
from meterhouse.warehouse.backup.databases import SqliteDatabase
from meterhouse.warehouse.database import open_database, sqlite_url
from meterhouse.warehouse.erasure import compact, erase
from meterhouse.warehouse.erasures import Erasures
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.lake_ledger import LakeLedger
from meterhouse.warehouse.reports.query import DAY_US
from meterhouse.warehouse.retention import retain
from meterhouse.warehouse.retention_terms import Retention

FROM_US: Final = 1_793_491_200_000_000  # 2026-11-01T00:00:00Z
DAYS: Final = 4
CHARGES: Final = 2_000_000
USERS: Final = 5_000
_TOKENS: Final = ", ".join(kind.tokens for kind in TOKEN_KINDS)

Answer = TypeVar("Answer")


class NoHold:
    def begin(self, snapshot: int) -> None: ...

    def go_on(self) -> None: ...


def build(lake: Lake) -> None:
    ledger = LakeLedger(lake)
    ledger.seed(1)
    ledger.close()
    with lake.borrowed() as cursor:
        moment = f"make_timestamptz({FROM_US} + i * {DAYS * DAY_US // CHARGES})"
        for first in range(0, CHARGES, 100_000):
            cursor.execute(
                f"""
                INSERT INTO charges ("key", "partition", "offset", "index", arrived, "time", tenant, source,
                    application, environment, model, provider, operation, status, disposition, control_version,
                    cost_pico, card, duration_us, time_to_first_token_us, http_status, request_id, "user", {_TOKENS})
                SELECT gen_random_uuid(), 0, i, 0, {moment}, {moment}, concat('tenant-', r % 40), '/gateway/1',
                    'assistant', 'prod', concat('model-', r % 5), 'atlas', 'chat', 'ok', 'billed', 0, r % 1000000, 1,
                    r % 9000000 + 1000, r % 1000, 200, gen_random_uuid(), concat('user-', r % {USERS}), r % 4000,
                    r % 300, 0, r % 900, 0
                FROM (SELECT i, (hash(i) % 1000000007)::BIGINT AS r FROM range({first}, {first + 100_000}) AS n(i))
                """
            )


def timed(run: Callable[[], Answer]) -> tuple[Answer, float]:
    start_s = time.perf_counter()
    answer = run()
    return answer, time.perf_counter() - start_s


def hashed(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            hashlib.sha256(content).digest()
            size += len(content)
    return size


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        config = LakeConfig(home / "lake.sqlite", home / "data")
        parts = Parts(
            SqliteDatabase(home / "lake.sqlite"), SqliteDatabase(home / "control.sqlite"), home / "data", None
        )
        engine = open_database(sqlite_url(home / "control.sqlite"))
        with Lake.open(config) as lake:
            build(lake)
        manifest, backup_s = timed(lambda: create(parts, home / "backup", NoHold(), lambda: FROM_US))
        size, hash_s = timed(lambda: hashed(home / "backup"))
        there = Parts(
            SqliteDatabase(home / "r/lake.sqlite"), SqliteDatabase(home / "r/control.sqlite"), home / "r/d", None
        )
        _, restore_s = timed(lambda: restore(there, home / "backup"))
        erasures = Erasures(engine)
        erasures.erased()
        asked_s = timed(lambda: [erasures.erased() for _ in range(200)])[1] / 200
        _, key = erasures.begin("tenant-7", "user-7", "bench", FROM_US)
        with Lake.open(config) as lake:
            with lake.read() as cursor:
                who = """SELECT count(*) FROM charges WHERE concat(tenant, "user", request_id) = 'none'"""
                _, scan_s = timed(lambda: cursor.execute(who).fetchall())
            done, erase_s = timed(lambda: erase(lake, "tenant-7", "user-7", key))
        _, compact_s = timed(lambda: compact(config))
        with Lake.open(config) as lake:
            terms = Retention(charges=1)
            removed, retain_s = timed(lambda: retain(lake, FROM_US + 2 * DAY_US, terms, 24, 0))
        engine.dispose()
    mib = size / 2**20
    limit = f"{mib / hash_s:,.0f} MiB/s read and hashed"
    scan = f"{scan_s:.2f} s to look through"
    show(
        f"Keeping {CHARGES:,} charges: {len(manifest.parts):,} parts, {mib:,.0f} MiB",
        [
            Row("back-up", f"{mib / backup_s:,.0f} MiB/s", limit, f"{hash_s / backup_s:.0%}"),
            Row("restore", f"{mib / restore_s:,.0f} MiB/s", limit, f"{hash_s / restore_s:.0%}"),
            Row(f"erasure: {done.rows['charges']} rows in {done.files} files", f"{erase_s:.2f} s", scan),
            Row("compaction of the catalogue", f"{compact_s:.2f} s"),
            Row(f"retention: {removed.rows['charges']:,} rows of a day", f"{retain_s:.2f} s", scan),
            Row("who is erased, asked by a commit", f"{asked_s * 1e6:,.0f} µs"),
        ],
    )


if __name__ == "__main__":
    main()
