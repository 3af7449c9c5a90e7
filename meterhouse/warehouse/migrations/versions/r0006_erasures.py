"""Whose rows were erased, without saying who they are."""

import sqlalchemy as sa
from alembic import op

revision = "r0006"
down_revision = "r0005"
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "erasures",
        sa.Column("tenant", KEY, nullable=False),
        sa.Column("digest", KEY, nullable=False),
        sa.Column("begun_us", sa.BigInteger, nullable=False),
        sa.Column("done_us", sa.BigInteger),
        sa.Column("by", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "digest", name="pk_erasures"),
    )
    op.create_table(
        "erasure_key",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.CheckConstraint("id = 1", name="ck_erasure_key_one_row"),
        sa.PrimaryKeyConstraint("id", name="pk_erasure_key"),
    )
