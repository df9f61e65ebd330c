"""Refunds and voids that the provider made by itself, in every state of the order, by way of the inbox."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.message import Message

from chassis.cloud_events import ReceivedEvent
from chassis.ids import new_id
from chassis.inbox import Inbox
from sagacity.common.v1.money_pb2 import Money
from sagacity.orders.v1 import events_pb2 as orders_events_pb2
from sagacity.orders.v1 import orders_pb2 as pb
from sagacity.payments.v1 import events_pb2
from services.orders import requester as requester_module
from services.orders.domain import CurrencyMismatchError, OrderNotFoundError
from services.orders.provider_refunds import PaymentMismatchError
from services.orders.refunds import InvalidRefundError, RefundExistsError, RefundTooLargeError
from services.orders.requester import ProviderRefundSettling
from services.orders.subscribers import PAYMENTS_TOPIC, PROVIDER_GROUP, facts_of_payments

pytestmark = pytest.mark.integration

TOTAL = 3_320
GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PROVIDER = events_pb2.REFUND_ORIGIN_PROVIDER


def refunded(saga: Any, minor: int, /, **changes: Any) -> events_pb2.PaymentRefunded:
    """The fact that the provider gave back so much of an order's payment."""
    fact = events_pb2.PaymentRefunded(
        payment_id=str(saga.payment_id),
        order_id=str(saga.order_id),
        amount=Money(currency_code="EUR", minor_units=minor),
        refund_id=str(new_id()),
        origin=PROVIDER,
        provider_reason="DISPUTE",
    )
    for name, value in changes.items():
        fact.ClearField(name)  # type: ignore[arg-type]
        fact.MergeFrom(events_pb2.PaymentRefunded(**{name: value}))
    return fact


def voided(saga: Any, origin: events_pb2.RefundOrigin.ValueType = PROVIDER) -> events_pb2.PaymentVoided:
    """The fact that an order's authorisation was let go."""
    return events_pb2.PaymentVoided(
        payment_id=str(saga.payment_id), order_id=str(saga.order_id), origin=origin
    )


def received(fact: Message, sequence: int = 1) -> ReceivedEvent:
    """The fact as it comes from Kafka."""
    return ReceivedEvent(
        id=str(new_id()),
        type=fact.DESCRIPTOR.full_name,
        aggregate_type="payment",
        aggregate_id=str(getattr(fact, "payment_id", "")),
        sequence=sequence,
        payload=fact.SerializeToString(),
        occurred_at=datetime(2026, 3, 1, tzinfo=UTC),
        traceparent=None,
        topic=PAYMENTS_TOPIC,
        partition=0,
        offset=0,
    )


async def learn(world: Any, *facts: Message) -> None:
    """Apply facts about one payment, as the consumer does."""
    inbox = Inbox(
        world.database, consumer=PROVIDER_GROUP, generation=1, handlers=facts_of_payments(world.app)
    )
    sql = "SELECT sequence FROM inbox WHERE aggregate = %(aggregate)s"
    mark = await world.rows(sql, aggregate=received(facts[0]).aggregate)
    first = mark[0]["sequence"] + 1 if mark else 1
    await inbox.apply([received(fact, first + number) for number, fact in enumerate(facts)])


async def kept(world: Any, fact: events_pb2.PaymentRefunded) -> tuple[str, str | None]:
    """What became of a refund, and its error."""
    sql = "SELECT state, error FROM provider_refund WHERE refund_id = %(id)s::uuid"
    row = (await world.rows(sql, id=fact.refund_id))[0]
    return row["state"], row["error"]


async def settle(world: Any) -> None:
    """Decide on what waits."""
    settling = ProviderRefundSettling(world.app)
    while await settling.settle_some():
        pass


@pytest.mark.parametrize("state", ["CONFIRMED", "SHIPPED"])
async def test_a_refund_of_the_provider_is_recorded_and_published_as_any_other(
    world: Any, state: str
) -> None:
    saga = world.saga()
    await saga.sold()
    if state == "SHIPPED":
        await saga.another().ship()
    fact = refunded(saga, 1_000)
    await learn(world, fact)
    order = await saga.read()
    assert pb.OrderState.Name(order.state) == f"ORDER_STATE_{state}"
    assert (order.refund_state, order.refunded.minor_units) == (pb.REFUND_STATE_PARTIAL, 1_000)
    (refund,) = order.refunds
    assert (refund.id, refund.amount.minor_units, list(refund.lines)) == (fact.refund_id, 1_000, [])
    assert refund.reason == "by the payment provider: DISPUTE"
    assert await kept(world, fact) == ("RECORDED", None)
    rows = await world.rows(
        "SELECT payload FROM outbox WHERE aggregateid = %(id)s AND type LIKE '%%OrderRefunded'",
        id=str(saga.order_id),
    )
    (event,) = [orders_events_pb2.OrderRefunded.FromString(row["payload"]) for row in rows]
    assert (event.refund_id, event.amount.minor_units) == (fact.refund_id, 1_000)
    assert (event.refunded.minor_units, event.total.minor_units) == (1_000, TOTAL)


