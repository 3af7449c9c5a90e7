from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from meterhouse.streams.control import WindowSpec
from meterhouse.streams.windows import window_of, window_starts, windows_between

ZONES = [
    "UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "America/Havana", "Asia/Beirut", "Asia/Kolkata",
    "Australia/Lord_Howe", "Pacific/Apia", "Pacific/Kiritimati", "America/St_Johns", "Africa/Casablanca",
]  # fmt: skip
SPECS = st.builds(WindowSpec, st.sampled_from(["day", "week", "month"]), st.sampled_from(ZONES))
YEAR_US = 366 * 86_400_000_000
TIMES = st.integers(20 * YEAR_US, 80 * YEAR_US)
HOUR_US = 3_600_000_000
LONGEST_HOURS = {"day": 49, "week": 8 * 24, "month": 32 * 24}


@given(spec=SPECS, time_us=TIMES)
def test_a_window_holds_its_instant_and_its_neighbours_touch_it(spec: WindowSpec, time_us: int) -> None:
    start, end = window_of(spec, time_us)
    assert start <= time_us < end
    assert end - start <= LONGEST_HOURS[spec.every] * HOUR_US
    assert window_of(spec, start) == window_of(spec, end - 1) == (start, end)
    assert window_of(spec, start - 1)[1] == start
    assert window_of(spec, end)[0] == end


@settings(deadline=None)
@given(spec=SPECS, from_us=TIMES, days=st.integers(0, 800))
def test_windows_tile_time(spec: WindowSpec, from_us: int, days: int) -> None:
    to_us = from_us + days * 86_400_000_000 + 1
    windows = windows_between(spec, from_us, to_us)
    assert windows[0] == window_of(spec, from_us)
    assert windows[-1] == window_of(spec, to_us - 1)
    assert all(before[1] == after[0] for before, after in pairwise(windows))


@settings(deadline=None)
@given(spec=SPECS, base=TIMES, steps=st.lists(st.integers(0, 400 * 86_400_000_000), min_size=1, max_size=20))
def test_vectorised_starts_equal_the_scalar_ones(spec: WindowSpec, base: int, steps: list[int]) -> None:
    times = np.array([base + step for step in steps])
    assert window_starts(spec, times).tolist() == [window_of(spec, t)[0] for t in times.tolist()]
