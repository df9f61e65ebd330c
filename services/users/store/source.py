"""Where a statement runs."""

from collections.abc import Mapping
from typing import Any, Protocol

from chassis.postgres import Row, Statement


class CanFetch(Protocol):
    """A database, where a statement is a transaction of its own, or a transaction."""

    async def fetch(self, statement: Statement, params: Mapping[str, Any], /) -> list[Row]:
        """Runs one statement and returns its rows."""
        ...
