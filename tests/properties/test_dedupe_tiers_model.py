"""The dedupe index beyond memory against a dict: for any log, cutting, commits, crashes, damage and restores."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from meterhouse.streams import dedupe_files
from tests.dedupe_house import PARTITION, House

# Few keys that repeat, of one hash or with equal halves, between many that do not.
_SAME_HASH = [(n, (n * 0x9E3779B97F4A7C15 ^ 0xFEDCBA9876543210) % 2**64) for n in range(12)]
_KEYS = st.one_of(
    st.sampled_from([*_SAME_HASH, (0, 0), (0, 1), (1, 0), (2**64 - 1, 2**64 - 1), (0x7FF0000000000001, 5)]),
    st.tuples(st.integers(0, 40), st.just(77)),
)
_STEPS = st.sampled_from([0, 0, 0, 0, 0, 0, 1, 2, 7, 70_000])
_ENTRIES = st.lists(st.tuples(_KEYS, _STEPS), min_size=1, max_size=20)
_SHARES = st.floats(0, 1)
ACTS = st.one_of(
    st.tuples(st.just("read"), _ENTRIES, st.integers(1, 20)),
    st.tuples(st.just("read"), _ENTRIES, st.integers(1, 20)),
    st.tuples(st.just("read"), _ENTRIES, st.integers(1, 20)),
    st.tuples(st.just("commit"), _SHARES),
    st.tuples(st.just("commit"), st.just(1.0)),
    st.tuples(st.just("keep up")),
    st.tuples(st.just("keep up")),
    st.tuples(st.just("die")),
    st.tuples(st.just("die in a write"), st.integers(0, 6)),
    st.tuples(st.just("stop")),
    st.tuples(st.just("damage"), st.sampled_from(["cut", "flip", "lose", "swap", "grow"]), _SHARES, _SHARES),
    st.tuples(st.just("damage"), st.sampled_from(["cut", "flip", "lose", "swap", "grow"]), _SHARES, _SHARES),
    st.tuples(st.just("restore the lake"), _SHARES),
    st.tuples(st.just("lose all files")),
    st.tuples(st.just("another lake's files")),
)  # fmt: skip


class PowerCut(Exception):
    pass


def die_in_a_write(house: House, syncs: int) -> None:
    """The machine stops at the n-th sync; what was not synced may be torn."""
    left = [syncs]

    def sync(handle: int) -> None:
        if not left[0]:
            raise PowerCut
        left[0] -= 1

    with patch.object(dedupe_files, "sync", sync), patch.object(dedupe_files.Folder, "remove"), suppress(PowerCut):
        house.keep_up()
    event("died in a write" if not left[0] else "no write to die in")
    house.die()


def damage(house: House, how: str, which: float, where: float) -> None:
    house.die()
    files = house.files
    if not files:
        return
    path = files[min(int(which * len(files)), len(files) - 1)]
    event(f"damage: {how} {path.suffix or path.name}")
    data = bytearray(path.read_bytes())
    if how == "cut":
        path.write_bytes(data[: int(where * len(data))])
    elif how == "flip" and data:
        data[min(int(where * len(data)), len(data) - 1)] ^= 0x10
        path.write_bytes(data)
    elif how == "grow":
        path.write_bytes(data + bytes(4104))
    elif how == "lose":
        path.unlink()
    elif how == "swap":
        other = files[min(int(where * len(files)), len(files) - 1)]
        path.write_bytes(other.read_bytes())
        other.write_bytes(data)


def act(house: House, what: tuple[object, ...]) -> None:
    match what:
        case ("read", list(entries), int(step)):
            hour = house.lake.log[-1][1] if house.lake.log else 100
            for key, hours in entries:
                hour += hours
                house.append(key, hour)
            house.catch_up(step)
        case ("commit", float(share)):
            house.commit(house.lake.end + int(share * (house.read - house.lake.end)))
        case ("keep up",):
            house.keep_up()
        case ("die",):
            house.die()
            house.start()
        case ("die in a write", int(syncs)):
            die_in_a_write(house, syncs)
            house.start()
        case ("stop",):
            house.stop()
            house.start()
        case ("damage", str(how), float(which), float(where)):
            damage(house, how, which, where)
            house.start()
        case ("restore the lake", float(share)):
            house.die()
            del house.lake.commits[max(1, int(share * len(house.lake.commits))) :]
            house.start()
        case ("lose all files",):
            house.die()
            shutil.rmtree(house.path, ignore_errors=True)
            house.start()
        case ("another lake's files",):
            house.die()
            house.become_another_lake()
            house.start()
        case _:
            raise AssertionError(what)


@settings(max_examples=300, deadline=None)
@given(
    acts=st.lists(ACTS, min_size=5, max_size=60),
    window_hours=st.integers(1, 10),
    frugal=st.booleans(),
    begun=st.integers(0, 40),
)
def test_tiers_decide_as_a_dict_whatever_happens_to_the_process_the_files_and_the_lake(
    acts: list[tuple[object, ...]], window_hours: int, frugal: bool, begun: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        house = House(Path(folder) / "dedupe", window_hours, memory_bytes=1 if frugal else 2**30)
        for number in range(begun):  # files to damage, and generations to merge
            house.append((number, 77), 100 - window_hours + number * window_hours // 60)
            if number % 4 == 0:
                house.catch_up()
                house.commit(house.read)
                house.keep_up()
        for what in acts:
            act(house, what)
        house.catch_up(1)
        event(f"generations: {len(house.store._held[PARTITION].tiers.generations)}")
        house.die()


@pytest.mark.parametrize("again", range(3))
def test_a_crowd_passes_through_every_tier(again: int, tmp_path: Path) -> None:
    """As the model, at a length at which generations are merged with each other and expire."""
    house = House(tmp_path / "dedupe", 8)
    merged = set()
    for number in range(600):
        house.append((number % 251 + again, number % 7), 100 + number // 40)
        if number % 11 == 0:
            house.catch_up(5)
            house.commit(house.read)
            house.keep_up()
            merged |= {len(g.runs) for g in house.store._held[PARTITION].tiers.generations if g.facts}
        if number % 97 == 0:
            house.stop()
            house.start()
    house.catch_up()
    assert merged == {1}
    house.stop()
