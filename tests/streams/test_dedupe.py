from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from meterhouse.ingest.batch import KEY
from meterhouse.streams import dedupe
from meterhouse.streams.dedupe import MAX_HOUR, MAX_WINDOW_HOURS, DedupeIndex, key_halves


def keys(*numbers: int) -> npt.NDArray[np.uint64]:
    return np.array([[0, number] for number in numbers], dtype=np.uint64)


def at(*hours: int) -> npt.NDArray[np.int32]:
    return np.array(hours, dtype=np.int32)


def random_keys(count: int, seed: int = 1) -> npt.NDArray[np.uint64]:
    return np.random.default_rng(seed).integers(0, 2**64, (count, 2), dtype=np.uint64)


def test_the_first_of_equal_keys_wins_within_a_batch_and_across_batches() -> None:
    index = DedupeIndex()
    assert index.filter(keys(1, 2, 1, 3, 2), at(5, 5, 5, 5, 5)).tolist() == [True, True, False, True, False]
    assert index.filter(keys(3, 4), at(5, 6)).tolist() == [False, True]
    assert len(index) == 4


def test_a_key_is_accepted_anew_once_its_first_arrival_is_out_of_the_window() -> None:
    index = DedupeIndex(window_hours=10)
    assert index.filter(keys(1, 1, 1), at(0, 9, 10)).tolist() == [True, False, True]
    assert index.filter(keys(1, 1), at(19, 20)).tolist() == [False, True]
    assert len(index) == 1


def test_a_repeat_does_not_prolong_the_window() -> None:
    index = DedupeIndex(window_hours=10)
    assert [index.filter(keys(1), at(hour)).tolist() for hour in (0, 9, 18)] == [[True], [False], [True]]


def test_a_batch_may_span_more_than_the_window_and_more_hours_than_a_word_holds() -> None:
    index = DedupeIndex(window_hours=10)
    hours = at(-5, 0, 4, 5, 3 * MAX_HOUR, 3 * MAX_HOUR + 9, 3 * MAX_HOUR + 10)
    assert index.filter(keys(1, 1, 1, 1, 1, 1, 1), hours).tolist() == [True, False, False, True, True, False, True]


def test_hours_that_go_back_are_refused() -> None:
    index = DedupeIndex()
    with pytest.raises(ValueError, match="hours of arrival go back"):
        index.filter(keys(1, 2), at(5, 4))
    assert index.filter(keys(1), at(5)).tolist() == [True]
    with pytest.raises(ValueError, match="hours of arrival go back"):
        index.filter(keys(2), at(4))


def test_no_keys_change_nothing() -> None:
    index = DedupeIndex()
    assert index.filter(keys().reshape(0, 2), at()).tolist() == []
    index.insert(keys().reshape(0, 2), at())
    assert len(index) == 0


def test_the_zero_key_is_a_key_like_any_other() -> None:
    index = DedupeIndex()
    assert index.filter(keys(0, 0), at(0, 0)).tolist() == [True, False]


def test_halves_that_are_no_number_as_floats_stay_what_they_are() -> None:
    signalling = np.array([[0x7FF0_0000_0000_0001, 0xFFF8_0000_0000_0000], [2**63, 2**63 - 1]], dtype=np.uint64)
    index = DedupeIndex()
    assert index.filter(signalling, at(0, 0)).tolist() == [True, True]
    index.filter(random_keys(5_000), np.zeros(5_000, dtype=np.int32))  # grows
    assert index.filter(signalling, at(0, 0)).tolist() == [False, False]


def test_of_inserted_repeats_the_newest_hour_counts() -> None:
    index = DedupeIndex(window_hours=10)
    index.insert(keys(1, 1, 2), at(20, 15, 11))
    index.insert(keys(2, 3), at(14, 9))
    assert len(index) == 3
    assert index.filter(keys(1, 2, 3), at(24, 24, 24)).tolist() == [False, True, True]


def test_a_rebuilt_index_decides_as_the_one_it_was_rebuilt_from() -> None:
    rng = np.random.default_rng(3)
    live, accepted = DedupeIndex(window_hours=4), []
    for hour in range(12):
        batch, hours = random_keys(300, seed=hour % 5), np.full(300, hour, dtype=np.int32)
        mask = live.filter(batch, hours)
        accepted.append((batch[mask], hours[mask]))
    rebuilt = DedupeIndex(window_hours=4)
    for place in rng.permutation(len(accepted)):
        halves, hours = accepted[place]
        if len(halves) and hours[0] >= 11 - 4:
            rebuilt.insert(halves, hours)
    for hour in range(12, 16):
        batch, hours = random_keys(300, seed=hour % 5), np.full(300, hour, dtype=np.int32)
        assert rebuilt.filter(batch, hours).tolist() == live.filter(batch, hours).tolist()


