"""Control data, its versions, and the alerts outbox."""

import sqlalchemy as sa
from alembic import op

revision = "r0001"
down_revision = None
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    control = op.create_table(
        "control",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("strict_tenants", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_control"),
        sa.CheckConstraint("id = 1", name="ck_control_one_row"),
    )
    op.create_table(
        "control_versions",
        sa.Column("version", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("recorded_us", sa.BigInteger, nullable=False),
        sa.Column("actor", sa.Text),
        sa.Column("changes", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("version", name="pk_control_versions"),
    )
    op.create_table(
        "tenants",
        sa.Column("id", KEY, nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("org", sa.JSON, nullable=False),
        sa.Column("cost_center", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_tenants"),
    )
    op.create_table(
        "rate_cards",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("tenant", KEY),
        sa.Column("valid_from_us", sa.BigInteger, nullable=False),
        sa.Column("valid_to_us", sa.BigInteger),
        sa.Column("pico_per_token", sa.JSON, nullable=False),
        sa.Column("approved_by", sa.Text),
        sa.Column("recorded_version", sa.Integer, nullable=False),
        sa.Column("replaced_version", sa.Integer),
        sa.PrimaryKeyConstraint("id", name="pk_rate_cards"),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.id"], name="fk_rate_cards_tenant"),
        sa.CheckConstraint("valid_to_us > valid_from_us", name="ck_rate_cards_validity"),
    )
    _create_budgets_and_objectives()
    _create_alerts()
    op.bulk_insert(control, [{"id": 1, "version": 0, "currency": "USD", "strict_tenants": True}])


def _scope() -> list[sa.Column[str | None]]:
    return [sa.Column(part, sa.Text) for part in ("tenant", "org_unit", "application", "model")]


def _create_budgets_and_objectives() -> None:
    op.create_table(
        "budgets",
        sa.Column("id", KEY, nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        *_scope(),
        sa.Column("every", sa.Text, nullable=False),
        sa.Column("time_zone", sa.Text, nullable=False),
        sa.Column("limit_pico", sa.Text),
        sa.Column("limit_tokens", sa.BigInteger),
        sa.Column("thresholds", sa.JSON, nullable=False),
        sa.Column("on_exceeded", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_budgets"),
        sa.CheckConstraint("(limit_pico IS NULL) <> (limit_tokens IS NULL)", name="ck_budgets_one_limit"),
    )
    op.create_table(
        "objectives",
        sa.Column("id", KEY, nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        *_scope(),
        sa.Column("sli", sa.Text, nullable=False),
        sa.Column("below_ms", sa.Integer),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("window_days", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_objectives"),
    )


def _create_alerts() -> None:
    op.create_table(
        "alerts",
        sa.Column("id", KEY, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("budget_id", sa.Text, nullable=False),
        sa.Column("window_start_us", sa.BigInteger, nullable=False),
        sa.Column("window_end_us", sa.BigInteger, nullable=False),
        sa.Column("threshold", sa.Text, nullable=False),
        sa.Column("spent", sa.Text, nullable=False),
        sa.Column("limit", sa.Text, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("payload", sa.JSON, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_attempt_us", sa.BigInteger),
        sa.Column("delivered_us", sa.BigInteger),
        sa.Column("delivered_by", sa.Text),
        sa.Column("last_error", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_alerts"),
    )
    op.create_index("ix_alerts_created_us", "alerts", ["created_us"])
    op.create_index("ix_alerts_next_attempt_us", "alerts", ["next_attempt_us"])
