"""A user is erased: nothing names them any more, and every figure is what it was."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from meterhouse.streams.ledger import CHARGE_SCHEMA, LedgerUnavailable, Processed
from meterhouse.warehouse.audit import AuditFilter, AuditLog
from meterhouse.warehouse.backup.trees import tree_of
from meterhouse.warehouse.books import SeenBooks
from meterhouse.warehouse.database import ControlUnavailable
from meterhouse.warehouse.erasing import Erased, digest, erased_rows, names, without
from meterhouse.warehouse.erasure import compact, erase
from meterhouse.warehouse.erasures import Erasures
from meterhouse.warehouse.lake import Lake, LakeConfig
from meterhouse.warehouse.maintenance import maintain
from meterhouse.warehouse.reports.chargeback import chargeback
from meterhouse.warehouse.reports.groups import Selection
from meterhouse.warehouse.reports.usage import usage
from meterhouse.warehouse.verify import verify
from meterhouse.warehouse.view import EVERYTHING
from tests.builders import DAY_US, HOUR_US, T0_US
from tests.warehouse.filled import SNAPSHOT, charges_of, fill, reject

USER = "person-\u00e4-7"
KEY = bytes(range(32))
SPAN = (T0_US - DAY_US, T0_US + 40 * DAY_US)
ROWS = [
    {"user": USER, "input_tokens": 5, "request_id": f"chat/{USER}/1", "labels": json.dumps({"who": USER})},
    {"user": f"{USER}b", "input_tokens": 7, "request_id": f"chat/{USER}b/2", "labels": '{"team":"a"}'},
    {"user": None, "input_tokens": 11},
    {"user": USER, "input_tokens": 13, "time": T0_US + DAY_US, "source": f"/phone/{USER}", "reservation_id": USER},
    {"user": USER, "status": "error", "duration_us": 900, "time": T0_US + HOUR_US},
]
NODES = [
    {"node": "n1", "id": "n20", "offset": 20, "request_id": f"chat/{USER}/1", "accelerator_us": 4},
    {"node": "n1", "id": "n21", "offset": 21, "request_id": f"chat/{USER}b/2", "accelerator_us": 6},
]
REJECTS = [
    reject(30, json.dumps({"data": {"user": USER}}).encode()),
    reject(31, json.dumps({"data": {"user": USER}}, ensure_ascii=False).encode()),
    reject(32, json.dumps({"data": {"user": f"{USER}b"}}).encode()),
]


def books(lake: Lake) -> list[Any]:
    """Everything that must not change."""
    seen = SeenBooks(lake, EVERYTHING)
    selection = Selection(*SPAN)
    bill = chargeback(seen, SNAPSHOT, selection, ("tenant", "application", "model", "hour"))
    used = usage(seen, SNAPSHOT, selection)
    laws = verify(lake, SNAPSHOT).laws
    assert all(law.balanced for law in laws)
    return [bill.lines, bill.total, used.lines, used.total, laws]


def everything(config: LakeConfig) -> bytes:
    """All bytes of the lake's files, also as they are unpacked, and of its catalogue."""
    tree = tree_of(config.data)
    held = [tree.read(name, 2**30) or b"" for name in tree.names()]
    held += [repr(pq.read_table(pa.BufferReader(file)).to_pylist()).encode() for file in held]
    if isinstance(config.catalogue, Path):
        return b"".join([*held, *(file.read_bytes() for file in config.catalogue.parent.glob("*") if file.is_file())])
    with psycopg.connect(config.catalogue) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        rows = [connection.execute(f'SELECT * FROM "{name}"'.encode()).fetchall() for (name,) in tables]
    return b"".join([*held, repr(rows).encode()])


def named(config: LakeConfig) -> int:
    """How often the user is named, in whichever way; the other's id begins with it."""
    held, forms = everything(config), {USER, json.dumps(USER)[1:-1]}
    return sum(held.count(form.encode()) - held.count(f"{form}b".encode()) for form in forms)


