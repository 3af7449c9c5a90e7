from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from meterhouse.ingest.event import MAX_COUNT
from meterhouse.streams import latency

DURATIONS = st.lists(st.integers(0, MAX_COUNT) | st.integers(0, 5_000) | st.integers(0, 2**24), min_size=1, max_size=60)


@given(times=DURATIONS)
def test_vectorised_buckets_equal_the_scalar_ones(times: list[int]) -> None:
    assert latency.buckets(np.array(times)).tolist() == [latency.bucket_of(us) for us in times]


@given(times=DURATIONS, permille=st.integers(1, 1_000))
def test_a_quantile_of_the_histogram_is_within_one_percent_of_the_nearest_rank(times: list[int], permille: int) -> None:
    rank = -(-permille * len(times) // 1_000)
    exact = sorted(times)[rank - 1]
    found = latency.quantile(latency.buckets(np.array(times)), np.ones(len(times), dtype=np.int64), permille / 1_000)
    assert found is not None
    assert 100 * abs(found - exact) <= exact
