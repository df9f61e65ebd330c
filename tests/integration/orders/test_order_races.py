"""Calls about one order at the same moment: exactly one wins, and the others learn it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chassis.errors import Fault
from chassis.postgres import Transaction, statement
from sagacity.orders.v1 import orders_pb2 as pb

pytestmark = pytest.mark.integration

ROUNDS = 25
_CLAIM_STEP = statement(
    "claim_of_a_test",
    "INSERT INTO barrier (saga_id, step, outcome) VALUES (%(saga_id)s, 'order', 'IN_PROGRESS')",
)


async def test_of_confirm_and_reject_at_once_exactly_one_wins(world: Any) -> None:
    for _ in range(ROUNDS):
        saga = world.saga()
        await saga.create()
        confirmed, rejected = await asyncio.gather(
            world.outcome(saga.confirm()), world.outcome(saga.reject())
        )
        order = await saga.read()
        if order.state == pb.ORDER_STATE_CONFIRMED:
            assert confirmed == order
            assert isinstance(rejected, Fault)
            assert (rejected.reason, rejected.recorded) == ("ORDER_NOT_PENDING", False)
        else:
            assert rejected == order
            assert isinstance(confirmed, Fault)
            assert (confirmed.reason, confirmed.recorded) == ("ORDER_NOT_PENDING", True)
        assert len(await saga.events()) == len(await saga.history()) == 2


@pytest.mark.parametrize("first", ["confirm", "reject"])
async def test_the_first_of_confirm_and_reject_in_the_queue_of_the_order_wins(world: Any, first: str) -> None:
    saga = world.saga()
    await saga.create()

    calls = [saga.confirm(), saga.reject()] if first == "confirm" else [saga.reject(), saga.confirm()]
    winner, loser = await world.queued(saga.lock, *calls)
    assert winner == await saga.read()
    assert isinstance(winner, pb.Order)
    won = pb.ORDER_STATE_CONFIRMED if first == "confirm" else pb.ORDER_STATE_REJECTED
    assert winner.state == won
    # The second was decided on what the first had written, though its statement began before.
    assert isinstance(loser, Fault)
    assert loser.reason == "ORDER_NOT_PENDING"


@pytest.mark.parametrize("first", ["create", "reject"])
async def test_create_and_reject_in_the_queue_of_the_barrier_both_end(world: Any, first: str) -> None:
    saga = world.saga()

    async def hold(tx: Transaction) -> None:
        await tx.fetch(_CLAIM_STEP, {"saga_id": saga.saga_id})

    calls = [saga.create(), saga.reject()] if first == "create" else [saga.reject(), saga.create()]
    answers = await world.queued(hold, *calls)
    created, rejected = answers if first == "create" else reversed(answers)
    order = await saga.read()
    assert order.state == pb.ORDER_STATE_REJECTED
    assert rejected == order
    # Who comes first when the lock is given up is PostgreSQL's choice; either answer fits what is stored.
    if isinstance(created, Fault):
        assert created.reason == "TOMBSTONED"
    else:
        assert created.state == pb.ORDER_STATE_PENDING
    assert await saga.events() == [(1, "OrderPlaced"), (2, "OrderRejected")]


async def test_of_many_equal_calls_at_once_one_has_an_effect_and_all_get_its_answer(world: Any) -> None:
    for _ in range(5):
        saga = world.saga()
        for step in (saga.create, saga.confirm):
            answers = await asyncio.gather(*(step() for _ in range(8)))
            assert all(answer == answers[0] for answer in answers)
        assert await saga.history() == [(1, "PENDING"), (2, "CONFIRMED")]
        assert await saga.events() == [(1, "OrderPlaced"), (2, "OrderConfirmed")]


async def test_of_many_equal_rejects_at_once_one_has_an_effect_and_all_get_its_answer(world: Any) -> None:
    for landed in (True, False):
        saga = world.saga()
        if landed:
            await saga.create()
        answers = await asyncio.gather(*(saga.reject() for _ in range(8)))
        assert all(answer == answers[0] for answer in answers)
        assert await saga.events() == [(1, "OrderPlaced"), (2, "OrderRejected")]


async def test_of_two_sagas_that_create_one_order_at_once_exactly_one_has_it(world: Any) -> None:
    for _ in range(ROUNDS):
        one = world.saga()
        other = world.saga(order_id=one.order_id)
        answers = await asyncio.gather(world.outcome(one.create()), world.outcome(other.create()))
        refusals = [answer for answer in answers if isinstance(answer, Fault)]
        assert [(fault.reason, fault.recorded) for fault in refusals] == [("ORDER_EXISTS", True)]
        assert [answer for answer in answers if answer not in refusals] == [await one.read()]
        assert await one.events() == [(1, "OrderPlaced")]
