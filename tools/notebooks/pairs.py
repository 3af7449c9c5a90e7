"""Each notebook is a pair: a plain-text source, which people edit, and the .ipynb made from it, without outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import jupytext
import nbformat

FOLDER: Final = Path(__file__).resolve().parents[2] / "notebooks"
_CELL: Final = "\n# %%"


def sources() -> list[Path]:
    """The sources of all notebooks; what else is in the folder they import."""
    return sorted(file for file in FOLDER.glob("*.py") if _CELL in file.read_text(encoding="utf-8"))


def notebook_of(source: Path) -> str:
    """The text of the other half: the same source always makes the same bytes."""
    notebook = jupytext.read(source)
    for number, cell in enumerate(notebook.cells, start=1):
        cell["id"] = f"cell-{number}"
    return nbformat.writes(notebook, version=4) + "\n"


def write() -> list[Path]:
    """Makes every .ipynb anew."""
    made = [source.with_suffix(".ipynb") for source in sources()]
    for source, notebook in zip(sources(), made, strict=True):
        notebook.write_text(notebook_of(source), encoding="utf-8")
    return made
