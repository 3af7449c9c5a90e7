"""Traces to test with: the real ones where they are, otherwise made-up ones of the same format."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

SHARED = Path(__file__).parents[3] / "shared" / "traces"
FILES = {"azure-llm": "azure_llm_2023_conv.csv", "mooncake": "mooncake_conversation.jsonl"}


@dataclass(frozen=True)
class Trace:
    path: Path
    format: str
    real: bool


def write_azure(path: Path, rows: int, seed: int) -> None:
    """Like the Azure trace: arrivals in seven digits of a second, heavy-tailed prompts, short answers."""
    rng, moment = random.Random(seed), datetime(2023, 11, 16, 18, 15, 46, tzinfo=UTC)
    ticks = 6_805_900  # of 100 ns
    lines = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    for _ in range(rows):
        stamp = moment + timedelta(seconds=ticks // 10_000_000)
        context, generated = int(rng.lognormvariate(6.5, 1.1)) + 1, int(rng.lognormvariate(4.6, 0.9)) + 1
        lines.append(f"{stamp:%Y-%m-%d %H:%M:%S}.{ticks % 10_000_000:07d},{context},{generated}")
        ticks += int(rng.expovariate(1 / 5_800_000))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_mooncake(path: Path, rows: int, seed: int) -> None:
    """Like the Mooncake trace: milliseconds, block ids of 512 tokens whose leading run is shared by conversations."""
    rng, time_ms, fresh = random.Random(seed), 0, 0
    conversations: list[list[int]] = []
    lines = []
    for _ in range(rows):
        blocks = list(rng.choice(conversations)) if conversations and rng.random() < 0.6 else []
        more = rng.randint(1, 12)
        blocks += range(fresh, fresh + more)
        fresh += more
        conversations.append(blocks)
        length = 512 * len(blocks) - rng.randint(0, 511)
        row = {"timestamp": time_ms, "input_length": length, "output_length": rng.randint(1, 900), "hash_ids": blocks}
        lines.append(json.dumps(row))
        time_ms += rng.randint(0, 1_170)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


WRITERS = {"azure-llm": write_azure, "mooncake": write_mooncake}


def trace(trace_format: str, folder: Path) -> Trace:
    """The real trace where it is; otherwise a made-up one of 6,000 rows over an hour in `folder`."""
    real = SHARED / FILES[trace_format]
    if real.is_file():
        return Trace(real, trace_format, real=True)
    made = folder / f"made_up_{FILES[trace_format]}"
    WRITERS[trace_format](made, 6_000, seed=11)
    return Trace(made, trace_format, real=False)


def which() -> str:
    """A line for the report header: which traces these tests run on."""
    absent = [name for name in FILES.values() if not (SHARED / name).is_file()]
    if not absent:
        return f"traces: the real ones, from {SHARED.parent.name}/{SHARED.name}"
    return f"traces: {', '.join(absent)} not found in ../shared/traces; made-up ones of the same format stand in"
