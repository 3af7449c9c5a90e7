"""What was done about rejects."""

import sqlalchemy as sa
from alembic import op

revision = "r0002"
down_revision = "r0001"
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "reject_resolutions",
        sa.Column("topic", KEY, nullable=False),
        sa.Column("partition", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("offset", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("index", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("note", sa.Text),
        sa.Column("sent", sa.LargeBinary),
        sa.PrimaryKeyConstraint("topic", "partition", "offset", "index", name="pk_reject_resolutions"),
    )
