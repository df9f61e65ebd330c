"""The use cases of this context. Each opens its own transaction, or is one statement."""
