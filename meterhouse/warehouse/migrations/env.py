"""Run by Alembic: applies the steps on the connection, and in the transaction, of `database.open_database`."""

from alembic import context

from meterhouse.warehouse.control_tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,  # SQLite alters a table by making it anew
)
with context.begin_transaction():
    context.run_migrations()
