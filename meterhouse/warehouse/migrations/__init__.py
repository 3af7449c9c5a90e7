"""The schema of the control database, step by step (Alembic).

A new step: a file under `versions` named after its revision, and `HEAD` set to it. `tests/warehouse/test_database.py`
holds the steps and `control_tables` to the same schema.
"""

from typing import Final

HEAD: Final = "r0006"
"""The newest revision. A database that has it is opened without loading Alembic."""
