"""The tiers one by one, at sizes beyond the model's, and the folder's manners."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import pytest

from meterhouse.streams import dedupe_files
from meterhouse.streams.dedupe import DedupeIndex
from meterhouse.streams.dedupe_files import Folder
from meterhouse.streams.dedupe_filter import KeyFilter, Marks
from meterhouse.streams.dedupe_runs import (
    BLOCK_KEYS,
    NEVER,
    Damaged,
    Entries,
    Run,
    RunFacts,
    entries_of,
    facts_of,
    in_memory,
    merged,
    newest_hours,
    sorted_entries,
)
from meterhouse.streams.dedupe_store import FOLDERS_A_PARTITION, TieredDedupe
from meterhouse.streams.dedupe_tiers import TieredIndex, TierLimits
from tests.dedupe_house import PARTITION, House

FILES = TierLimits(hot_keys=500, least_hot_keys=500, runs_a_generation=4, generations=2, load_keys=2_000)


def random_keys(count: int, seed: int = 1) -> npt.NDArray[np.uint64]:
    return np.random.default_rng(seed).integers(0, 2**64, (count, 2), dtype=np.uint64)


def run_of(keys: npt.NDArray[np.uint64], hours: npt.NDArray[np.int64], salt: int = 7) -> Run:
    return in_memory(sorted_entries(keys, hours), salt)


def asked(run: Run, keys: npt.NDArray[np.uint64]) -> list[int]:
    entries = sorted_entries(keys, np.arange(len(keys)))  # the hour says which key it was
    hours = newest_hours(run, entries.hashes, entries.rests)
    return [hour for _, hour in sorted(zip(entries.hours.tolist(), hours.tolist(), strict=True))]


# -- the filter ----------------------------------------------------------------------------------------------------


def test_a_filter_knows_every_key_that_was_inserted_and_takes_one_in_five_hundred_of_the_others_for_one() -> None:
    keys, others = (sorted_entries(random_keys(100_000, seed), np.zeros(100_000, np.int64)) for seed in (1, 2))
    filter_ = KeyFilter.for_keys(100_000)
    assert filter_.nbytes == pytest.approx(200_000, abs=64)
    filter_.insert(keys.hashes, keys.rests)
    assert len(filter_.perhaps(Marks.of(keys.hashes, keys.rests))) == 100_000
    assert len(filter_.perhaps(Marks.of(others.hashes, others.rests))) < 200


# -- runs ----------------------------------------------------------------------------------------------------------


def test_a_run_of_many_blocks_says_when_each_key_arrived_and_knows_no_other() -> None:
    keys, hours = random_keys(10_007), np.arange(10_007) % 900 + 400_000
    run = run_of(keys, hours)
    assert len(run.firsts) == -(-10_007 // BLOCK_KEYS)
    assert asked(run, keys) == hours.tolist()
    assert asked(run, random_keys(5_000, 2)) == [NEVER] * 5_000


def test_keys_of_one_hash_are_told_apart_though_they_run_over_many_blocks() -> None:
    first = np.arange(1_500, dtype=np.uint64)
    one_hash = np.column_stack((first, first * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(0xFEDCBA9876543210)))
    keys = np.concatenate((random_keys(3_000), one_hash[::2]))
    hours = np.arange(len(keys))
    run = run_of(keys, hours)
    assert asked(run, keys) == hours.tolist()
    assert asked(run, one_hash[1::2]) == [NEVER] * 750


def test_a_merge_holds_every_key_once_with_its_newest_hour_and_nothing_that_expired() -> None:
    keys = random_keys(6_000)
    old = run_of(keys[:4_000], np.arange(4_000) % 10)
    new = run_of(keys[2_000:], np.arange(4_000) % 10 + 10)
    chunks = list(merged([new, old], after_hour=4, chunk_keys=700))
    assert len(chunks) > 5
    hashes = np.concatenate([chunk.hashes for chunk in chunks])
    assert (hashes[1:] > hashes[:-1]).all()
    told = {
        pair: hour
        for chunk in chunks
        for pair, hour in zip(
            zip(chunk.hashes.tolist(), chunk.rests.tolist(), strict=True), chunk.hours.tolist(), strict=True
        )
    }
    expected = {n: n % 10 for n in range(2_000) if n % 10 > 4} | {n + 2_000: n % 10 + 10 for n in range(4_000)}
    entries = sorted_entries(keys, np.arange(6_000))
    names = zip(zip(entries.hashes.tolist(), entries.rests.tolist(), strict=True), entries.hours.tolist(), strict=True)
    assert {n: told[pair] for pair, n in names if pair in told} == expected
    assert len(told) == len(expected)


def test_a_run_reads_alike_from_its_file_and_a_changed_byte_anywhere_is_noticed(tmp_path: Path) -> None:
    keys, hours = random_keys(1_000), np.arange(1_000) % 50
    folder = claimed(tmp_path)
    entries = sorted_entries(keys, hours)
    facts = folder.write_run([entries[:300], entries[300:]], facts_of(entries, 7)).facts
    assert asked(folder.open_run(facts), keys) == hours.tolist()
    path = tmp_path / facts.name
    sound = path.read_bytes()
    for place in range(0, len(sound), 97):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        with pytest.raises(Damaged):
            all_of(folder, facts)
    folder.close()


def test_a_filter_with_a_changed_byte_is_not_read(tmp_path: Path) -> None:
    folder, filter_ = claimed(tmp_path), KeyFilter.for_keys(300)
    entries = sorted_entries(random_keys(300), np.zeros(300, np.int64))
    filter_.insert(entries.hashes, entries.rests)
    facts = folder.write_filter(filter_)
    assert np.array_equal(folder.read_filter(facts).words, filter_.words)
    sound = (tmp_path / facts.name).read_bytes()
    for place in range(0, len(sound), 31):
        (tmp_path / facts.name).write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        with pytest.raises(Damaged):
            folder.read_filter(facts)
    folder.close()


# -- the whole -----------------------------------------------------------------------------------------------------


def test_tiers_in_files_decide_as_the_table_in_memory_for_thousands_of_keys(tmp_path: Path) -> None:
    house, plain = House(tmp_path, 6, FILES), DedupeIndex(6)
    pool = random_keys(20_000)
    rng = np.random.default_rng(4)
    for hour in range(100, 140):
        chosen = pool[rng.integers(0, len(pool), 900)]
        for first, second in chosen.tolist():
            house.append((first, second), hour)
        assert plain.filter(chosen, np.full(900, hour, np.int32)).tolist() == house.lake.truth[-900:]
        house.catch_up(333)
        house.commit(house.read)
        house.keep_up()
        if hour % 9 == 0:
            (house.stop if hour % 2 else house.die)()
            house.start()
    generations = house.store._held[PARTITION].tiers.generations
    assert 1 < len(generations) < 12
    assert sum(path.stat().st_size for path in house.files) < 2 * 25 * len(house.index) + 2**17
    house.stop()


def test_what_files_hold_is_not_read_from_the_lake_again(tmp_path: Path) -> None:
    house = House(tmp_path, 50, FILES)
    read_up_to(house, 3_000)
    house.stop()
    asked_since: list[int | None] = []
    accepted_keys = house.lake.accepted_keys

    def noted(partition: int, since_hour: int, since_offset: int | None = None) -> Any:
        asked_since.append(since_offset)
        return accepted_keys(partition, since_hour, since_offset)

    with patch.object(house.lake, "accepted_keys", noted):
        house.start()
    (since,) = asked_since
    assert since is not None
    assert since > 3_000 - 500 - 400  # what the hot table held, and a batch
    house.stop()


@pytest.mark.parametrize("change", ["window", "layout"])
def test_files_of_a_shorter_window_or_of_a_topic_before_it_grew_are_discarded(change: str, tmp_path: Path) -> None:
    house = House(tmp_path, 2, FILES)
    read_up_to(house, 3_000)
    house.stop()
    assert house.files
    if change == "window":
        house.window_hours = 40
    else:
        positions = house.lake.positions
        house.lake.positions = lambda: {PARTITION + 1: positions()[PARTITION], **positions()}  # type: ignore[method-assign]
    with patch.object(dedupe_files.Folder, "discard", autospec=True) as discard:
        house.start()
    assert discard.called
    house.stop()


def test_files_that_let_keys_go_are_not_of_a_lake_restored_to_when_these_were_in_the_window(tmp_path: Path) -> None:
    house = House(tmp_path, 5, FILES)
    read_up_to(house, 1_200, hour=lambda _: 100)
    house.append((1, 1), 110)
    house.catch_up()
    house.commit(house.read)
    house.keep_up()  # nothing is sealed: the files still lead up to hour 100, and have let its keys go
    house.die()
    house.lake.commits.pop()
    del house.lake.log[-1], house.lake.truth[-1]
    for key, _ in house.lake.log[:50]:
        house.append(key, 101)
    house.start()
    house.catch_up()
    house.stop()


def test_what_leaves_the_window_of_events_not_yet_committed_stays_in_the_files(tmp_path: Path) -> None:
    house = House(tmp_path, 5, FILES)
    read_up_to(house, 1_200, hour=lambda _: 100)
    for key, hour in [*((key, 101) for key, _ in house.lake.log[:50]), ((1, 1), 110)]:
        house.append(key, hour)
    house.catch_up()
    house.keep_up()
    assert [path for path in house.files if path.suffix == ".run"]
    house.die()  # the last entries are read again, from hour 101 on
    house.start()
    house.catch_up()
    house.stop()


def test_a_second_meter_on_the_same_folder_takes_another_one_and_beyond_four_none(tmp_path: Path) -> None:
    house = House(tmp_path, 50, FILES)
    read_up_to(house, 1_200)
    others = [TieredDedupe(tmp_path, 50, 2**30, limits=FILES, background=False) for _ in range(FOLDERS_A_PARTITION)]
    indexes = [one.open(PARTITION, house.lake.position(house.lake.end), house.ledger) for one in others]
    assert [type(index) for index in indexes] == [TieredIndex] * (FOLDERS_A_PARTITION - 1) + [DedupeIndex]
    keys = np.array([key for key, _ in house.lake.log[:50]], dtype=np.uint64)
    for index in indexes:
        assert not index.filter(keys, np.full(50, house.lake.log[-1][1], np.int32)).any()
    for one in others:
        one.close()
    house.stop()


def test_a_full_disk_leaves_runs_in_memory_until_there_is_room(tmp_path: Path) -> None:
    house = House(tmp_path, 50, FILES)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with patch.object(dedupe_files, "sync", full):
        read_up_to(house, 3_000)
    assert [path for path in house.files if path.suffix == ".run"] == []
    house.keep_up()
    assert [path for path in house.files if path.suffix == ".run"] != []
    read_up_to(house, 3_100)
    house.stop()


def test_upkeep_runs_beside_the_meter_and_ends_with_it(tmp_path: Path) -> None:
    house = House(tmp_path, 50, FILES)
    house.stop()
    house.store = TieredDedupe(tmp_path, 50, 2**30, limits=FILES)
    house.open()
    read_up_to(house, 20_000)
    house.stop()
    assert [path.suffix for path in house.files if path.suffix == ".run"]
    house.start()
    assert len(house.index) >= 20_000
    house.catch_up()
    house.stop()


def test_a_small_window_writes_nothing(tmp_path: Path) -> None:
    house = House(tmp_path, 50, TierLimits())
    read_up_to(house, 2_000)
    house.stop()
    assert house.files == []


def claimed(path: Path) -> Folder:
    folder = Folder.claim(path)
    assert folder is not None
    return folder


def all_of(folder: Folder, facts: RunFacts) -> Entries:
    run = folder.open_run(facts)
    return entries_of(run, 0, len(run.firsts))


def read_up_to(
    house: House, count: int, step: int = 400, hour: Callable[[int], int] = lambda n: 100 + n // 5_000
) -> None:
    """So many entries of the log in all, every key another's, each batch committed and kept up with."""
    for number in range(len(house.lake.log), count):
        house.append((number * 0x9E3779B97F4A7C15 % 2**64, number), hour(number))
    while house.read < count:
        rows = house.lake.log[house.read : house.read + step]
        keys = np.array([key for key, _ in rows], dtype=np.uint64)
        assert house.index.filter(keys, np.array([at for _, at in rows], dtype=np.int32)).all()
        house.read += len(rows)
        house.commit(house.read)
        house.keep_up()
