"""The checker of the invariants is examined itself: known damage is planted, and it must be found."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator

import psycopg
import pytest

from chassis.ids import new_id
from tests.e2e.books import select
from tests.e2e.invariants import broken_invariants, prove_everything
from tests.e2e.shoppers import Answer, Intent, Journal, Market, Request

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
        "UPDATE payment SET captured_minor = captured_minor - 1 WHERE state = 'CAPTURED'",
        "UPDATE payment SET captured_minor = captured_minor + 1 WHERE state = 'CAPTURED'",
        "I8",
    ),
    (
        "sagas",
        "UPDATE saga SET state = 'PARKED' WHERE state = 'COMPLETED' AND kind = 'place_order'",
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
    (
        "sagas",
        """UPDATE saga SET state = 'COMPENSATED', attempts = 99
           WHERE (kind, state) = ('cancel_order', 'COMPLETED')""",
        "UPDATE saga SET state = 'COMPLETED', attempts = 0 WHERE attempts = 99",
        "I5",
    ),
    (
        "sagas",
        """UPDATE saga SET state = 'COMPENSATED', attempts = 99
           WHERE (kind, state) = ('fulfil_order', 'COMPLETED')""",
        "UPDATE saga SET state = 'COMPLETED', attempts = 0 WHERE attempts = 99",
        "I5",
    ),
    (
        "sagas",
        """UPDATE saga SET state = 'COMPENSATED', attempts = 99
           WHERE (kind, state) = ('refund_order', 'COMPLETED')""",
        "UPDATE saga SET state = 'COMPLETED', attempts = 0 WHERE attempts = 99",
        "I5",
    ),
    # Of a cancelled order: some of the money, or of the stock, did not come back.
    (
        "payments",
        "UPDATE provider_simulation.operation SET amount_minor = amount_minor - 1 WHERE kind = 'REFUND'",
        "UPDATE provider_simulation.operation SET amount_minor = amount_minor + 1 WHERE kind = 'REFUND'",
        "I7",
    ),
    (
        "inventory",
        """UPDATE reservation SET state = 'COMMITTED', update_time = update_time + interval '100 years'
           WHERE state = 'RELEASED'""",
        """UPDATE reservation SET state = 'RELEASED', update_time = update_time - interval '100 years'
           WHERE update_time > now() + interval '50 years'""",
        "I7",
    ),
    # A refund that was made and is not on record as it was, or the other way round.
    (
        "payments",
        "UPDATE refund SET amount_minor = amount_minor + 1",
        "UPDATE refund SET amount_minor = amount_minor - 1",
        "I6",
    ),
    (
        "orders",
        "UPDATE order_refund SET amount_minor = amount_minor + 1",
        "UPDATE order_refund SET amount_minor = amount_minor - 1",
        "I8",
    ),
    (
        "payments",
        "UPDATE refund SET state = 'PENDING' WHERE state = 'DONE'",
        "UPDATE refund SET state = 'DONE' WHERE state = 'PENDING'",
        "I24",
    ),
    (
        "orders",
        "UPDATE order_refund SET sequence = sequence + 50",
        "UPDATE order_refund SET sequence = sequence - 50",
        "I19",
    ),
    # What a customer has who is deactivated.
    (
        "orders",
        "UPDATE customer SET deactivate_time = '2026-01-01' WHERE deactivate_time IS NULL",
        "UPDATE customer SET deactivate_time = NULL WHERE deactivate_time = '2026-01-01'",
        "I28",
    ),
    # Units that came back without a refund of them, or that came back twice.
    (
        "orders",
        "UPDATE order_refund SET reason = reason || '|' || lines, lines = '[]' WHERE lines <> '[]'",
        """UPDATE order_refund
           SET lines = split_part(reason, '|', 2)::jsonb, reason = split_part(reason, '|', 1)
           WHERE reason LIKE '%|%'""",
        "I6",
    ),
    (
        "inventory",
        "UPDATE stock_movement SET delta = delta + 1 WHERE reason LIKE 'came back%'",
        "UPDATE stock_movement SET delta = delta - 1 WHERE reason LIKE 'came back%'",
        "I13",
    ),
]
IDS = [f"{invariant}-{database}-{number}" for number, (database, _, _, invariant) in enumerate(PLANTED)]


@pytest.fixture(scope="module")
async def proven(market: Market) -> AsyncIterator[Market]:
    """A market with orders that ended in every way, in which all is well before and after."""
    sku = await market.product(stock=5)
    orders = [("tok_success", 2, 201), ("tok_success", 9, 409), ("tok_declined", 1, 402)]
    for token, quantity, status in orders:
        shopper = await market.shopper(token)
        assert (await shopper.insist({sku: quantity}, key=str(new_id()))).status == status
    await sell_and_go_on(market)
    await prove_everything(market.suite, market.journal)
    yield market
    await prove_everything(market.suite, market.journal)


async def sell_and_go_on(market: Market) -> None:
    """Orders that are cancelled, shipped, refunded in part, and refunded with all units back."""
    (shopper, clerk), sku = (await market.shopper(), await market.clerk()), await market.product(stock=20)
    orders = [str((await shopper.insist({sku: 2}, key=str(new_id()))).order_id) for _ in range(4)]
    one = [{"sku": sku, "quantity": 1}]
    answers = [
        await shopper.cancel(orders[0]),
        await clerk.ship(orders[1]),
        await clerk.refund(orders[2], lines=one, restock=True),
        await clerk.refund(orders[3], restock=True),
    ]
    assert [answer.status for answer in answers] == [200] * 4
    assert (await shopper.cancel(orders[1])).status == 409


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


async def test_a_shipped_order_whose_money_is_only_held_is_found(proven: Market) -> None:
    """I6: what may be so for a confirmed order."""
    shipped = lie_about(proven, "FulfilOrder", 200, 202).order_id
    (payment,) = await select(
        proven.suite.dsn("payments"), "SELECT id FROM payment WHERE order_id = %(id)s", id=shipped
    )
    nobody, move = str(new_id()), "UPDATE provider_simulation.operation SET payment_id = %s"
    taken = f"{move} WHERE kind = 'CAPTURE' AND payment_id = %s"
    await change(proven, "payments", taken, nobody, payment)
    try:
        found = await broken_invariants(proven.suite, proven.journal)
    finally:
        await change(proven, "payments", taken, payment, nobody)
    (subject,) = [broken.subject for broken in found if broken.invariant == "I6"]
    assert subject.startswith(f"order {shipped}: ")
    assert " 0 charged" in subject


async def change(market: Market, database: str, statement: str, *params: str) -> None:
    dsn = market.suite.dsn(database)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        done = await connection.execute(statement, params or None)
    assert done.rowcount > 0, f"{statement} changed nothing"


def told(status: int, body: dict[str, str]) -> list[Answer]:
    return [Answer(status, json.dumps(body).encode())]


async def broken_for(market: Market, *more: Intent | Request, fewer: int = 0) -> set[str]:
    journal = Journal(
        [*market.journal.intents[fewer:], *(item for item in more if isinstance(item, Intent))],
        market.journal.users,
        [*market.journal.requests, *(item for item in more if isinstance(item, Request))],
    )
    return {broken.invariant for broken in await broken_invariants(market.suite, journal)}


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


def lie_about(market: Market, rpc: str, said: int, status: int, **body: object) -> Request:
    """Another answer to a request of this kind that was answered with `said`."""
    known = next(
        request
        for request in reversed(market.journal.requests)
        if request.rpc == rpc and request.answers[-1].status == said
    )
    answer = Answer(status, json.dumps({"refunds": [], **body}).encode())
    return dataclasses.replace(known, answers=[answer])


async def test_a_request_that_was_acknowledged_and_is_not_there_is_found(proven: Market) -> None:
    """I1."""
    known = lie_about(proven, "FulfilOrder", 200, 202)
    assert await broken_for(proven, dataclasses.replace(known, key=str(new_id()))) == {"I1"}


async def test_a_key_that_was_taken_for_another_order_is_found(proven: Market) -> None:
    """I2."""
    shipped, other = lie_about(proven, "FulfilOrder", 200, 202), lie_about(proven, "RefundOrder", 200, 202)
    assert await broken_for(proven, dataclasses.replace(shipped, order_id=other.order_id)) == {"I2"}


async def test_a_cancellation_that_was_told_and_did_not_happen_is_found(proven: Market) -> None:
    """P5: 200 for an order that was shipped; and the other way round, 409 for one that was cancelled."""
    shipped = lie_about(proven, "CancelOrder", 409, 200)
    assert await broken_for(proven, shipped) == {"P5"}
    cancelled = lie_about(proven, "CancelOrder", 200, 409, order_id=str(new_id()))
    assert await broken_for(proven, cancelled) == {"P5"}


async def test_a_refund_that_was_told_and_is_not_on_record_is_found(proven: Market) -> None:
    """I1."""
    lost = lie_about(proven, "RefundOrder", 200, 200, refunds=[{"id": str(new_id())}])
    assert await broken_for(proven, lost) == {"I1"}
