"""The checker of the invariants is examined itself: known damage is planted, and it must be found."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import psycopg
import pytest

from chassis.ids import new_id
from tests.e2e.invariants import broken_invariants, prove_everything
from tests.e2e.shoppers import Answer, Intent, Journal, Market

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

# What is wrong in one place, and put right again: database, the damage, its repair, who must notice.
PLANTED = [
    (
        "inventory",
        "UPDATE stock SET reserved = reserved + 1 WHERE on_hand > reserved",
        "UPDATE stock SET reserved = reserved - 1 WHERE reserved > 0",
        "I12",
    ),
    ("inventory", "UPDATE stock SET on_hand = on_hand + 1", "UPDATE stock SET on_hand = on_hand - 1", "I13"),
    (
        "inventory",
        "UPDATE reservation SET state = 'EXPIRED' WHERE state = 'COMMITTED'",
        "UPDATE reservation SET state = 'COMMITTED' WHERE state = 'EXPIRED'",
        "I6",
    ),
    (
        "inventory",
        "UPDATE reservation SET state = 'HELD' WHERE state = 'RELEASED'",
        "UPDATE reservation SET state = 'RELEASED' WHERE state = 'HELD'",
        "I7",
    ),
    (
        "payments",
        """INSERT INTO provider_simulation.operation
           SELECT operation_key || ' again', payment_id, kind, amount_minor, currency_code, effective_time
           FROM provider_simulation.operation WHERE kind = 'CAPTURE'""",
        "DELETE FROM provider_simulation.operation WHERE operation_key LIKE '% again'",
        "I10",
    ),
    (
        "payments",
        "UPDATE provider_simulation.operation SET amount_minor = amount_minor + 1",
        "UPDATE provider_simulation.operation SET amount_minor = amount_minor - 1",
        "I9",
    ),
    (
        "sagas",
        "UPDATE saga SET state = 'COMPLETED', attempts = 99 WHERE state = 'COMPENSATED'",
        "UPDATE saga SET state = 'COMPENSATED', attempts = 0 WHERE attempts = 99",
        "I5",
    ),
    ("sagas", "UPDATE saga SET seq = seq + 1", "UPDATE saga SET seq = seq - 1", "I17"),
    (
        "sagas",
        "UPDATE idempotency SET key = key || ' unknown'",
        "UPDATE idempotency SET key = replace(key, ' unknown', '')",
        "I3",
    ),
    (
        "orders",
        "UPDATE order_history SET sequence = sequence + 7 WHERE sequence = 2",
        "UPDATE order_history SET sequence = sequence - 7 WHERE sequence = 9",
        "I20",
    ),
    (
        "users",
        "UPDATE customer_statistics SET orders_placed = orders_placed + 1",
        "UPDATE customer_statistics SET orders_placed = orders_placed - 1",
        "I23",
    ),
    (
        "inventory",
        "UPDATE reservation_line SET quantity = quantity + 1",
        "UPDATE reservation_line SET quantity = quantity - 1",
        "I14",
    ),
    (
        "inventory",
        "UPDATE barrier SET outcome = 'TOMBSTONE' WHERE step = 'reservation' AND outcome = 'DONE'",
        "UPDATE barrier SET outcome = 'DONE' WHERE outcome = 'TOMBSTONE'",
        "I16",
    ),
    (
        "payments",
        "UPDATE payment SET refunded_minor = 1 WHERE captured_minor > 0",
        "UPDATE payment SET refunded_minor = 0 WHERE captured_minor > 0",
        "I8",
    ),
    (
        "sagas",
        "UPDATE saga SET state = 'PARKED' WHERE state = 'COMPLETED'",
        "UPDATE saga SET state = 'COMPLETED' WHERE state = 'PARKED'",
        "I4",
    ),
    (
        "sagas",
        """UPDATE saga_event SET seq = seq + 100 WHERE op = 'do' AND step = 'reservation' AND outcome = 'done'
           AND saga_id IN (SELECT id FROM saga WHERE state = 'COMPENSATED')""",
        "UPDATE saga_event SET seq = seq - 100 WHERE seq > 100",
        "I18",
    ),
    (
        "sagas",
        "UPDATE idempotency SET answer = NULL",
        "UPDATE idempotency SET answer = '' WHERE answer IS NULL",
        "I24",
    ),
]
IDS = [f"{invariant}-{database}" for database, _, _, invariant in PLANTED]


@pytest.fixture(scope="module")
async def proven(market: Market) -> AsyncIterator[Market]:
    """A market with a confirmed, a short and a declined order, in which all is well before and after."""
    sku = await market.product(stock=5)
    orders = [("tok_success", 2, 201), ("tok_success", 9, 409), ("tok_declined", 1, 402)]
    for token, quantity, status in orders:
        shopper = await market.shopper(token)
        assert (await shopper.insist({sku: quantity}, key=str(new_id()))).status == status
    await prove_everything(market.suite, market.journal)
    yield market
    await prove_everything(market.suite, market.journal)


@pytest.mark.parametrize(("database", "damage", "repair", "invariant"), PLANTED, ids=IDS)
async def test_what_is_planted_is_found(
    proven: Market, database: str, damage: str, repair: str, invariant: str
) -> None:
    """How proofs are built, 5."""
    await change(proven, database, damage)
    try:
        found = {broken.invariant for broken in await broken_invariants(proven.suite, proven.journal)}
    finally:
        await change(proven, database, repair)
    assert invariant in found
    assert await broken_invariants(proven.suite, proven.journal) == []


async def change(market: Market, database: str, statement: str) -> None:
    dsn = market.suite.dsn(database)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        done = await connection.execute(statement)
    assert done.rowcount > 0, f"{statement} changed nothing"


def told(status: int, body: dict[str, str]) -> list[Answer]:
    return [Answer(status, json.dumps(body).encode())]


async def broken_for(market: Market, *more: Intent, fewer: int = 0) -> set[str]:
    intents = [*market.journal.intents[fewer:], *more]
    return {
        broken.invariant
        for broken in await broken_invariants(market.suite, Journal(intents, market.journal.users))
    }


async def test_an_acknowledged_order_that_is_not_there_is_found(proven: Market) -> None:
    """I1: accepted or confirmed towards the client, and lost."""
    (user_id, *_) = proven.journal.users
    for status, name in ((202, "order_id"), (201, "id")):
        lost = Intent(user_id, str(new_id()), {}, told(status, {name: str(new_id())}))
        assert await broken_for(proven, lost) >= {"I1", "I2"}


async def test_a_client_that_was_told_of_two_orders_is_found(proven: Market) -> None:
    """I2."""
    known = proven.journal.intents[0]
    twice = Intent(known.user_id, known.key, known.body, told(201, {"id": str(new_id())}))
    assert "I2" in await broken_for(proven, twice)


async def test_an_order_that_nobody_asked_for_is_found(proven: Market) -> None:
    """I3."""
    assert await broken_for(proven, fewer=1) == {"I3"}


async def test_a_false_success_is_found(proven: Market) -> None:
    """P5: 201 for an order that is rejected."""
    refused = next(intent for intent in proven.journal.intents if intent.answers[-1].status == 402)
    order_id = str(refused.answers[-1].order_id)
    lie = Intent(refused.user_id, refused.key, refused.body, told(201, {"id": order_id}))
    assert await broken_for(proven, lie) == {"P5"}
