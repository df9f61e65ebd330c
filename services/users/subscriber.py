"""What this context learns from others: facts about orders -> customer statistics."""

from collections.abc import Mapping
from uuid import UUID

from chassis.consumer import Handler, ReceivedEvent
from chassis.postgres import Transaction
from sagacity.orders.v1 import events_pb2
from services.users.app import record_order_fact
from services.users.domain import Money, StatisticsChange

TOPIC = "sagacity.orders.v1"
CONSUMER_GROUP = "users.customer-statistics"


async def order_placed(tx: Transaction, event: ReceivedEvent) -> None:
    """Counts a placed order."""
    fact = events_pb2.OrderPlaced.FromString(event.payload)
    await record_order_fact(tx, StatisticsChange(UUID(fact.user_id), placed=1))


async def order_confirmed(tx: Transaction, event: ReceivedEvent) -> None:
    """Counts a confirmed order and adds what it cost."""
    fact = events_pb2.OrderConfirmed.FromString(event.payload)
    spent = Money(fact.total.currency_code, fact.total.minor_units)
    await record_order_fact(tx, StatisticsChange(UUID(fact.user_id), confirmed=1, spent=spent))


async def order_rejected(tx: Transaction, event: ReceivedEvent) -> None:
    """Counts a rejected order."""
    fact = events_pb2.OrderRejected.FromString(event.payload)
    await record_order_fact(tx, StatisticsChange(UUID(fact.user_id), rejected=1))


HANDLERS: Mapping[str, Handler] = {
    events_pb2.OrderPlaced.DESCRIPTOR.full_name: order_placed,
    events_pb2.OrderConfirmed.DESCRIPTOR.full_name: order_confirmed,
    events_pb2.OrderRejected.DESCRIPTOR.full_name: order_rejected,
}
