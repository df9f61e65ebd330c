"""The invariants that one database can tell of by itself; operators have them, too."""

from deploy.recovery.queries import QUERIES

__all__ = ["QUERIES"]