async def test_refunds_come_to_the_total_and_then_the_order_is_refunded_in_full(world: Any) -> None:
    saga = world.saga()
    await saga.sold()
    await learn(world, refunded(saga, 1_000), refunded(saga, 300))
    await saga.refund(20)
    await learn(world, refunded(saga, 2_000))
    order = await saga.read()
    assert (order.refund_state, order.refunded.minor_units) == (pb.REFUND_STATE_FULL, TOTAL)
    assert len(order.refunds) == 4


@pytest.mark.parametrize(
    "origin", [events_pb2.REFUND_ORIGIN_UNSPECIFIED, events_pb2.REFUND_ORIGIN_SAGA], ids=["older", "saga"]
)
async def test_what_a_saga_did_is_left_to_the_saga(
    world: Any, origin: events_pb2.RefundOrigin.ValueType
) -> None:
    saga = world.saga()
    await saga.sold()
    await learn(world, refunded(saga, 1_000, origin=origin, refund_id=""), voided(saga, origin))
    assert (await saga.read()).refunded.minor_units == 0
    sql = "SELECT order_id FROM cancellation_request WHERE order_id = %(id)s"
    assert await world.rows(sql, id=saga.order_id) == []


async def test_a_refund_that_is_told_of_twice_is_recorded_once(world: Any) -> None:
    """By the inbox where it is the same event, by its id where it is not."""
    saga = world.saga()
    await saga.sold()
    fact = refunded(saga, TOTAL)
    await learn(world, fact)
    await learn(world, fact)
    order = await saga.read()
    assert (order.refunded.minor_units, len(order.refunds)) == (TOTAL, 1)


async def test_a_refund_with_the_id_of_another_one_is_an_error(world: Any) -> None:
    one, other = world.saga(), world.saga()
    await asyncio.gather(one.sold(), other.sold())
    fact = refunded(one, 1_000)
    await learn(world, fact)
    await other.refund(10)
    for impostor in (
        refunded(one, 999, refund_id=fact.refund_id),
        refunded(other, 1_000, refund_id=fact.refund_id),
        refunded(one, 10, refund_id=str(other.refund_id)),
    ):
        with pytest.raises(RefundExistsError):
            await learn(world, impostor)
    assert (await one.read()).refunded.minor_units == 1_000
    assert (await other.read()).refunded.minor_units == 10


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"amount": Money(currency_code="EUR", minor_units=TOTAL + 1)}, RefundTooLargeError),
        ({"amount": Money(currency_code="USD", minor_units=1)}, CurrencyMismatchError),
        ({"amount": Money(currency_code="EUR", minor_units=0)}, InvalidRefundError),
        ({"payment_id": str(new_id())}, PaymentMismatchError),
        ({"order_id": str(new_id())}, OrderNotFoundError),
        ({"refund_id": ""}, ValueError),
    ],
    ids=["too much", "currency", "nothing", "payment", "order", "no id"],
)
async def test_what_does_not_fit_is_an_error_that_says_so_and_nothing_is_written(
    world: Any, changes: dict[str, Any], error: type[Exception]
) -> None:
    saga = world.saga()
    await saga.sold()
    fact = refunded(saga, 1, **changes)
    with pytest.raises(error, match=r".+"):
        await learn(world, fact)
    assert (await saga.read()).refunded.minor_units == 0
    sql = "SELECT refund_id FROM provider_refund WHERE order_id = %(id)s"
    assert await world.rows(sql, id=saga.order_id) == []


async def test_a_refund_before_the_confirmation_waits_and_is_recorded_after_it(world: Any) -> None:
    saga = world.saga()
    await saga.create()
    facts = [refunded(saga, 1_000), refunded(saga, 300)]
    await learn(world, *facts)
    await settle(world)
    assert [await kept(world, fact) for fact in facts] == [("WAITING", None)] * 2
    assert requester_module.REFUNDS_WAITING._value.get() == 2
    confirmed = await saga.confirm()
    assert confirmed.refunded.minor_units == 0
    await asyncio.gather(*(settle(world) for _ in range(3)))
    order = await saga.read()
    assert (order.refunded.minor_units, len(order.refunds)) == (1_300, 2)
    assert [await kept(world, fact) for fact in facts] == [("RECORDED", None)] * 2
    assert await saga.events() == [
        (1, "OrderPlaced"),
        (2, "OrderConfirmed"),
        (3, "OrderRefunded"),
        (4, "OrderRefunded"),
    ]
    assert requester_module.REFUNDS_WAITING._value.get() == 0


