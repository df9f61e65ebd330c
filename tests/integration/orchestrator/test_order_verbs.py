"""Cancel, refund and fulfil an order: real contexts, a real journal, two orchestrators."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from chassis.errors import Fault, FaultKind
from chassis.identity import Caller
from chassis.ids import new_id
from chassis.postgres import statement
from orchestrator import leases
from sagacity.orders.v1 import orders_pb2
from sagacity.sagas.v1 import sagas_pb2
from tests.integration.orchestrator.order_verbs_world import World, euro, opened_world, staff
from tests.sagas.contexts import STOCK

pytestmark = pytest.mark.integration

DONE = sagas_pb2.REQUEST_PROGRESS_DONE
REFUSED = sagas_pb2.REQUEST_PROGRESS_REFUSED
PENDING = sagas_pb2.REQUEST_PROGRESS_PENDING
ROUNDS = 10
# A cancel that is sent when the call of one of these arrives meets place_order at every stage.
STAGES = ["CreateOrder", "Reserve", "QuoteOrder", "Charge", "CommitReservation", "ConfirmOrder"]
EVENTS_OF_CANCEL = statement(
    "events_of_cancel",
    """
    SELECT actor, reason FROM saga_event JOIN saga ON saga.id = saga_id
    WHERE key = %(id)s::uuid AND op = 'cancel' AND outcome = 'requested'
    """,
)
UNRECORDED = Fault(FaultKind.FAILED_PRECONDITION, "NO", "no", domain="sagacity.test")


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


async def confirmed(world: World, **how: Any) -> tuple[str, str]:
    """An order of two units that is sold and paid, and its product."""
    sku = await world.contexts.product()
    placed = await world.place(sku, **how)
    assert placed.progress == sagas_pb2.ORDER_PROGRESS_CONFIRMED, placed
    return placed.order_id, sku


async def pending(world: World, method: str, *, key: str = "") -> tuple[str, str]:
    """An order whose saga is held at the call of a method, and its product."""
    sku = await world.contexts.product()
    world.gate.hold(method)
    placed = await world.place(sku, key=key, wait=0)
    await world.gate.arrived[method].wait()
    return placed.order_id, sku


async def test_a_confirmed_order_that_is_cancelled_gives_back_money_and_stock(world: World) -> None:
    order_id, sku = await confirmed(world)
    assert (await world.money(order_id)).kept > 0
    answer = await world.cancel(order_id)
    assert (answer.progress, answer.order.state) == (DONE, orders_pb2.ORDER_STATE_CANCELLED)
    assert answer.order.cancellation_reason == "ordered twice"
    assert await world.money(order_id) == (0, 0)
    assert await world.stock(sku) == (STOCK, 0)


async def test_an_order_that_is_still_being_placed_is_undone_where_it_stands(world: World) -> None:
    order_id, sku = await pending(world, "Charge", key="undone where it stands")
    answer = await world.cancel(order_id)
    world.gate.let_go("Charge")
    assert (answer.progress, answer.order.state) == (DONE, orders_pb2.ORDER_STATE_REJECTED)
    rejection = answer.order.rejection
    assert (rejection.reason, rejection.message) == ("CANCELLED", "ordered twice")
    placed = await world.place(sku, key="undone where it stands")
    assert placed.progress == sagas_pb2.ORDER_PROGRESS_REJECTED
    assert await world.money(order_id) == (0, 0)
    assert await world.stock(sku) == (STOCK, 0)
    assert [saga["state"] for saga in await world.sagas(order_id)] == ["COMPENSATED", "COMPENSATED"]


async def test_who_cancels_a_pending_order_and_why_is_in_the_journal(world: World) -> None:
    order_id, _ = await pending(world, "Charge")
    await world.cancel(order_id)
    rows = await world.database.fetch(EVENTS_OF_CANCEL, {"id": order_id})
    assert [(row["actor"], row["reason"]) for row in rows] == [(str(world.contexts.user_id), "ordered twice")]


async def test_a_cancel_that_comes_after_the_pivots_intent_waits_and_cancels_what_was_confirmed(
    world: World,
) -> None:
    order_id, sku = await pending(world, "ConfirmOrder")
    answer = await world.cancel(order_id, key="after the pivot", wait=0)
    assert (answer.progress, answer.order_id) == (PENDING, order_id)
    assert not answer.HasField("order")
    world.gate.let_go("ConfirmOrder")
    end = await world.cancel(order_id, key="after the pivot")
    assert (end.progress, end.order.state) == (DONE, orders_pb2.ORDER_STATE_CANCELLED)
    assert end.saga_id == answer.saga_id
    assert await world.money(order_id) == (0, 0)
    assert await world.stock(sku) == (STOCK, 0)


async def test_a_cancel_races_the_pivot_and_exactly_one_of_them_wins(world: World) -> None:
    """Architecture, section 4: one row's lock decides; P1, P3."""
    won: Counter[str] = Counter()
    for stage in STAGES * ROUNDS:
        sku, key = await world.contexts.product(), world.key()
        world.gate.arrived[stage].clear()
        placing = asyncio.create_task(world.place(sku, key=key, wait=0))
        order_id = (await placing).order_id
        await world.gate.arrived[stage].wait()
        answer = await world.cancel(order_id)
        placed = await world.place(sku, key=key)
        assert answer.progress == DONE
        states = {saga["kind"]: saga["state"] for saga in await world.sagas(order_id)}
        state, reason = await world.order(order_id)
        won[state] += 1
        if state == "REJECTED":
            assert reason == "CANCELLED"
            assert placed.progress == sagas_pb2.ORDER_PROGRESS_REJECTED
            assert states == {"place_order": "COMPENSATED", "cancel_order": "COMPENSATED"}
        else:
            assert state == "CANCELLED"
            assert placed.progress == sagas_pb2.ORDER_PROGRESS_CONFIRMED
            assert states == {"place_order": "COMPLETED", "cancel_order": "COMPLETED"}
        assert await world.money(order_id) == (0, 0)
        assert await world.stock(sku) == (STOCK, 0)
    assert won["REJECTED"] >= ROUNDS
    assert won["CANCELLED"] >= 1