def test_growing_keeps_every_key() -> None:
    index = DedupeIndex()
    seen = random_keys(200_000)
    for start in range(0, len(seen), 7_001):
        part = seen[start : start + 7_001]
        assert index.filter(part, np.zeros(len(part), dtype=np.int32)).all()
    assert not index.filter(seen, np.zeros(len(seen), dtype=np.int32)).any()
    assert len(index) == len(seen)


def test_a_large_table_grows_by_a_quarter_so_an_id_never_takes_more_than_36_bytes() -> None:
    index = DedupeIndex(expected_ids=1_600_000)
    hour = np.zeros(100_000, dtype=np.int32)
    sizes = []
    for seed in range(30):
        assert index.filter(random_keys(100_000, seed), hour).all()
        if len(index) >= 1_600_000:
            sizes.append(index.nbytes / len(index))
    assert not index.filter(random_keys(100_000, 0), hour).any()
    assert any(after > before for before, after in pairwise(sizes))  # it did grow
    assert max(sizes) < 36  # 20 / 0.75 * 1.25, and what a batch may run on into


def test_what_left_the_window_makes_room_without_growing() -> None:
    index = DedupeIndex(window_hours=2, expected_ids=40_000)
    before = index.nbytes
    for hour in range(60):
        batch = random_keys(10_000, seed=hour)
        assert index.filter(batch, np.full(10_000, hour, dtype=np.int32)).all()
    assert index.nbytes < before * 1.2
    assert len(index) < 60_000


def test_keys_of_one_home_are_kept_apart_and_the_table_runs_on_beyond_its_end() -> None:
    # All with the same hash: what `mixed` makes of (x, y) does not change when y follows x.
    rows = 1_500
    first = np.arange(rows, dtype=np.uint64)
    one_home = np.column_stack((first, first * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(0xFEDCBA9876543210)))
    index = DedupeIndex()
    zeros = np.zeros(rows, dtype=np.int32)
    for start in range(0, rows, 500):
        assert index.filter(one_home[start : start + 500], zeros[:500]).all()
        index.filter(random_keys(2_000, seed=start), np.zeros(2_000, dtype=np.int32))
    assert not index.filter(one_home, zeros).any()


@pytest.mark.parametrize("hours", [0, -1, MAX_WINDOW_HOURS + 1])
def test_a_window_must_be_some_hours(hours: int) -> None:
    with pytest.raises(ValueError, match="a dedupe window is 1 to"):
        DedupeIndex(window_hours=hours)


def test_key_columns_are_read_in_place_sliced_or_chunked() -> None:
    words = [bytes([n]) + bytes(7) + bytes([n + 100]) + bytes(7) for n in range(5)]
    column = pa.array(words, KEY)
    expected = [[n, n + 100] for n in range(5)]
    assert key_halves(column).tolist() == expected
    assert key_halves(column[2:4]).tolist() == expected[2:4]
    assert key_halves(pa.chunked_array([column[3:], column[:1]])).tolist() == [*expected[3:], expected[0]]
    assert key_halves(pa.chunked_array([], KEY)).tolist() == []
    with pytest.raises(ValueError, match="without nulls"):
        key_halves(pa.array([None], KEY))


@pytest.mark.parametrize("seed", range(4))
def test_a_table_moved_in_many_pieces_decides_as_a_dict(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedupe, "MOVE_BLOCKS", 3)
    rng = np.random.default_rng(seed)
    index, accepted_at = DedupeIndex(window_hours=3), dict[int, int]()
    pool = random_keys(3_000, seed)
    for hour in range(40):
        # At about 250 new keys an hour the table moves every few hours, mostly without growing.
        chosen = rng.integers(0, len(pool), 250)
        got = index.filter(pool[chosen], np.full(len(chosen), hour, dtype=np.int32)).tolist()
        expected = []
        for number in chosen.tolist():
            expected.append(accepted_at.get(number, -3) <= hour - 3)
            if expected[-1]:
                accepted_at[number] = hour
        assert got == expected