def test_an_erased_user_is_nowhere_and_every_figure_is_what_it_was(
    lake_config: LakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Lake.open(lake_config) as lake:
        with monkeypatch.context() as before:  # files had extremes of every column
            before.setattr("meterhouse.warehouse.lake_files.PERSONAL", ())
            fill(lake, ROWS, NODES, REJECTS)
        fill(lake, [{"user": USER, "id": "more", "offset": 40, "input_tokens": 3}])
        wanted = books(lake)
        assert named(lake_config) > 8
        done = erase(lake, "acme", USER, KEY)
        assert done.rows == {"charges": 4, "node_events": 1, "rejects": 2}
        assert books(lake) == wanted
        with lake.read() as cursor:
            left = cursor.execute('SELECT "user", labels, request_id FROM charges ORDER BY "offset"').fetchall()
            requests = [row[0] for row in cursor.execute("SELECT request_id FROM node_events").fetchall()]
            payloads = cursor.execute('SELECT octet_length(payload) FROM rejects ORDER BY "offset"').fetchall()
        hidden = f"erased-{digest(KEY, 'acme', f'chat/{USER}/1')}"
        other = (f"{USER}b", '{"team":"a"}', f"chat/{USER}b/2")
        assert left == [(None, None, hidden), other, *[(None, None, None)] * 4]
        assert sorted(requests) == sorted([hidden, f"chat/{USER}b/2"])
        assert payloads == [(0,), (0,), (len(REJECTS[2].payload),)]
        assert erase(lake, "acme", USER, KEY).rows == {}
    compact(lake_config)
    assert named(lake_config) == 0
    with Lake.open(lake_config) as lake:
        fill(lake, [{"user": "zoe", "id": "later", "offset": 50}])
        maintain(lake, T0_US)
        assert verify(lake, SNAPSHOT).balanced


def test_another_tenants_user_of_the_same_id_stays(lake_config: LakeConfig) -> None:
    with Lake.open(lake_config) as lake:
        fill(lake, [{"user": USER}, {"user": USER, "tenant": "bolt", "id": "theirs"}])
        assert erase(lake, "acme", USER, KEY).rows == {"charges": 1}
        with lake.read() as cursor:
            assert cursor.execute('SELECT tenant, "user" FROM charges ORDER BY 1').fetchall() == [
                ("acme", None),
                ("bolt", USER),
            ]


def unit(rows: list[dict[str, Any]], rejects: Any = ()) -> Processed:
    charges = pa.Table.from_pylist(charges_of(rows), schema=CHARGE_SCHEMA)
    nothing = charges.slice(0, 0)
    return Processed(charges, nothing, nothing, nothing, nothing, rejects, {}, {})


def test_a_replay_brings_nobody_back_and_leaves_who_came_later(engine: sa.Engine) -> None:
    erasures = Erasures(engine)
    rows = [{**row, "arrived": T0_US} for row in ROWS]
    replayed = unit(rows, REJECTS)
    assert erasures.cleaned(replayed) is replayed  # there is no erasure
    begun, key = erasures.begin("acme", USER, "ann", T0_US)
    left = erasures.cleaned(replayed)
    assert left.charges.equals(erased_rows(replayed.charges, pa.array([0, 3, 4]).to_numpy(), key))
    assert left.charges["user"].to_pylist() == [None, f"{USER}b", None, None, None]
    assert [len(each.payload) > 0 for each in left.rejects] == [False, False, True]
    later = unit([{**ROWS[0], "arrived": T0_US + 1}])
    assert erasures.cleaned(later).charges.equals(later.charges)
    assert erasures.end(begun, USER, {"charges": 3}, T0_US + 5) == 0
    [entry] = AuditLog(engine).page(AuditFilter(action="user.erased"), None, 10)
    assert (entry.actor, entry.subject) == ("ann", f"acme/{digest(key, 'acme', USER)}")
    assert json.loads(entry.detail) == {"charges": 3, "repairs": 0}


def test_meters_go_by_what_was_said_last_while_the_control_database_is_away(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    def away(_: Erasures) -> Erased:
        nonlocal asked
        asked += 1
        raise ControlUnavailable("away")

    erasures, late = Erasures(engine), Erasures(engine)
    erasures.begin("acme", USER, "ann", T0_US)
    replayed = unit([{**row, "arrived": T0_US} for row in ROWS])
    left = erasures.cleaned(replayed).charges
    monkeypatch.setattr(Erasures, "_read", away)
    assert erasures.cleaned(replayed).charges.equals(left)
    assert erasures.cleaned(replayed).charges.equals(left)
    assert asked == 1  # not again for a while: each try may take a time-out
    with pytest.raises(LedgerUnavailable, match="nothing was committed"):
        late.cleaned(replayed)


TEXTS = st.one_of(st.none(), st.text("ab-/ä1", max_size=8))


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["acme", "bolt"]), TEXTS, TEXTS, TEXTS), min_size=1, max_size=6))
def test_what_is_left_of_rows_names_the_user_nowhere_and_counts_the_same(rows: list[tuple[Any, ...]]) -> None:
    told = [
        {
            "tenant": tenant,
            "user": user,
            "request_id": request,
            "labels": labels,
            "input_tokens": number,
            "id": str(number),
        }
        for number, (tenant, user, request, labels) in enumerate(rows)
    ]
    before = unit(told)
    users = {(tenant, user) for tenant, user, *_ in rows if user}
    for tenant, user in users:
        after = without(before, Erased(KEY, {(tenant, digest(KEY, tenant, user)): 2**60})).charges
        for was, now in zip(before.charges.to_pylist(), after.to_pylist(), strict=True):
            if (was["tenant"], was["user"]) != (tenant, user):
                assert now == was
                continue
            personal = ("user", "labels", "request_id", "reservation_id", "source")
            assert {n: v for n, v in now.items() if n not in personal} == {
                n: v for n, v in was.items() if n not in personal
            }
            assert now["user"] is None
            assert now["labels"] is None
            assert not names(now["request_id"] or "", user) or len(user) < 3  # a digest has letters too


@settings(deadline=None, max_examples=6)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["acme", "bolt"]),
            st.sampled_from([None, "u1", "u2"]),
            st.integers(0, 60),
            st.integers(0, 9),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_no_erasure_changes_a_total_or_a_law(rows: list[tuple[str, str | None, int, int]]) -> None:
    told = [
        {"tenant": tenant, "user": user, "time": T0_US + hour * HOUR_US, "input_tokens": tokens, "id": str(number)}
        for number, (tenant, user, hour, tokens) in enumerate(rows)
    ]
    with (
        TemporaryDirectory() as folder,
        Lake.open(LakeConfig(Path(folder) / "lake.sqlite", Path(folder) / "data")) as lake,
    ):
        fill(lake, told)
        wanted = books(lake)
        for tenant, user in {(tenant, user) for tenant, user, *_ in rows if user is not None}:
            assert erase(lake, tenant, user, KEY).rows == {
                "charges": sum((t, u) == (tenant, user) for t, u, *_ in rows)
            }
        assert books(lake) == wanted
        with lake.read() as cursor:
            assert cursor.execute('SELECT count("user") FROM charges').fetchall() == [(0,)]
