"""Sagas that meet at an order that was sold: the order's lock decides, and nobody decides on old rows."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from chassis.errors import Fault
from sagacity.orders.v1 import orders_pb2 as pb

pytestmark = pytest.mark.integration

AT_ONCE = 16
ROUNDS = 15
TOTAL = 3_320


async def sold(world: Any) -> Any:
    """Return another saga about an order that is sold."""
    saga = world.saga()
    await saga.sold()
    return saga.another()


def reasons(answers: list[pb.Order | Fault]) -> Counter[tuple[str, bool]]:
    return Counter((answer.reason, answer.recorded) for answer in answers if isinstance(answer, Fault))


def won(answers: list[pb.Order | Fault]) -> list[pb.Order]:
    return [answer for answer in answers if not isinstance(answer, Fault)]


async def test_of_sixteen_sagas_that_cancel_at_once_exactly_one_does(world: Any) -> None:
    for _ in range(3):
        saga = await sold(world)
        answers = await asyncio.gather(*(world.outcome(saga.another().cancel()) for _ in range(AT_ONCE)))
        assert won(answers) == [await saga.read()]
        assert reasons(answers) == {("ORDER_NOT_CONFIRMED", True): AT_ONCE - 1}
        assert len(await saga.events()) == len(await saga.history()) == 3


async def test_of_sixteen_sagas_that_ship_at_once_exactly_one_does(world: Any) -> None:
    saga = await sold(world)
    answers = await asyncio.gather(*(world.outcome(saga.another().ship()) for _ in range(AT_ONCE)))
    assert won(answers) == [await saga.read()]
    assert reasons(answers) == {("ORDER_NOT_CONFIRMED", False): AT_ONCE - 1}


@pytest.mark.parametrize("method", ["cancel", "ship", "refund"])
async def test_of_sixteen_equal_calls_at_once_one_has_an_effect_and_all_get_its_answer(
    world: Any, method: str
) -> None:
    saga = await sold(world)
    amount = (1_000,) if method == "refund" else ()
    answers = await asyncio.gather(*(getattr(saga, method)(*amount) for _ in range(AT_ONCE)))
    assert all(answer == answers[0] for answer in answers)
    assert answers[0] == await saga.read()
    assert len(await saga.events()) == 3


async def test_of_cancel_and_ship_at_once_exactly_one_wins(world: Any) -> None:
    for _ in range(ROUNDS):
        saga = await sold(world)
        cancelled, shipped = await asyncio.gather(
            world.outcome(saga.cancel()), world.outcome(saga.another().ship())
        )
        order = await saga.read()
        winner, loser = (
            (cancelled, shipped) if order.state == pb.ORDER_STATE_CANCELLED else (shipped, cancelled)
        )
        assert winner == order
        assert isinstance(loser, Fault)
        assert (loser.reason, loser.recorded) == ("ORDER_NOT_CONFIRMED", loser is cancelled)
        assert len(await saga.events()) == len(await saga.history()) == 3


@pytest.mark.parametrize("first", ["cancel", "ship"])
async def test_the_first_of_cancel_and_ship_in_the_queue_of_the_order_wins(world: Any, first: str) -> None:
    saga = await sold(world)
    calls = [saga.cancel(), saga.another().ship()]
    winner, loser = await world.queued(saga.lock, *(calls if first == "cancel" else reversed(calls)))
    assert winner == await saga.read()
    # The second was decided on what the first had written, though its statement began before.
    assert isinstance(loser, Fault)
    assert loser.reason == "ORDER_NOT_CONFIRMED"
    assert ("CANCELLED" if first == "cancel" else "SHIPPED") in loser.message


async def test_refunds_that_wait_for_each_other_see_those_before_them(world: Any) -> None:
    saga = await sold(world)
    bulb = pb.RefundLine(sku="BULB", quantity=1)
    answers = await world.queued(saga.lock, *(saga.another().refund(1, bulb) for _ in range(5)))
    # Three were sold. Refunds are rows of their own: who waits for the order must read them afterwards.
    assert sorted(len(order.refunds) for order in won(answers)) == [1, 2, 3]
    assert reasons(answers) == {("REFUND_TOO_LARGE", False): 2}


async def test_of_sixteen_refunds_at_once_as_many_are_recorded_as_there_is_money_for(world: Any) -> None:
    saga = await sold(world)
    answers = await asyncio.gather(
        *(world.outcome(saga.another().refund(TOTAL // 10)) for _ in range(AT_ONCE))
    )
    assert sorted(order.refunded.minor_units for order in won(answers)) == [
        TOTAL // 10 * count for count in range(1, 11)
    ]
    assert reasons(answers) == {("REFUND_TOO_LARGE", False): AT_ONCE - 10}
    order = await saga.read()
    assert order.refund_state == pb.REFUND_STATE_FULL
    assert len(order.refunds) == 10


async def test_a_refund_that_meets_a_cancel_is_recorded_before_it_or_not_at_all(world: Any) -> None:
    for _ in range(ROUNDS):
        saga = await sold(world)
        cancelled, recorded = await asyncio.gather(saga.cancel(), world.outcome(saga.another().refund(100)))
        order = await saga.read()
        assert cancelled == order
        if isinstance(recorded, Fault):
            assert (recorded.reason, recorded.recorded) == ("ORDER_NOT_REFUNDABLE", False)
            assert list(order.refunds) == []
        else:
            assert order.refunds == recorded.refunds
        assert len(await saga.events()) == (3 if isinstance(recorded, Fault) else 4)


async def test_one_refund_id_of_two_orders_at_once_is_recorded_once(world: Any) -> None:
    for _ in range(ROUNDS):
        one, other = await sold(world), await sold(world)
        refund_id = str(one.refund_id)
        answers = await asyncio.gather(
            *(world.outcome(saga.refund(1, refund_id=refund_id)) for saga in (one, other))
        )
        assert len(won(answers)) == 1
        assert reasons(answers) == {("REFUND_EXISTS", False): 1}