async def test_a_refund_that_waited_is_published_in_the_trace_in_which_it_came(world: Any) -> None:
    saga = world.saga()
    await saga.create()
    fact = refunded(saga, 1_000)
    inbox = Inbox(
        world.database, consumer=PROVIDER_GROUP, generation=1, handlers=facts_of_payments(world.app)
    )
    await inbox.apply([dataclasses.replace(received(fact), traceparent=GIVEN)])
    await saga.confirm()
    await settle(world)
    rows = await world.rows(
        "SELECT traceparent FROM outbox WHERE aggregateid = %(id)s AND type LIKE '%%OrderRefunded'",
        id=str(saga.order_id),
    )
    assert rows == [{"traceparent": GIVEN}]


async def test_a_refund_before_the_rejection_is_kept_with_what_is_undone(world: Any) -> None:
    saga = world.saga()
    await saga.create()
    fact = refunded(saga, 1_000)
    await learn(world, fact)
    await saga.reject()
    await settle(world)
    assert await kept(world, fact) == ("UNDONE", None)
    order = await saga.read()
    assert (order.state, len(order.refunds)) == (pb.ORDER_STATE_REJECTED, 0)


async def test_a_refund_that_waited_and_does_not_fit_is_kept_with_the_reason(world: Any) -> None:
    saga = world.saga()
    await saga.create()
    fact = refunded(saga, TOTAL + 1)
    await learn(world, fact)
    await saga.confirm()
    await settle(world)
    state, error = await kept(world, fact)
    assert state == "REFUSED"
    assert error == (
        f"RefundTooLargeError: {TOTAL + 1} EUR minor units are to go back, but only {TOTAL} EUR minor units"
        " are left"
    )
    assert (await saga.read()).refunded.minor_units == 0
    assert requester_module.REFUNDS_REFUSED._value.get() == 1


async def test_of_an_undone_order_the_money_is_kept_and_the_order_stays_as_it_is(world: Any) -> None:
    """The undo gives all back; what the provider gave back before is a part of it, up to the total."""
    saga, rejected = world.saga(), world.saga()
    await saga.sold()
    await saga.refund(20)
    await saga.cancel()
    await rejected.create()
    await rejected.reject()
    before = [await one.read() for one in (saga, rejected)]
    facts = [refunded(saga, 1_000), refunded(saga, 2_300), refunded(rejected, 500)]
    for fact in facts:
        await learn(world, fact)
        assert await kept(world, fact) == ("UNDONE", None)
    assert [await one.read() for one in (saga, rejected)] == before
    with pytest.raises(RefundTooLargeError, match="only 0 EUR minor units were left of the cancelled order"):
        await learn(world, refunded(saga, 1))


@pytest.mark.parametrize("first", ["confirm", "refund"])
async def test_a_refund_beside_the_confirmation_is_recorded_in_the_end(world: Any, first: str) -> None:
    saga = world.saga()
    await saga.create()
    fact = refunded(saga, 1_000)
    calls = [saga.confirm(), learn(world, fact)]
    await world.queued(saga.lock, *(calls if first == "confirm" else reversed(calls)))
    await settle(world)
    order = await saga.read()
    assert (order.state, order.refunded.minor_units) == (pb.ORDER_STATE_CONFIRMED, 1_000)
    assert await kept(world, fact) == ("RECORDED", None)


async def test_beside_a_cancellation_a_refund_is_in_the_order_or_in_what_is_undone(world: Any) -> None:
    for _ in range(10):
        saga = world.saga()
        await saga.sold()
        fact = refunded(saga, 1_000)
        order, _ = await asyncio.gather(saga.cancel(), learn(world, fact))
        state, _ = await kept(world, fact)
        assert state == ("RECORDED" if order.refunded.minor_units else "UNDONE")
        assert (await saga.read()).refunded == order.refunded


@pytest.mark.parametrize("state", ["PENDING", "CONFIRMED"])
async def test_an_open_order_whose_payment_was_let_go_is_to_be_cancelled(world: Any, state: str) -> None:
    saga = world.saga()
    await (saga.create() if state == "PENDING" else saga.sold())
    await learn(world, voided(saga))
    sql = "SELECT cause, state FROM cancellation_request WHERE order_id = %(id)s"
    rows = await world.rows(sql, id=saga.order_id)
    assert rows == [{"cause": "PAYMENT_VOIDED", "state": "WAITING"}]


async def test_an_undone_order_whose_payment_was_let_go_is_left_alone(world: Any) -> None:
    saga = world.saga()
    await saga.sold()
    await saga.cancel()
    await learn(world, voided(saga))
    sql = "SELECT order_id FROM cancellation_request WHERE order_id = %(id)s"
    assert await world.rows(sql, id=saga.order_id) == []
