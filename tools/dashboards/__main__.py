"""Writes Grafana's dashboards: figures from `boards`, lines from Prometheus's rules, the runbook from its page.

python -m tools.dashboards    writes ops/grafana/dashboards/*.json
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Final

import yaml

from tools.dashboards.boards import BOARDS
from tools.dashboards.panels import RUNBOOK, Ground, board_json, text_board

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / "ops" / "grafana" / "dashboards"


def dashboards() -> dict[str, str]:
    """By file name: the text of each."""
    groups = yaml.safe_load((ROOT / "ops" / "prometheus" / "rules.yml").read_text(encoding="utf-8"))["groups"]
    pages = runbook()
    slugs = {title.lower().replace(" ", "-"): number for number, (title, _) in enumerate(pages, start=1)}
    ground = Ground({rule["alert"]: rule for group in groups for rule in group["rules"]}, slugs)
    made = {board.uid: board_json(board, ground) for board in BOARDS}
    made[RUNBOOK] = text_board(RUNBOOK, "runbook", [(title, _linked(text, slugs)) for title, text in pages])
    return {
        f"{uid.removeprefix('meterhouse-')}.json": json.dumps(each, indent=1, ensure_ascii=False) + "\n"
        for uid, each in made.items()
    }


def runbook() -> list[tuple[str, str]]:
    """Titles and texts of its sections."""
    parts = re.split(r"^## (.+)$", (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return [(title, text.strip()) for title, text in zip(parts[::2], parts[1::2], strict=True)]


def _linked(text: str, slugs: dict[str, int]) -> str:
    """Links within the page lead to panels."""
    return re.sub(r"\]\(#([a-z-]+)\)", lambda link: f"](/d/{RUNBOOK}/?viewPanel={slugs[link[1]]})", text)


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in dashboards().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(f"{name} is written", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
