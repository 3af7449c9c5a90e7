"""What gates need of a budget; alerts of other kinds than thresholds, their ends, and what people do about them."""

import sqlalchemy as sa
from alembic import op

revision = "r0003"
down_revision = "r0002"
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    with op.batch_alter_table("budgets") as budgets:
        budgets.add_column(sa.Column("throttle_per_minute", sa.Integer, nullable=False, server_default="60"))
        budgets.add_column(sa.Column("when_stale", sa.Text, nullable=False, server_default="open"))
        budgets.add_column(sa.Column("stale_after_s", sa.Integer, nullable=False, server_default="60"))
    _widen_alerts()
    op.create_table(
        "silences",
        sa.Column("id", KEY, nullable=False),
        sa.Column("kind", sa.Text),
        sa.Column("subject", sa.Text),
        sa.Column("from_us", sa.BigInteger, nullable=False),
        sa.Column("until_us", sa.BigInteger, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_silences"),
    )


def _widen_alerts() -> None:
    with op.batch_alter_table("alerts") as alerts:
        alerts.add_column(sa.Column("subject", sa.Text, nullable=False, server_default=""))
        alerts.add_column(sa.Column("summary", sa.Text, nullable=False, server_default=""))
        alerts.add_column(sa.Column("resolves", KEY))
        alerts.add_column(sa.Column("channels", sa.JSON, nullable=False, server_default="{}"))
        alerts.add_column(sa.Column("acknowledged_us", sa.BigInteger))
        alerts.add_column(sa.Column("acknowledged_by", sa.Text))
        alerts.add_column(sa.Column("note", sa.Text))
        for name in ("budget_id", "threshold", "spent", "limit"):
            alerts.alter_column(name, existing_type=sa.Text, nullable=True)
        for name in ("window_start_us", "window_end_us"):
            alerts.alter_column(name, existing_type=sa.BigInteger, nullable=True)
        alerts.create_index("ix_alerts_resolves", ["resolves"])
    table = sa.table("alerts", *(sa.column(name) for name in ("budget_id", "threshold", "subject", "summary")))
    reached = sa.literal("budget ") + table.c.budget_id + " has reached " + table.c.threshold + " % of its limit"
    op.execute(sa.update(table).values(subject=table.c.budget_id, summary=reached))
