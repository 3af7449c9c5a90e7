"""What the suites of data quality came to."""

import sqlalchemy as sa
from alembic import op

revision = "r0005"
down_revision = "r0004"
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "quality_runs",
        sa.Column("suite", KEY, nullable=False),
        sa.Column("at_us", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("passed", sa.Boolean, nullable=False),
        sa.Column("lake_snapshot", sa.BigInteger, nullable=False),
        sa.Column("watermark_us", sa.BigInteger),
        sa.Column("control_version", sa.Integer, nullable=False),
        sa.Column("checks", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("suite", "at_us", name="pk_quality_runs"),
    )
