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
        sa.Column("id", KEY, nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("sources", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_event_types"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("caller", KEY, nullable=False),
        sa.Column("key", KEY, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
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
    op.create_index("ix_audit_log_actor", "audit_log", ["actor", "seq"])
    head = op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.CheckConstraint("id = 1", name="ck_audit_head_one_row"),
        sa.PrimaryKeyConstraint("id", name="pk_audit_head"),
    )
    op.bulk_insert(head, [{"id": 1, "seq": 0, "hash": bytes(32)}])
    _guard_audit(op.get_bind().dialect.name)


NEXT = "NEW.seq <> (SELECT coalesce(max(seq), 0) + 1 FROM audit_log)"
ONE_ON = "NEW.id <> 1 OR NEW.seq <> OLD.seq + 1"
GUARDS = {
    "audit_log": (("INSERT", NEXT), ("UPDATE", None), ("DELETE", None)),
    "audit_head": (("INSERT", None), ("UPDATE", ONE_ON), ("DELETE", None)),
}
"""What is refused of each table, and where it only sometimes is: when. On SQLite `INSERT OR REPLACE` deletes a row
without asking the triggers of DELETE, so that inserting has one too. No trigger names another table: a batch of
Alembic's, which makes a table anew, would trip over it. A table that is made anew loses its triggers: make
them again."""


def _guard_audit(dialect: str) -> None:
    if dialect == "sqlite":
        for table, guards in GUARDS.items():
            for verb, when in guards:
                condition = "" if when is None else f" WHEN {when}"
                op.execute(
                    f"CREATE TRIGGER {table}_{verb.lower()} BEFORE {verb} ON {table}{condition}"
                    f" BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
                )
        return
    for table, guards in GUARDS.items():
        for verb, when in guards:
            name, row = f"{table}_{verb.lower()}", "OLD" if verb == "DELETE" else "NEW"
            op.execute(
                f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF {when or 'true'} THEN"
                f" RAISE EXCEPTION 'the audit log is append-only'; END IF; RETURN {row}; END $$"
            )
            op.execute(f"CREATE TRIGGER {name} BEFORE {verb} ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()")
        op.execute(f"CREATE TRIGGER {table}_truncate BEFORE TRUNCATE ON {table} EXECUTE FUNCTION {table}_delete()")


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
