"""Who may use the API, what was done through it, where tenants stood when, and foreign event types."""

import sqlalchemy as sa
from alembic import op

revision = "r0004"
down_revision = "r0003"
branch_labels = None
depends_on = None

KEY = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", KEY, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("grants", sa.JSON),
        sa.Column("secret_hash", sa.LargeBinary, nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
        sa.Column("expires_us", sa.BigInteger),
        sa.Column("revoked_us", sa.BigInteger),
        sa.Column("replaces", KEY),
        sa.Column("last_used_us", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
    )
    _audit()
    _places()
    op.create_table(
        "event_types",
        sa.Column("type", KEY, nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("fields", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("type", name="pk_event_types"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("caller", KEY, nullable=False),
        sa.Column("key", KEY, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("body", sa.LargeBinary),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("caller", "key", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_at_us", "idempotency_keys", ["at_us"])
    _listings()


def _listings() -> None:
    op.create_table(
        "listings",
        sa.Column("id", KEY, nullable=False),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("bound", sa.Text, nullable=False),
        sa.Column("lake_snapshot", sa.BigInteger, nullable=False),
        sa.Column("control_version", sa.Integer),
        sa.Column("freshness", sa.JSON, nullable=False),
        sa.Column("key", sa.LargeBinary, nullable=False),
        sa.Column("until_us", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_listings"),
    )
    op.create_index("ix_listings_until_us", "listings", ["until_us"])


def _audit() -> None:
    op.create_table(
        "audit_log",
        sa.Column("seq", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("at_us", sa.BigInteger, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_audit_log"),
    )
    head = op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.CheckConstraint("id = 1", name="ck_audit_head_one_row"),
        sa.PrimaryKeyConstraint("id", name="pk_audit_head"),
    )
    op.bulk_insert(head, [{"id": 1, "seq": 0, "hash": bytes(32)}])


def _places() -> None:
    op.create_table(
        "tenant_places",
        sa.Column("tenant", KEY, nullable=False),
        sa.Column("from_us", sa.BigInteger, nullable=False),
        sa.Column("org", sa.JSON, nullable=False),
        sa.Column("cost_center", sa.Text),
        sa.Column("recorded_version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "from_us", name="pk_tenant_places"),
    )
    op.execute(
        "INSERT INTO tenant_places (tenant, from_us, org, cost_center, recorded_version)"
        " SELECT tenants.id, 0, org, cost_center, control.version FROM tenants CROSS JOIN control"
    )
