"""Refunds and shipments: what goes back, what is taken, what is refused; also with manual capture."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from chassis.errors import Fault, FaultKind
from orchestrator import leases
from sagacity.common.v1.money_pb2 import Money
from sagacity.orders.v1 import orders_pb2
from sagacity.sagas.v1 import sagas_pb2
from tests.integration.orchestrator.order_verbs_world import Replica, World, euro, opened_world
from tests.sagas.contexts import STOCK

pytestmark = pytest.mark.integration

DONE = sagas_pb2.REQUEST_PROGRESS_DONE
REFUSED = sagas_pb2.REQUEST_PROGRESS_REFUSED
PENDING = sagas_pb2.REQUEST_PROGRESS_PENDING
AWAY = Fault(FaultKind.UNAVAILABLE, "AWAY", "away")


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


async def sold(world: World, on: Replica | None = None) -> tuple[orders_pb2.Order, str]:
    """An order of two units, and its product."""
    sku = await world.contexts.product()
    placed = await world.place(sku, on=on)
    assert placed.progress == sagas_pb2.ORDER_PROGRESS_CONFIRMED, placed
    return placed.order, sku


def lines(sku: str, quantity: int) -> list[orders_pb2.RefundLine]:
    return [orders_pb2.RefundLine(sku=sku, quantity=quantity)]


async def test_lines_then_an_amount_then_the_rest_go_back_and_no_more(world: World) -> None:
    """P1: recorded refunds and the provider's agree after each."""
    order, sku = await sold(world)
    total = order.quote.total.minor_units
    by_line = await world.refund(order.id, lines=lines(sku, 1), restock=True)
    assert (by_line.progress, by_line.order.refund_state) == (DONE, orders_pb2.REFUND_STATE_PARTIAL)
    assert 0 < by_line.refunded.minor_units < total
    assert await world.stock(sku) == (STOCK - 1, 0)
    by_amount = await world.refund(order.id, amount=euro(100))
    assert by_amount.refunded == euro(100)
    assert await world.money(order.id) == (total - by_line.refunded.minor_units - 100, 0)
    rest = await world.refund(order.id, restock=True)
    assert (rest.progress, rest.order.refund_state) == (DONE, orders_pb2.REFUND_STATE_FULL)
    assert rest.order.refunded == order.quote.total
    assert [refund.id for refund in rest.order.refunds] == [
        by_line.refund_id,
        by_amount.refund_id,
        rest.refund_id,
    ]
    assert await world.money(order.id) == (0, 0)
    assert await world.stock(sku) == (STOCK, 0)
    more = await world.refund(order.id)
    assert (more.progress, more.refusal.reason) == (REFUSED, "REFUND_TOO_LARGE")


async def test_a_refund_without_restock_leaves_the_units_sold(world: World) -> None:
    order, sku = await sold(world)
    answer = await world.refund(order.id, lines=lines(sku, 2))
    assert (answer.progress, answer.refunded) == (DONE, order.quote.total)
    assert await world.stock(sku) == (STOCK - 2, 0)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ({"lines": lines("", 3)}, "REFUND_TOO_LARGE"),
        ({"amount": euro(10**9)}, "REFUND_TOO_LARGE"),
        ({"lines": lines("NOT-THERE", 1)}, "LINES_INVALID"),
        ({"amount": Money(currency_code="USD", minor_units=1)}, "CURRENCY_MISMATCH"),
    ],
)
async def test_more_than_the_order_has_is_refused_and_nothing_is_changed(
    world: World, what: dict[str, Any], reason: str
) -> None:
    order, sku = await sold(world)
    for line in what.get("lines", ()):
        line.sku = line.sku or sku
    answer = await world.refund(order.id, **what)
    assert (answer.progress, answer.refusal.reason, answer.refusal.step) == (REFUSED, reason, "quote")
    assert await world.money(order.id) == (order.quote.total.minor_units, 0)
    assert await world.stock(sku) == (STOCK - 2, 0)


@pytest.mark.parametrize(
    ("what", "field"),
    [
        ({"lines": lines("MUG", 1), "amount": euro(1)}, "amount"),
        ({"amount": euro(1), "restock": True}, "restock"),
        ({"amount": euro(0)}, "amount.minor_units"),
        ({"amount": euro(-5)}, "amount.minor_units"),
        ({"lines": lines("MUG", 1_000_000) * 2}, "lines"),
    ],
)
async def test_what_no_order_can_refund_is_never_accepted(
    world: World, what: dict[str, Any], field: str
) -> None:
    order, _ = await sold(world)
    with pytest.raises(Fault) as caught:
        await world.refund(order.id, **what)
    assert caught.value.kind is FaultKind.INVALID_ARGUMENT
    assert [problem.subject for problem in caught.value.fields] == [field]
    assert [saga["kind"] for saga in await world.sagas(order.id)] == ["place_order"]


