"""DuckDB's extensions, which come as packages: nothing is fetched while the program runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import duckdb

from meterhouse.warehouse.lake_turns import LakeError


def extension_file(name: str) -> Path:
    """The file of a DuckDB extension, out of its package and for the DuckDB that is running."""
    spec = importlib.util.find_spec(f"duckdb_extension_{name}")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
        if path.exists():
            return path
    raise LakeError(
        f"no extension {name} for DuckDB {duckdb.__version__}: install"
        f" duckdb-extension-{name.replace('_', '-')}=={duckdb.__version__}"
    )
