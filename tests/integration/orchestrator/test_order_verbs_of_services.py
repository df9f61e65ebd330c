"""The orders context cancels what cannot be completed any more: in its own name, for no user."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from chassis.identity import Caller
from chassis.ids import new_id
from chassis.postgres import statement
from orchestrator import leases
from orchestrator.rpc import ORDER_SAGAS_POLICIES
from sagacity.sagas.v1 import sagas_pb2
from tests.integration.orchestrator.order_verbs_world import World, opened_world
from tests.sagas.contexts import STOCK

pytestmark = pytest.mark.integration

DONE = sagas_pb2.REQUEST_PROGRESS_DONE
REFUSED = sagas_pb2.REQUEST_PROGRESS_REFUSED
ORDERS = Caller("orders")
KEYS = statement(
    "keys_of_order",
    "SELECT caller, rpc FROM idempotency JOIN saga ON saga.id = saga_id WHERE saga.key = %(id)s::uuid",
)
CANCELS = statement(
    "cancels_of_order",
    "SELECT actor FROM saga_event JOIN saga ON saga.id = saga_id"
    " WHERE key = %(id)s::uuid AND op = 'cancel' AND outcome = 'requested'",
)


@pytest.fixture(scope="module")
async def opened(new_database: Callable[..., str]) -> AsyncIterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leases, "SWEEP_SECONDS", 0.02)
        async with opened_world(new_database) as world:
            yield world


@pytest.fixture
def world(opened: World) -> World:
    opened.gate.reset()
    return opened


async def test_a_confirmed_order_is_cancelled_under_a_key_of_the_service(world: World) -> None:
    sku = await world.contexts.product()
    order_id = (await world.place(sku)).order_id
    answer = await world.cancel(order_id, key="of-the-service", caller=ORDERS, reason="payment void")
    assert answer.progress == DONE
    assert answer == await world.cancel(order_id, key="of-the-service", caller=ORDERS, reason="payment void")
    assert await world.order(order_id) == ("CANCELLED", "")
    assert await world.money(order_id) == (0, 0)
    assert await world.stock(sku) == (STOCK, 0)
    keys = {(row["caller"], row["rpc"]) for row in await world.database.fetch(KEYS, {"id": order_id})}
    assert keys == {(str(world.contexts.user_id), "PlaceOrder"), ("orders", "CancelOrder")}


async def test_an_order_that_is_being_placed_is_undone_and_the_journal_names_the_service(
    world: World,
) -> None:
    sku = await world.contexts.product()
    world.gate.hold("Reserve")
    order_id = (await world.place(sku, wait=0)).order_id
    await world.gate.arrived["Reserve"].wait()
    waiting = await world.cancel(order_id, key="early", caller=ORDERS, wait=0)
    assert waiting.progress == sagas_pb2.REQUEST_PROGRESS_PENDING
    world.gate.let_go("Reserve")
    assert (await world.cancel(order_id, key="early", caller=ORDERS)).progress == DONE
    assert await world.order(order_id) == ("REJECTED", "CANCELLED")
    assert await world.stock(sku) == (STOCK, 0)
    assert {row["actor"] for row in await world.database.fetch(CANCELS, {"id": order_id})} == {"orders"}


async def test_an_order_of_a_customer_who_is_deactivated_before_the_pivot_is_undone(world: World) -> None:
    """P1, I7, I28: the pivot's own refusal is recorded, and turns the saga back."""
    sku = await world.contexts.product()
    world.gate.hold("ConfirmOrder")
    order_id = (await world.place(sku, key="late", wait=0)).order_id
    await world.gate.arrived["ConfirmOrder"].wait()
    assert (await world.money(order_id)).kept > 0
    deactivated = statement(
        "deactivation_of_a_test",
        "INSERT INTO customer (user_id, deactivate_time) VALUES (%(id)s, now())"
        " ON CONFLICT (user_id) DO UPDATE SET deactivate_time = now()",
    )
    active = statement("activation_of_a_test", "UPDATE customer SET deactivate_time = NULL")
    database = world.contexts.databases["orders"]
    await database.fetch(deactivated, {"id": world.contexts.user_id})
    try:
        world.gate.let_go("ConfirmOrder")
        placed = await world.place(sku, key="late")
    finally:
        await database.fetch(active, {})
    assert placed.progress == sagas_pb2.ORDER_PROGRESS_REJECTED
    assert (placed.refusal.step, placed.refusal.reason) == ("confirmation", "CUSTOMER_DEACTIVATED")
    assert await world.order(order_id) == ("REJECTED", "CUSTOMER_DEACTIVATED")
    assert await world.money(order_id) == (0, 0)
    assert await world.stock(sku) == (STOCK, 0)


async def test_keys_of_a_service_and_of_users_never_meet(world: World) -> None:
    order_id = (await world.place(await world.contexts.product())).order_id
    assert (await world.cancel(order_id, key="the-same")).progress == DONE
    late = await world.cancel(order_id, key="the-same", caller=ORDERS)
    assert (late.progress, late.refusal.reason) == (REFUSED, "ORDER_NOT_CONFIRMED")


def test_the_service_may_cancel_and_nothing_else_and_nobody_else_may_for_nobody() -> None:
    allowed = {rpc for rpc, policy in ORDER_SAGAS_POLICIES.items() if policy.permits(ORDERS)}
    assert allowed == {"CancelOrder"}
    cancel = ORDER_SAGAS_POLICIES["CancelOrder"]
    others = ("gateway", "users", "payments", "inventory", "orchestrator", "operator")
    assert not any(cancel.permits(Caller(name)) for name in others)
    assert cancel.permits(Caller("gateway", new_id(), "customer"))
