from __future__ import annotations

import numpy as np
import pytest

from meterhouse.ingest.event import MAX_COUNT
from meterhouse.streams import latency


def test_every_bucket_is_within_one_percent_of_its_value_and_they_tile_the_durations() -> None:
    assert latency.LOWER_US[0] == latency.UPPER_US[0] == latency.VALUE_US[0] == 0
    for bucket in range(1, latency.BUCKETS):
        lower, upper, value = latency.LOWER_US[bucket], latency.UPPER_US[bucket], latency.VALUE_US[bucket]
        assert lower == latency.UPPER_US[bucket - 1] + 1
        assert lower <= value <= upper
        assert 100 * (value - lower) <= lower
        assert 100 * (upper - value) <= upper
    assert latency.UPPER_US[-1] >= MAX_COUNT
    assert latency.BUCKETS < 1_300


def test_vectorised_buckets_equal_the_scalar_ones_at_every_bound() -> None:
    bounds = np.array(latency.UPPER_US)
    powers = 2 ** np.arange(41)
    near = np.concatenate([bounds + d for d in (-1, 0, 1)] + [powers + d for d in (-1, 0, 1)] + [np.arange(5_000)])
    times = np.clip(near, 0, MAX_COUNT)
    assert latency.buckets(times).tolist() == [latency.bucket_of(us) for us in times.tolist()]


def test_a_value_is_read_back_from_its_bucket() -> None:
    times = np.array([0, 1, 99, 12_345_678])
    buckets = latency.buckets(times)
    assert latency.values(buckets).tolist() == [latency.value(int(bucket)) for bucket in buckets]
    assert latency.values(buckets)[:3].tolist() == [0, 1, 99]


@pytest.mark.parametrize("us", [-1, 2 * MAX_COUNT])
def test_a_duration_out_of_range_is_refused(us: int) -> None:
    with pytest.raises(ValueError, match="0 to 1099511627776 us"):
        latency.buckets(np.array([1, us]))
    with pytest.raises(ValueError, match="0 to 1099511627776 us"):
        latency.bucket_of(us)


def test_no_durations_have_no_buckets() -> None:
    assert latency.buckets(np.empty(0, dtype=np.int64)).tolist() == []


def test_a_quantile_is_the_value_of_nearest_rank() -> None:
    buckets, counts = np.array([30, 10, 20, 10]), np.array([1, 40, 50, 9])
    asked = [0.01, 0.49, 0.491, 0.99, 0.991, 1]
    assert [latency.quantile(buckets, counts, q) for q in asked] == [10, 10, 20, 20, 30, 30]


def test_a_quantile_is_taken_as_written_not_as_its_float() -> None:
    # 0.07 * 100 is 7.000000000000001 in floats, whose ceiling is 8.
    assert latency.quantile(np.array([1, 2]), np.array([7, 93]), 0.07) == 1


def test_an_empty_histogram_has_no_quantile() -> None:
    assert latency.quantile(np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64), 0.5) is None


@pytest.mark.parametrize("q", [0, -0.5, 1.01, 50])
def test_a_quantile_is_a_share(q: float) -> None:
    with pytest.raises(ValueError, match=r"the median is 0\.5"):
        latency.quantile(np.array([1]), np.array([1]), q)
