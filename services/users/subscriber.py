"""What this context learns from others: facts about orders -> customer statistics."""

from collections.abc import Mapping
from uuid import UUID

from chassis.consumer import Handler, ReceivedEvent
from chassis.postgres import Transaction
from sagacity.common.v1 import money_pb2
from sagacity.orders.v1 import events_pb2
from services.users.app import record_order_fact
from services.users.domain import Money, StatisticsChange, left_of

TOPIC = "sagacity.orders.v1"
CONSUMER_GROUP = "users.customer-statistics"


async def order_placed(tx: Transaction, event: ReceivedEvent) -> None:
    """Counts a placed order."""
    fact = events_pb2.OrderPlaced.FromString(event.payload)
    await record_order_fact(tx, StatisticsChange(UUID(fact.user_id), placed=1))


async def order_confirmed(tx: Transaction, event: ReceivedEvent) -> None:
    """Counts a confirmed order and adds what it cost."""
    fact = events_pb2.OrderConfirmed.FromString(event.payload)
    await record_order_fact(tx, StatisticsChange(UUID(fact.user_id), confirmed=1, spent=_money(fact.total)))


async def order_rejected(tx: Transaction, event: ReceivedEvent) -> None:
    """Counts a rejected order."""
    fact = events_pb2.OrderRejected.FromString(event.payload)
    await record_order_fact(tx, StatisticsChange(UUID(fact.user_id), rejected=1))


async def order_cancelled(tx: Transaction, event: ReceivedEvent) -> None:
    """Counts a cancelled order and takes away what was left of its money."""
    fact = events_pb2.OrderCancelled.FromString(event.payload)
    returned = left_of(_money(fact.total), _money(fact.refunded))
    await record_order_fact(tx, StatisticsChange(UUID(fact.user_id), cancelled=1, returned=returned))


async def order_refunded(tx: Transaction, event: ReceivedEvent) -> None:
    """Takes away what went back this time."""
    fact = events_pb2.OrderRefunded.FromString(event.payload)
    await record_order_fact(tx, StatisticsChange(UUID(fact.user_id), returned=_money(fact.amount)))


def _money(amount: money_pb2.Money) -> Money:
    if amount.minor_units < 0:
        raise ValueError("an amount of an order is below 0")
    return Money(amount.currency_code, amount.minor_units)


HANDLERS: Mapping[str, Handler] = {
    events_pb2.OrderPlaced.DESCRIPTOR.full_name: order_placed,
    events_pb2.OrderConfirmed.DESCRIPTOR.full_name: order_confirmed,
    events_pb2.OrderRejected.DESCRIPTOR.full_name: order_rejected,
    events_pb2.OrderCancelled.DESCRIPTOR.full_name: order_cancelled,
    events_pb2.OrderRefunded.DESCRIPTOR.full_name: order_refunded,
}
