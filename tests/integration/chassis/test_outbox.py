from typing import Any

import pytest
from psycopg import errors

from chassis.outbox import BUCKETS, OUTBOX_DDL, bucket_of

pytestmark = pytest.mark.integration


async def test_an_event_is_written_with_its_bucket_and_sequence(
    open_database: Any, publish: Any, rows: Any
) -> None:
    database = await open_database(OUTBOX_DDL)
    await publish(database, "order-1", 3)
    found = await rows(database, "SELECT aggregatetype, aggregateid, sequence, bucket, payload FROM outbox")
    assert found == [
        {
            "aggregatetype": "order",
            "aggregateid": "order-1",
            "sequence": 3,
            "bucket": bucket_of("order-1"),
            "payload": b"payload",
        }
    ]


async def test_positions_follow_the_order_of_writing(open_database: Any, publish: Any, rows: Any) -> None:
    database = await open_database(OUTBOX_DDL)
    for sequence in range(1, 6):
        await publish(database, "order-1", sequence)
    found = await rows(database, "SELECT sequence FROM outbox ORDER BY position")
    assert [row["sequence"] for row in found] == [1, 2, 3, 4, 5]


async def test_an_event_of_a_transaction_that_rolls_back_is_not_there(
    open_database: Any, publish: Any, rows: Any
) -> None:
    """I21."""
    database = await open_database(OUTBOX_DDL)
    with pytest.raises(errors.CheckViolation):
        await publish(database, "order-1", 0)
    assert await rows(database, "SELECT 1 AS n FROM outbox") == []


async def test_every_bucket_is_used_and_none_beyond() -> None:
    assert {bucket_of(f"order-{number}") for number in range(1000)} == set(range(BUCKETS))
    assert bucket_of("order-1") == bucket_of("order-1")
