"""The Alembic environment that all contexts share."""
