"""The Alembic environment of every context: runs on the connection that chassis.migrations hands in."""

from alembic import context

with context.config.attributes["connection"] as connection:
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
