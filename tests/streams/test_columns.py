from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from meterhouse.ingest.batch import NAME
from meterhouse.streams.columns import MAX_PACKED, codes_of, distinct, int64s, names_of, one_chunk, pack


def test_rows_that_agree_in_all_columns_are_one_group_however_large_the_key_space() -> None:
    rng = np.random.default_rng(1)
    columns = [rng.integers(0, 3, 500) for _ in range(4)]
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    for size in (3, 1_000, 2**31):  # looked up in a table, hashed, renumbered on the way
        one_of_group, group = distinct([(column, size) for column in columns])
        assert len(one_of_group) == len(set(rows))
        assert [rows[one_of_group[g]] for g in group.tolist()] == rows


def test_packed_keys_stay_below_their_bound() -> None:
    packed, bound = pack([(np.array([0, 2**31 - 1, 5]), 2**31)] * 3)
    assert len(set(packed.tolist())) == 3
    assert packed.max() < bound <= MAX_PACKED


def test_no_rows_have_no_groups() -> None:
    empty = np.empty(0, dtype=np.int64)
    assert [part.tolist() for part in distinct([(empty, 1), (empty, 2**40)])] == [[], []]


def test_a_sliced_name_column_keeps_its_codes_and_nulls() -> None:
    column = pa.chunked_array([pa.array(["a", None, "b", "a"], NAME)])[1:]
    assert [None if code < 0 else names_of(column)[code] for code in codes_of(column)] == [None, "b", "a"]


def test_a_table_in_one_chunk_is_handed_on_and_another_is_unified() -> None:
    table = pa.table({"name": pa.array(["a"], NAME), "count": [1]})
    assert one_chunk(table) is table
    both = pa.concat_tables([table, pa.table({"name": pa.array(["b"], NAME), "count": [2]})])
    with pytest.raises(ValueError, match="call one_chunk"):
        int64s(both["count"])
    whole = one_chunk(both)
    assert (names_of(whole["name"]), int64s(whole["count"]).tolist()) == (["a", "b"], [1, 2])