async def test_one_key_is_one_cancellation_whose_answer_stays_the_same(world: World) -> None:
    """P2: of an order that was undone before its pivot, too."""
    first, _ = await confirmed(world)
    second, _ = await pending(world, "Charge")
    for order_id in (first, second):
        answers = await asyncio.gather(*(world.cancel(order_id, key=order_id) for _ in range(20)))
        answers.append(await world.cancel(order_id, key=order_id, wait=0))
        assert len({answer.SerializeToString(deterministic=True) for answer in answers}) == 1
        assert answers[0].progress == DONE
        sagas = [saga["kind"] for saga in await world.sagas(order_id)]
        assert sagas == ["place_order", "cancel_order"]


async def test_a_key_that_comes_with_another_request_is_refused_whatever_became_of_the_first(
    world: World,
) -> None:
    """P2."""
    first, _ = await confirmed(world)
    second, _ = await pending(world, "Charge")
    for order_id in (first, second):
        await world.cancel(order_id, key=order_id)
        with pytest.raises(Fault) as caught:
            await world.cancel(order_id, key=order_id, reason="something else")
        assert caught.value.reason == "IDEMPOTENCY_KEY_REUSED"


async def test_another_key_for_an_order_that_a_cancel_undid_is_done_too(world: World) -> None:
    order_id, _ = await pending(world, "Charge")
    await world.cancel(order_id)
    again = await world.cancel(order_id, reason="to be sure")
    assert (again.progress, again.order.state) == (DONE, orders_pb2.ORDER_STATE_REJECTED)


async def test_what_is_cancelled_or_was_rejected_for_something_else_is_refused(world: World) -> None:
    cancelled, _ = await confirmed(world)
    await world.cancel(cancelled)
    declined = await world.place(
        await world.contexts.product(), card=await world.contexts.card("tok_declined")
    )
    for order_id in (cancelled, declined.order_id):
        answer = await world.cancel(order_id)
        assert (answer.progress, answer.refusal.reason) == (REFUSED, "ORDER_NOT_CONFIRMED")
        assert answer.refusal.step == "cancellation"


async def test_somebody_elses_order_is_not_found_at_any_stage_and_nothing_is_journaled(world: World) -> None:
    """P12."""
    placed, _ = await pending(world, "Charge")
    sold, _ = await confirmed_beside(world)
    stranger = Caller("gateway", new_id(), "customer")
    for order_id in (placed, sold, str(new_id())):
        before = len(await world.sagas(order_id))
        with pytest.raises(Fault) as caught:
            await world.cancel(order_id, caller=stranger)
        assert (caught.value.kind, caught.value.reason) == (FaultKind.NOT_FOUND, "ORDER_NOT_FOUND")
        assert len(await world.sagas(order_id)) == before
    assert await world.order(sold) == ("CONFIRMED", "")


async def confirmed_beside(world: World) -> tuple[str, str]:
    world.gate.let_go("Charge")
    return await confirmed(world)


