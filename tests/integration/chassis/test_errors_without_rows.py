"""A row that PostgreSQL refuses is quoted by its errors; no log and no dead letter of ours quotes it."""

import json
from typing import Any

import pytest
from psycopg import errors
from structlog.processors import format_exc_info
from structlog.testing import capture_logs

from chassis import dead_letters
from chassis.cloud_events import ReceivedEvent
from chassis.grpc_gate import Gate
from chassis.identity import Verifier, new_key_pair
from chassis.postgres import Database, Transaction, statement
from tests.integration.chassis.consuming import DDL, LETTERS, PATIENCE_SECONDS, letters, until
from tests.integration.chassis.test_dead_letters import ASKED, inbox_of, name_of, parked

pytestmark = pytest.mark.integration

CANARY = "canary of a name"
TABLE = """
CREATE TABLE person (
    name text
        CONSTRAINT person_name CHECK (name = '')
        CONSTRAINT person_once UNIQUE DEFERRABLE INITIALLY DEFERRED
);
"""
ADD = statement("add_person", "INSERT INTO person (name) VALUES (%(name)s::text)")
CAST = statement("cast", "SELECT %(name)s::text::uuid AS name")


async def refused_row(tx: Transaction, _event: ReceivedEvent) -> None:
    await tx.fetch(ADD, {"name": CANARY})


def rendered(lines: list[Any]) -> str:
    """The lines as the processes write them, with their tracebacks."""
    return json.dumps([format_exc_info(None, "error", dict(line)) for line in lines], default=str)


async def violation(database: Database) -> errors.CheckViolation:
    with pytest.raises(errors.CheckViolation) as caught:
        await database.fetch(ADD, {"name": CANARY})
    assert CANARY in (caught.value.diag.message_detail or "")
    return caught.value


async def test_an_error_names_its_constraint_and_nothing_of_the_row(open_database: Any) -> None:
    error = await violation(await open_database(TABLE))
    assert str(error) == (
        'new row for relation "person" violates check constraint "person_name"'
        " (SQLSTATE 23514, table person, constraint person_name)"
    )
    assert CANARY not in repr(error)


async def test_a_value_that_the_message_itself_quotes_is_not_quoted(open_database: Any) -> None:
    database = await open_database()
    with pytest.raises(errors.InvalidTextRepresentation) as caught:
        await database.fetch(CAST, {"name": CANARY})
    assert CANARY in (caught.value.diag.message_primary or "")
    assert str(caught.value) == "a value cannot be (SQLSTATE 22P02)"


async def test_a_constraint_that_waits_for_the_commit_says_no_more(open_database: Any) -> None:
    database = await open_database(TABLE.replace("CONSTRAINT person_name CHECK (name = '')", ""))

    async def twice(tx: Transaction) -> None:
        for _ in range(2):
            await tx.fetch(ADD, {"name": CANARY})

    with pytest.raises(errors.UniqueViolation) as caught:
        await database.run(twice)
    assert CANARY in (caught.value.diag.message_detail or "")
    assert CANARY not in str(caught.value)


async def test_a_failed_rpc_is_logged_with_its_traceback_and_without_the_row(open_database: Any) -> None:
    error = await violation(await open_database(TABLE))
    outer = RuntimeError("the use case failed")
    outer.__cause__ = ExceptionGroup("several", [error])
    _, public = new_key_pair("tests")
    gate = Gate("tests", {}, Verifier({"keys": [public]}), lambda _error: None)
    with capture_logs() as lines:
        gate._fault(outer, "id")
    said = rendered(lines)
    assert "rpc_failed" in said
    assert "Traceback" in said
    assert "constraint person_name" in said
    assert CANARY not in said


async def test_a_replay_that_fails_says_why_without_the_row(open_database: Any) -> None:
    database = await open_database(DDL + TABLE)
    await parked(database, "a", 1)
    found = await dead_letters.replay_first(database, inbox_of(database, refused_row), name_of("a"), ASKED)
    assert found is not None
    assert found.error.startswith("CheckViolation('new row for relation")
    (letter,) = await database.fetch(LETTERS, {})
    assert CANARY not in found.error + letter["error"]


@pytest.mark.kafka
async def test_an_event_is_parked_with_an_error_without_the_row(
    open_database: Any, new_consumer: Any, send: Any, running: Any
) -> None:
    database = await open_database(DDL + TABLE)
    consumer = new_consumer(database, refused_row)
    with capture_logs() as lines:
        await send(("a", 1))
        async with running(consumer):
            await until_parked(database)
            assert await consumer.drain(PATIENCE_SECONDS)
    (letter,) = await database.fetch(LETTERS, {})
    assert "constraint person_name" in letter["error"]
    assert CANARY not in letter["error"]
    said = rendered(lines)
    assert "event_parked" in said
    assert CANARY not in said


async def until_parked(database: Database) -> None:
    async def is_parked() -> bool:
        return await letters(database) == [("a", 1)]

    await until(is_parked)
