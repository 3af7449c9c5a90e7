"""Kill what works at random moments, start it again, and the books are those of an undisturbed run.

METERHOUSE_EMBEDDED_KILLS says how often (default 15); METERHOUSE_KILL_SEED repeats a run. `make crash` does more.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.e2e.house import CONTROL, START, House
from tests.oracle import books
from tests.oracle.traces import trace

GROUPS = ("tenant", "application", "model")
PIECE_ROWS = 1_500
"""Rows published at a time: fifteen commits and more, so that a meter is still at work when it is hit."""
SETTINGS = {"METERHOUSE_COMMIT_EVENTS": "100", "METERHOUSE_POLL_RECORDS": "1", "METERHOUSE_MAINTAIN_EVERY_S": "1"}
WORK = ("work", "--until-idle")


@dataclass
class Publisher:
    """Publishes a trace piece by piece: each piece a file of its own, so that its events have ids of their own."""

    house: House
    lines: list[str]
    folder: Path
    pieces: list[Path] = field(default_factory=list)

    def next_piece(self) -> tuple[str, ...]:
        """Writes the next piece and returns the command that replays it."""
        header, rows = self.lines[0], self.lines[1:]
        first = len(self.pieces) * PIECE_ROWS % (len(rows) - PIECE_ROWS)
        piece = self.folder / f"piece-{len(self.pieces)}.csv"
        piece.write_text("\n".join([header, *rows[first : first + PIECE_ROWS]]) + "\n", encoding="utf-8")
        self.pieces.append(piece)
        return ("replay", str(piece), "--format", "azure-llm", "--start", START, "--batch", "50")

    def truth(self, control: books.Control) -> dict[str, object]:
        events = [
            event
            for piece in self.pieces
            for event in books.replayed(control, piece, "azure-llm", books.microseconds(START))
        ]
        return books.chargeback(control, books.charges(control, events), GROUPS)


def killed(process: subprocess.Popen[bytes], after_s: float) -> bool:
    """Waits so long and kills; False when the process was done before."""
    try:
        code = process.wait(timeout=after_s)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait(timeout=30)
    assert code in (0, -signal.SIGKILL), f"the process failed by itself with {code}"
    return code != 0


def took_s(run: Callable[[], object]) -> float:
    begin = time.monotonic()
    run()
    return time.monotonic() - begin


@pytest.mark.crash
@pytest.mark.timeout(3_600)
def test_the_books_survive_kills_at_random_moments(tmp_path: Path) -> None:
    kills = int(os.environ.get("METERHOUSE_EMBEDDED_KILLS", "15"))
    seed = int(os.environ.get("METERHOUSE_KILL_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
    print(f"\n{kills} kills, METERHOUSE_KILL_SEED={seed}")
    rng, house = random.Random(seed), House(tmp_path / "home")
    source = trace("azure-llm", tmp_path)
    publisher = Publisher(house, source.path.read_text(encoding="utf-8").splitlines(), tmp_path)
    house.run("apply", str(CONTROL))
    start_s = took_s(lambda: house.run(*WORK, settings=SETTINGS))  # nothing to do: what a start takes
    replay_s = took_s(lambda: house.run(*publisher.next_piece()))
    work_s = took_s(lambda: house.run(*WORK, settings=SETTINGS))
    hits = {"work": 0, "replay": 0}
    tries = 0
    while sum(hits.values()) < kills:
        tries += 1
        assert tries < 10 * kills, f"of {kills} kills only {hits} hit: the moments are drawn badly"
        command = publisher.next_piece()
        if rng.random() < 0.3:
            hits["replay"] += killed(house.start(*command), rng.uniform(0.5, 1.0) * replay_s)
        house.run(*command)  # whole, or once more: its ids tell which events are there already
        while sum(hits.values()) < kills and killed(
            house.start(*WORK, settings=SETTINGS), rng.uniform(0.6 * start_s, min(work_s, start_s + 2))
        ):
            hits["work"] += 1
    house.run(*WORK)
    print(f"killed {hits} over {len(publisher.pieces)} pieces of {PIECE_ROWS:,} rows")
    assert house.bill(GROUPS) == publisher.truth(books.read_control(CONTROL))
    house.ask("verify")
