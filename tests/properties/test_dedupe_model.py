"""The dedupe index against a dict, for any log and any way of cutting it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from meterhouse.streams.dedupe import DedupeIndex

# Few keys, so that they repeat; some of one home (see test_dedupe), some that differ in one half only.
_SAME_HOME = [(n, (n * 0x9E3779B97F4A7C15 ^ 0xFEDCBA9876543210) % 2**64) for n in range(8)]
_KEYS = st.sampled_from([*_SAME_HOME, (0, 0), (0, 1), (1, 0), (2**64 - 1, 2**64 - 1), (0x7FF0000000000001, 5)])
_STEPS = st.sampled_from([0, 0, 0, 0, 1, 2, 7, 70_000])
LOGS = st.lists(st.tuples(_KEYS, _STEPS), max_size=80)


def model(log: list[tuple[tuple[int, int], int]], window_hours: int) -> list[bool]:
    accepted_at: dict[tuple[int, int], int] = {}
    accepted = []
    for key, hour in log:
        new = accepted_at.get(key, hour - window_hours) <= hour - window_hours
        if new:
            accepted_at[key] = hour
        accepted.append(new)
    return accepted


def arrays(log: list[tuple[tuple[int, int], int]]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int32]]:
    halves = np.array([key for key, _ in log], dtype=np.uint64).reshape(-1, 2)
    return halves, np.array([hour for _, hour in log], dtype=np.int32)


@settings(max_examples=200, deadline=None)
@given(steps=LOGS, window_hours=st.integers(1, 10), cuts=st.sets(st.integers(1, 79)), crowd=st.integers(0, 3))
def test_the_index_accepts_what_a_dict_accepts_however_the_log_is_cut(
    steps: list[tuple[tuple[int, int], int]], window_hours: int, cuts: set[int], crowd: int
) -> None:
    hours = np.cumsum([step for _, step in steps], dtype=np.int64).tolist() if steps else []
    log = [(key, hour) for (key, _), hour in zip(steps, hours, strict=True)]
    index = DedupeIndex(window_hours)
    accepted: list[bool] = []
    for start, end in pairwise([0, *sorted(cut for cut in cuts if cut < len(log)), len(log)]):
        halves, arrived = arrays(log[start:end])
        accepted += index.filter(halves, arrived).tolist()
        if crowd and len(arrived):  # others' keys make the table grow or drop what has expired
            others = np.random.default_rng(start).integers(100, 2**63, (crowd * 400, 2), dtype=np.uint64)
            index.filter(others, np.full(len(others), arrived[-1], dtype=np.int32))
    assert accepted == model(log, window_hours)


@settings(max_examples=100, deadline=None)
@given(steps=LOGS, window_hours=st.integers(1, 10), cut=st.integers(0, 80), order=st.randoms(use_true_random=False))
def test_an_index_rebuilt_from_accepted_keys_in_any_order_goes_on_alike(
    steps: list[tuple[tuple[int, int], int]], window_hours: int, cut: int, order: object
) -> None:
    hours = np.cumsum([step for _, step in steps], dtype=np.int64).tolist() if steps else []
    log = [(key, hour) for (key, _), hour in zip(steps, hours, strict=True)]
    expected = model(log, window_hours)
    kept = [entry for entry, new in zip(log[:cut], expected, strict=False) if new]
    order.shuffle(kept)  # type: ignore[attr-defined]
    index = DedupeIndex(window_hours)
    for start in range(0, len(kept), 3):
        index.insert(*arrays(kept[start : start + 3]))
    assert index.filter(*arrays(log[cut:])).tolist() == expected[cut:]
