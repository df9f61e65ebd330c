from typing import Any

import pytest
from psycopg import errors

from chassis import barrier
from chassis.barrier import SagaCall
from chassis.errors import Fault, FaultKind
from chassis.ids import new_id
from chassis.postgres import Database
from tests.integration.chassis.barrier_steps import (
    DDL,
    START,
    do,
    other_request,
    start,
)

pytestmark = pytest.mark.integration


@pytest.fixture
async def database(open_database: Any) -> Database:
    opened: Database = await open_database(DDL)
    return opened


@pytest.fixture
def call() -> SagaCall:
    return SagaCall(new_id(), "reservation", b"hash")


# One-statement use cases.


async def test_a_one_statement_duplicate_is_told_from_other_violations(
    database: Database, call: SagaCall
) -> None:
    await start(database, call)
    with pytest.raises(errors.UniqueViolation) as raised:
        await start(database, call)
    assert barrier.is_duplicate(raised.value)
    assert not barrier.is_duplicate(errors.UniqueViolation())
    assert not barrier.is_duplicate(KeyError())


async def test_a_settled_duplicate_gets_the_stored_reply_or_refusal(
    database: Database, call: SagaCall
) -> None:
    await do(database, call)
    assert await barrier.settle_duplicate(database, call) == {"made": 1}
    with pytest.raises(Fault, match="REQUEST_CHANGED"):
        await barrier.settle_duplicate(database, other_request(call))


async def test_a_duplicate_that_is_not_settled_yet_is_asked_to_come_again(
    database: Database, call: SagaCall
) -> None:
    with pytest.raises(Fault) as raised:
        await barrier.settle_duplicate(database, call)
    assert raised.value.kind is FaultKind.ABORTED
    await start(database, call)
    with pytest.raises(Fault, match="STEP_IN_PROGRESS"):
        await barrier.settle_duplicate(database, call)


async def test_the_read_within_a_transaction_sees_its_own_writes(database: Database, call: SagaCall) -> None:
    async with database.transaction() as tx:
        key = {"saga_id": call.saga_id, "step": call.step, "request_hash": b"hash"}
        await tx.fetch(START, key)
        stored = await barrier.read(tx, call)
    assert stored == barrier.Stored("IN_PROGRESS", b"hash", None, None)
