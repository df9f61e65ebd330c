from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
import pytest

from chassis.errors import Fault
from chassis.ids import new_id
from services.payments.app import queries
from services.payments.domain import Payment, PaymentNotFoundError

if TYPE_CHECKING:
    from uuid import UUID

    from tests.integration.payments.conftest import World

pytestmark = pytest.mark.integration


async def pages(world: World, *, size: int, order_id: UUID | None, user_id: UUID | None) -> list[Payment]:
    found: list[Payment] = []
    token = ""
    while True:
        page, token = await queries.list_payments(
            world.app, order_id=order_id, user_id=user_id, page_size=size, page_token=token
        )
        assert len(page) <= size
        found += page
        if not token:
            return found


async def charged(world: World, count: int) -> list[Payment]:
    first = await world.step()
    made = [await first.charge()]
    for _ in range(count - 1):
        step = await world.step()
        step.order = replace(
            step.order, user_id=first.order.user_id, payment_method_id=first.order.payment_method_id
        )
        made.append(await step.charge())
    return made


async def test_a_payment_is_read_by_its_payer_and_by_staff_and_by_nobody_else(world: World) -> None:
    (payment,) = await charged(world, 1)
    assert await queries.get_payment(world.app, payment.id, payer=payment.user_id) == payment
    assert await queries.get_payment(world.app, payment.id, payer=None) == payment
    with pytest.raises(PaymentNotFoundError):
        await queries.get_payment(world.app, payment.id, payer=new_id())
    with pytest.raises(PaymentNotFoundError):
        await queries.get_payment(world.app, new_id(), payer=None)


async def test_pages_hold_every_payment_once_newest_first(world: World) -> None:
    made = await charged(world, 5)
    other = await charged(world, 1)
    user_id = made[0].user_id
    for size in (1, 2, 5, 200):
        assert await pages(world, size=size, order_id=None, user_id=user_id) == made[::-1]
    assert await pages(world, size=2, order_id=made[1].order_id, user_id=None) == [made[1]]
    assert await pages(world, size=2, order_id=made[1].order_id, user_id=new_id()) == []
    assert other[0] in await pages(world, size=3, order_id=None, user_id=None)


async def test_a_page_token_is_good_for_its_own_filter_alone(world: World) -> None:
    made = await charged(world, 2)
    _, token = await queries.list_payments(
        world.app, order_id=None, user_id=made[0].user_id, page_size=1, page_token=""
    )
    for bad, user_id in ((token, new_id()), (token, None), ("garbage", made[0].user_id)):
        with pytest.raises(Fault) as refusal:
            await queries.list_payments(
                world.app, order_id=None, user_id=user_id, page_size=1, page_token=bad
            )
        assert refusal.value.kind == "INVALID_ARGUMENT"


async def test_the_ledger_is_listed_oldest_first_and_cannot_be_changed(world: World) -> None:
    step = await world.step()
    await step.charge()
    await step.reverse()
    entries = await queries.list_ledger_entries(world.app, step.order.payment_id)
    assert [entry.kind for entry in entries] == ["AUTHORIZATION", "CAPTURE", "REFUND"]
    with pytest.raises(PaymentNotFoundError):
        await queries.list_ledger_entries(world.app, new_id())
    for sql in ("UPDATE ledger_entry SET amount_minor = 0", "DELETE FROM ledger_entry"):
        with pytest.raises(psycopg.errors.RaiseException):
            await world.rows(sql)