async def test_one_key_is_one_refund_and_its_replay_is_the_same(world: World) -> None:
    """P2."""
    order, _ = await sold(world)
    first = await world.refund(order.id, key="one refund", amount=euro(100))
    assert await world.refund(order.id, key="one refund", amount=euro(100), wait=0) == first
    with pytest.raises(Fault) as caught:
        await world.refund(order.id, key="one refund", amount=euro(101))
    assert caught.value.reason == "IDEMPOTENCY_KEY_REUSED"
    assert (await world.money(order.id)).kept == order.quote.total.minor_units - 100


async def test_the_same_key_names_a_refund_a_shipment_and_a_cancellation_each(world: World) -> None:
    order, _ = await sold(world)
    await world.refund(order.id, key="shared", amount=euro(100))
    assert (await world.ship(order.id, key="shared")).progress == DONE
    assert (await world.cancel(order.id, key="shared")).progress == REFUSED


async def test_a_refund_whose_answers_get_lost_goes_back_once(world: World) -> None:
    """P1, F13."""
    order, _ = await sold(world)
    world.gate.faults["Refund"] = [AWAY]
    world.gate.faults["RecordRefund"] = [AWAY]
    answer = await world.refund(order.id, amount=euro(100))
    assert (answer.progress, len(answer.order.refunds)) == (DONE, 1)
    assert (await world.money(order.id)).kept == order.quote.total.minor_units - 100


async def test_a_shipped_order_is_refunded_but_neither_cancelled_nor_shipped_again(world: World) -> None:
    order, sku = await sold(world)
    shipped = await world.ship(order.id)
    assert (shipped.progress, shipped.order.shipment.carrier) == (DONE, "DHL")
    for answer in (await world.cancel(order.id), await world.ship(order.id)):
        assert (answer.progress, answer.refusal.reason) == (REFUSED, "ORDER_NOT_CONFIRMED")
    assert (await world.refund(order.id, lines=lines(sku, 1), restock=True)).progress == DONE


async def test_what_was_cancelled_gives_nothing_more_back(world: World) -> None:
    order, sku = await sold(world)
    part = await world.refund(order.id, lines=lines(sku, 1), restock=True)
    assert (await world.cancel(order.id)).progress == DONE
    assert await world.money(order.id) == (0, 0)
    assert await world.stock(sku) == (STOCK, 0)
    more = await world.refund(order.id)
    assert (more.progress, more.refusal.reason) == (REFUSED, "ORDER_NOT_REFUNDABLE")
    assert part.progress == DONE


async def test_with_manual_capture_the_money_is_held_until_the_order_is_shipped(world: World) -> None:
    order, _ = await sold(world, world.manual)
    total = order.quote.total.minor_units
    assert await world.money(order.id) == (0, total)
    early = await world.refund(order.id)
    assert (early.progress, early.refusal.reason) == (REFUSED, "PAYMENT_NOT_REFUNDABLE")
    world.gate.faults["Capture"] = [AWAY]
    assert (await world.ship(order.id)).progress == DONE
    assert await world.money(order.id) == (total, 0)
    assert (await world.refund(order.id)).progress == DONE
    assert await world.money(order.id) == (0, 0)


async def test_with_manual_capture_a_cancelled_order_lets_the_money_go(world: World) -> None:
    order, _ = await sold(world, world.manual)
    assert (await world.cancel(order.id)).progress == DONE
    assert await world.money(order.id) == (0, 0)


async def test_a_capture_that_the_provider_declines_leaves_the_order_as_it_was(world: World) -> None:
    card = await world.contexts.card("tok_capture_declined")
    placed = await world.place(await world.contexts.product(), on=world.manual, card=card)
    answer = await world.ship(placed.order_id)
    assert (answer.progress, answer.refusal.reason) == (REFUSED, "PAYMENT_NOT_CAPTURABLE")
    assert await world.order(placed.order_id) == ("CONFIRMED", "")
    assert (await world.cancel(placed.order_id)).progress == DONE


async def test_what_has_its_default_is_not_journaled_so_that_code_of_before_can_go_on(world: World) -> None:
    """P11, F23."""
    automatic, _ = await sold(world)
    manual, _ = await sold(world, world.manual)
    contexts = [(await world.sagas(order.id))[0]["context"] for order in (automatic, manual)]
    assert [context.get("capture") for context in contexts] == [None, "MANUAL"]
    assert "expected_total_minor" not in contexts[0]
