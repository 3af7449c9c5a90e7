"""Tables of the control database, as the newest migration leaves them."""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator

METADATA: Final = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

KEY: Final = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
"""Text that is compared and sorted by code point on both databases."""


class WholeText(TypeDecorator[int]):
    """An integer of any size, kept as its digits: SQLite's end at 2^63, and limits in pico-units do not."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Any) -> str | None:
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: Any) -> int | None:
        return None if value is None else int(value)


CONTROL: Final = sa.Table(
    "control",  # one row: what `apply` compares and sets
    METADATA,
    sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1", name="one_row"), primary_key=True, autoincrement=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("currency", sa.Text, nullable=False),
    sa.Column("strict_tenants", sa.Boolean, nullable=False),
)

CONTROL_VERSIONS: Final = sa.Table(
    "control_versions",
    METADATA,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("recorded_us", sa.BigInteger, nullable=False),
    sa.Column("actor", sa.Text),
    sa.Column("changes", sa.JSON, nullable=False),  # the diff: a list of Change.as_json
)

TENANTS: Final = sa.Table(
    "tenants",
    METADATA,
    sa.Column("id", KEY, primary_key=True),
    sa.Column("place", sa.Integer, nullable=False),  # in the snapshot's order
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("org", sa.JSON, nullable=False),
    sa.Column("cost_center", sa.Text),
)

RATE_CARDS: Final = sa.Table(
    "rate_cards",  # rows stay for ever: a charge names the card that priced it
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("place", sa.Integer, nullable=False),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("tenant", KEY, sa.ForeignKey("tenants.id")),
    sa.Column("valid_from_us", sa.BigInteger, nullable=False),
    sa.Column("valid_to_us", sa.BigInteger),
    sa.Column("pico_per_token", sa.JSON, nullable=False),  # token kind → pico-units
    sa.Column("approved_by", sa.Text),
    sa.Column("recorded_version", sa.Integer, nullable=False),
    sa.Column("replaced_version", sa.Integer),  # the version that put another card in its place before it was in force
    sa.CheckConstraint("valid_to_us > valid_from_us", name="validity"),
)

_SCOPE: Final = ("tenant", "org_unit", "application", "model")

BUDGETS: Final = sa.Table(
    "budgets",
    METADATA,
    sa.Column("id", KEY, primary_key=True),
    sa.Column("place", sa.Integer, nullable=False),
    *(sa.Column(part, sa.Text) for part in _SCOPE),
    sa.Column("every", sa.Text, nullable=False),
    sa.Column("time_zone", sa.Text, nullable=False),
    sa.Column("limit_pico", WholeText),
    sa.Column("limit_tokens", sa.BigInteger),
    sa.Column("thresholds", sa.JSON, nullable=False),  # percents as texts
    sa.Column("on_exceeded", sa.Text, nullable=False),
    sa.Column("throttle_per_minute", sa.Integer, nullable=False),
    sa.Column("when_stale", sa.Text, nullable=False),
    sa.Column("stale_after_s", sa.Integer, nullable=False),
    sa.CheckConstraint("(limit_pico IS NULL) <> (limit_tokens IS NULL)", name="one_limit"),
)

OBJECTIVES: Final = sa.Table(
    "objectives",
    METADATA,
    sa.Column("id", KEY, primary_key=True),
    sa.Column("place", sa.Integer, nullable=False),
    *(sa.Column(part, sa.Text) for part in _SCOPE),
    sa.Column("sli", sa.Text, nullable=False),
    sa.Column("below_ms", sa.Integer),
    sa.Column("target", sa.Text, nullable=False),  # an exact decimal
    sa.Column("window_days", sa.Integer, nullable=False),
)

ALERTS: Final = sa.Table(
    "alerts",  # `streams.alerts` says what the columns mean
    METADATA,
    sa.Column("id", KEY, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("summary", sa.Text, nullable=False),
    sa.Column("resolves", KEY, index=True),
    sa.Column("budget_id", sa.Text),
    sa.Column("window_start_us", sa.BigInteger),
    sa.Column("window_end_us", sa.BigInteger),
    sa.Column("threshold", sa.Text),
    sa.Column("spent", sa.Text),
    sa.Column("limit", sa.Text),
    sa.Column("created_us", sa.BigInteger, nullable=False, index=True),
    sa.Column("payload", sa.JSON, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_attempt_us", sa.BigInteger, index=True),
    sa.Column("delivered_us", sa.BigInteger),
    sa.Column("delivered_by", sa.Text),
    sa.Column("last_error", sa.Text),
    sa.Column("channels", sa.JSON, nullable=False),  # name → `Delivery`, of those that were tried
    sa.Column("acknowledged_us", sa.BigInteger),
    sa.Column("acknowledged_by", sa.Text),
    sa.Column("note", sa.Text),
)

SILENCES: Final = sa.Table(
    "silences",  # `streams.silences` says what the columns mean
    METADATA,
    sa.Column("id", KEY, primary_key=True),
    sa.Column("kind", sa.Text),
    sa.Column("subject", sa.Text),
    sa.Column("from_us", sa.BigInteger, nullable=False),
    sa.Column("until_us", sa.BigInteger, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False),
)

REJECT_RESOLUTIONS: Final = sa.Table(
    "reject_resolutions",  # `reject_resolutions` says what the columns mean
    METADATA,
    sa.Column("topic", KEY, primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("offset", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("index", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("note", sa.Text),
    sa.Column("sent", sa.LargeBinary),
)

API_KEYS: Final = sa.Table(
    "api_keys",
    METADATA,
    sa.Column("id", KEY, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("grants", sa.JSON),  # a list of [tenant, application]; null: no tenants of its own
    sa.Column("secret_hash", sa.LargeBinary, nullable=False),  # SHA-256 of 32 random bytes: nothing to guess
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("expires_us", sa.BigInteger),
    sa.Column("revoked_us", sa.BigInteger),
    sa.Column("replaces", KEY),
    sa.Column("last_used_us", sa.BigInteger),
)

AUDIT_LOG: Final = sa.Table(
    "audit_log",  # `audit` says what the columns mean
    METADATA,
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at_us", sa.BigInteger, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),  # JSON, as it was hashed
    sa.Column("hash", sa.LargeBinary, nullable=False),
    sa.Index(None, "actor", "seq"),
)

AUDIT_HEAD: Final = sa.Table(
    "audit_head",  # one row: the newest entry
    METADATA,
    sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1", name="one_row"), primary_key=True, autoincrement=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
)

TENANT_PLACES: Final = sa.Table(
    "tenant_places",  # where each tenant stood in the organisation, and who paid for it, from a time on
    METADATA,
    sa.Column("tenant", KEY, primary_key=True),
    sa.Column("from_us", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("org", sa.JSON, nullable=False),
    sa.Column("cost_center", sa.Text),
    sa.Column("recorded_version", sa.Integer, nullable=False),
)

EVENT_TYPES: Final = sa.Table(
    "event_types",  # foreign event types, and where in their data a usage event's fields are
    METADATA,
    sa.Column("id", KEY, primary_key=True),  # the type
    sa.Column("place", sa.Integer, nullable=False),
    sa.Column("sources", sa.JSON, nullable=False),  # field → paths and constants, in order
)

IDEMPOTENCY_KEYS: Final = sa.Table(
    "idempotency_keys",  # what was answered to a write, so that it can be answered again
    METADATA,
    sa.Column("caller", KEY, primary_key=True),
    sa.Column("key", KEY, primary_key=True),
    sa.Column("digest", sa.LargeBinary, nullable=False),  # of what was asked
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("body", sa.LargeBinary),  # null: it held a secret
    sa.Column("at_us", sa.BigInteger, nullable=False, index=True),
)

LISTINGS: Final = sa.Table(
    "listings",  # reports that are read page by page: `listings` says what the columns mean
    METADATA,
    sa.Column("id", KEY, primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("bound", sa.Text, nullable=False),
    sa.Column("lake_snapshot", sa.BigInteger, nullable=False),
    sa.Column("control_version", sa.Integer),
    sa.Column("freshness", sa.JSON, nullable=False),
    sa.Column("key", sa.LargeBinary, nullable=False),
    sa.Column("until_us", sa.BigInteger, nullable=False, index=True),
)

QUALITY_RUNS: Final = sa.Table(
    "quality_runs",  # what suites of data quality came to: `quality.results` says what the columns mean
    METADATA,
    sa.Column("suite", KEY, primary_key=True),
    sa.Column("at_us", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("passed", sa.Boolean, nullable=False),
    sa.Column("lake_snapshot", sa.BigInteger, nullable=False),
    sa.Column("watermark_us", sa.BigInteger),
    sa.Column("control_version", sa.Integer, nullable=False),
    sa.Column("checks", sa.JSON, nullable=False),
)

ERASURES: Final = sa.Table(
    "erasures",  # `erasures` says what the columns mean
    METADATA,
    sa.Column("tenant", KEY, primary_key=True),
    sa.Column("digest", KEY, primary_key=True),
    sa.Column("begun_us", sa.BigInteger, nullable=False),
    sa.Column("done_us", sa.BigInteger),
    sa.Column("by", sa.Text, nullable=False),
)

ERASURE_KEY: Final = sa.Table(
    "erasure_key",  # one row: what digests are made with
    METADATA,
    sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1", name="one_row"), primary_key=True, autoincrement=False),
    sa.Column("key", sa.LargeBinary, nullable=False),
)
