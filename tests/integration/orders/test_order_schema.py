"""What the database itself refuses, and that it agrees with the domain."""

from __future__ import annotations

import re
from typing import Any

import pytest
from psycopg.errors import CheckViolation, IntegrityError

from chassis.ids import new_id
from services.orders.domain import INITIAL_STATE, TRANSITIONS, OrderState, RefundState

pytestmark = pytest.mark.integration


async def constraint(world: Any, name: str) -> str:
    sql = "SELECT pg_get_constraintdef(oid) AS text FROM pg_constraint WHERE conname = %(name)s"
    return str((await world.rows(sql, name=name))[0]["text"])


async def test_the_transitions_of_the_database_are_those_of_the_domain(world: Any) -> None:
    mirrored = set(re.findall(r"'([A-Z]*>[A-Z]+)'", await constraint(world, "order_history_transition")))
    table = {f"{state}>{wanted}" for state, following in TRANSITIONS.items() for wanted in following}
    assert mirrored == table | {f">{INITIAL_STATE}"}


@pytest.mark.parametrize(
    ("name", "known"), [("orders_state_check", OrderState), ("orders_refund_state_check", RefundState)]
)
async def test_the_states_of_the_database_are_those_of_the_domain(world: Any, name: str, known: Any) -> None:
    assert set(re.findall(r"'([A-Z]+)'", await constraint(world, name))) == set(known)


@pytest.mark.parametrize("state", list(OrderState))
async def test_no_state_can_be_entered_twice_in_the_history(world: Any, state: OrderState) -> None:
    sql = """
        INSERT INTO order_history (order_id, sequence, previous_state, state, at)
        VALUES (%(id)s, 2, %(state)s, %(state)s, now())
    """
    with pytest.raises(CheckViolation):
        await world.rows(sql, id=new_id(), state=state)


@pytest.mark.parametrize(
    "change",
    [
        "state = 'CONFIRMED'",
        "state = 'REJECTED'",
        "rejection_reason = 'WHY', rejection_message = ''",
        "total_minor = 1",
        "items = '[]'",
        "state = 'LOST'",
        "state = 'CANCELLED', cancellation_reason = 'Why'",
        "cancellation_reason = 'Why'",
        "carrier = 'DHL', tracking_number = ''",
        "refunded_minor = 1",
        "refunded_minor = 1, refund_state = 'PARTIAL'",
        "refund_state = 'FULL'",
    ],
)
async def test_an_order_that_contradicts_itself_cannot_be_stored(world: Any, change: str) -> None:
    saga = world.saga()
    await saga.create()
    with pytest.raises(CheckViolation):
        await world.rows(f"UPDATE orders SET {change} WHERE id = %(id)s", id=saga.order_id)  # noqa: S608


async def test_a_sale_whose_total_does_not_add_up_cannot_be_stored(world: Any) -> None:
    saga = world.saga()
    await saga.create()
    await saga.confirm()
    with pytest.raises(CheckViolation):
        await world.rows("UPDATE orders SET tax_minor = tax_minor + 1 WHERE id = %(id)s", id=saga.order_id)


@pytest.mark.parametrize(
    "change",
    [
        "state = 'CANCELLED'",
        "state = 'CANCELLED', cancellation_reason = ''",
        "state = 'CANCELLED', cancellation_reason = repeat('x', 501)",
        "cancellation_reason = 'Why'",
        "state = 'SHIPPED'",
        "state = 'SHIPPED', carrier = 'DHL'",
        "state = 'SHIPPED', carrier = '', tracking_number = ''",
        "state = 'SHIPPED', carrier = repeat('x', 101), tracking_number = ''",
        "state = 'SHIPPED', carrier = 'DHL', tracking_number = repeat('x', 101)",
        "carrier = 'DHL', tracking_number = ''",
        "refunded_minor = -1, refund_state = 'PARTIAL'",
        "refunded_minor = 3321, refund_state = 'PARTIAL'",
        "refunded_minor = 3320, refund_state = 'PARTIAL'",
        "refunded_minor = 3319, refund_state = 'FULL'",
        "refunded_minor = 1",
        "refund_state = 'PARTIAL'",
        "refunded_minor = NULL",
    ],
)
async def test_an_order_that_was_sold_and_contradicts_itself_cannot_be_stored(
    world: Any, change: str
) -> None:
    saga = world.saga()
    await saga.sold()
    with pytest.raises(IntegrityError):
        await world.rows(f"UPDATE orders SET {change} WHERE id = %(id)s", id=saga.order_id)  # noqa: S608


@pytest.mark.parametrize(
    ("amount", "lines", "reason"), [(0, "[]", "x"), (-1, "[]", "x"), (1, "{}", "x"), (1, "[]", "")]
)
async def test_a_refund_that_gives_nothing_or_says_nothing_cannot_be_stored(
    world: Any, amount: int, lines: str, reason: str
) -> None:
    sql = """
        INSERT INTO order_refund (id, order_id, sequence, saga_id, amount_minor, lines, reason, create_time)
        VALUES (%(id)s, %(id)s, 3, %(id)s, %(amount)s, %(lines)s::jsonb, %(reason)s, now())
    """
    with pytest.raises(CheckViolation):
        await world.rows(sql, id=new_id(), amount=amount, lines=lines, reason=reason)
