"""Databases with the tables of the chassis in them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import psycopg
import pytest

from chassis.postgres import Database, Row, statement

OpenDatabase = Callable[..., Awaitable[Database]]


@pytest.fixture
async def open_database(new_database: Any) -> AsyncIterator[OpenDatabase]:
    """Open pools on one fresh database; `await open_database(DDL)` makes tables, `max_size` bounds the pool."""
    async with AsyncExitStack() as stack:
        dsn = new_database()

        async def opened(ddl: str = "", *, max_size: int = 8, application_name: str = "tests") -> Database:
            if ddl:
                with psycopg.connect(dsn) as connection:
                    connection.execute(ddl.encode())
            database = await Database.open(dsn, application_name=application_name, max_size=max_size)
            stack.push_async_callback(database.close)
            return database

        yield opened


@pytest.fixture
def rows() -> Callable[..., Awaitable[list[Row]]]:
    """Run SQL text: `await rows(database, "SELECT ...", name=value)`."""

    async def run(database: Database, text: str, **params: Any) -> list[Row]:
        return await database.fetch(statement("test", text), params)

    return run