async def test_staff_cancels_anybodys_order(world: World) -> None:
    sold, _ = await confirmed(world)
    placed, _ = await pending(world, "Charge")
    for order_id in (placed, sold):
        world.gate.reset()
        assert (await world.cancel(order_id, caller=staff())).progress == DONE


async def test_what_staff_asks_of_an_order_that_is_not_there_is_not_found(world: World) -> None:
    nowhere = str(new_id())
    for ask in (world.cancel(nowhere, caller=staff()), world.refund(nowhere), world.ship(nowhere)):
        with pytest.raises(Fault) as caught:
            await ask
        assert (caught.value.kind, caught.value.reason) == (FaultKind.NOT_FOUND, "ORDER_NOT_FOUND")


async def test_replays_are_answered_when_too_many_sagas_are_in_flight(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_id, _ = await confirmed(world)
    done = await world.cancel(order_id, key="under load")
    monkeypatch.setattr("orchestrator.executor.MAX_IN_FLIGHT", 0)
    with pytest.raises(Fault) as caught:
        await world.cancel(order_id)
    assert caught.value.kind is FaultKind.RESOURCE_EXHAUSTED
    assert await world.cancel(order_id, key="under load") == done


async def test_what_is_asked_of_one_order_is_done_one_after_the_other_in_its_order(world: World) -> None:
    order_id, _ = await confirmed(world)
    world.gate.hold("Refund")
    keys = [f"in turn {number}" for number in range(4)]
    asked = [
        await world.refund(order_id, key=keys[0], wait=0, amount=euro(100)),
        await world.refund(order_id, key=keys[1], wait=0, amount=euro(200)),
        await world.ship(order_id, key=keys[2], wait=0),
        await world.cancel(order_id, key=keys[3], wait=0),
    ]
    await world.gate.arrived["Refund"].wait()
    assert {answer.progress for answer in asked} == {PENDING}
    waiting = [saga["state"] for saga in await world.sagas(order_id)]
    assert waiting == ["COMPLETED", "RUNNING", "WAITING", "WAITING", "WAITING"]
    world.gate.let_go("Refund")
    cancelled = await world.cancel(order_id, key=keys[3])
    # The shipment came before it.
    assert (cancelled.progress, cancelled.refusal.reason) == (REFUSED, "ORDER_NOT_CONFIRMED")
    sagas = await world.sagas(order_id)
    assert [saga["id"] for saga in sagas[1:]] == [answer.saga_id for answer in asked]
    for earlier, later in itertools.pairwise(sagas):
        assert earlier["ended"] <= later["began"]
    refunded = (await world.refund(order_id, key=keys[1], wait=0, amount=euro(200))).order.refunds
    assert [refund.amount.minor_units for refund in refunded] == [100, 200]


async def test_many_requests_at_once_of_one_order_never_overlap(world: World) -> None:
    """Architecture, section 4: one saga of an order at a time."""
    order_id, _ = await confirmed(world)
    answers = await asyncio.gather(*(world.refund(order_id, amount=euro(10)) for _ in range(12)))
    assert {answer.progress for answer in answers} == {DONE}
    sagas = (await world.sagas(order_id))[1:]
    assert len(sagas) == len(answers)
    in_turn = sorted(sagas, key=lambda saga: saga["began"])
    for earlier, later in itertools.pairwise(in_turn):
        assert earlier["ended"] <= later["began"]
    final = (await world.refund(order_id, amount=euro(10))).order
    assert final.refunded == euro(10 * (len(answers) + 1))


async def test_behind_a_parked_saga_it_is_busy_until_an_operator_has_mended_it(world: World) -> None:
    order_id, _ = await confirmed(world)
    world.gate.faults["MarkShipped"] = [UNRECORDED]
    parked = await world.ship(order_id, key="parked")
    assert parked.progress == PENDING
    for ask in (world.cancel(order_id), world.refund(order_id), world.ship(order_id)):
        with pytest.raises(Fault) as caught:
            await ask
        assert (caught.value.kind, caught.value.reason) == (FaultKind.FAILED_PRECONDITION, "ORDER_BUSY")
        assert parked.saga_id in caught.value.message
    stranger = Caller("gateway", new_id(), "customer")
    with pytest.raises(Fault) as caught:
        await world.cancel(order_id, caller=stranger)
    assert caught.value.reason == "ORDER_NOT_FOUND"
    assert len(await world.sagas(order_id)) == 2
    await world.retry(parked.saga_id)
    shipped = await world.ship(order_id, key="parked")
    assert (shipped.progress, shipped.order.state) == (DONE, orders_pb2.ORDER_STATE_SHIPPED)
    assert (await world.refund(order_id)).progress == DONE
