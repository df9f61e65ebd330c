"""The statements of this context by name. They take a transaction or a database, and never commit."""
