from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from uuid import UUID

import pytest
from google.protobuf.message import Message

from chassis.cloud_events import ReceivedEvent
from chassis.ids import new_id
from chassis.inbox import Inbox
from chassis.postgres import Database
from sagacity.common.v1.money_pb2 import Money as MoneyMessage
from sagacity.orders.v1 import events_pb2
from services.users.domain import CustomerStatistics, Money
from services.users.store.statistics import statistics_of_user
from services.users.subscriber import CONSUMER_GROUP, HANDLERS, TOPIC

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
async def database(new_database: Callable[[str], str]) -> AsyncIterator[Database]:
    opened = await Database.open(new_database("services.users"), application_name="test-users-statistics")
    yield opened
    await opened.close()


@pytest.fixture
def inbox(database: Database) -> Inbox:
    return Inbox(database, consumer=CONSUMER_GROUP, generation=1, handlers=HANDLERS)


def received(order_id: UUID, sequence: int, fact: Message) -> ReceivedEvent:
    return ReceivedEvent(
        id=str(new_id()),
        type=fact.DESCRIPTOR.full_name,
        aggregate_type="order",
        aggregate_id=str(order_id),
        sequence=sequence,
        payload=fact.SerializeToString(),
        occurred_at=datetime(2026, 3, 1, tzinfo=UTC),
        traceparent=None,
        topic=TOPIC,
        partition=0,
        offset=0,
    )


def placed(order_id: UUID, user_id: UUID) -> ReceivedEvent:
    return received(order_id, 1, events_pb2.OrderPlaced(order_id=str(order_id), user_id=str(user_id)))


def confirmed(order_id: UUID, user_id: UUID, total: MoneyMessage) -> ReceivedEvent:
    fact = events_pb2.OrderConfirmed(order_id=str(order_id), user_id=str(user_id), total=total)
    return received(order_id, 2, fact)


def rejected(order_id: UUID, user_id: UUID) -> ReceivedEvent:
    fact = events_pb2.OrderRejected(order_id=str(order_id), user_id=str(user_id), reason="OUT_OF_STOCK")
    return received(order_id, 2, fact)


EUROS = MoneyMessage(currency_code="EUR", minor_units=1234)


async def test_facts_that_are_delivered_twice_count_once(database: Database, inbox: Inbox) -> None:
    customer, first, second = new_id(), new_id(), new_id()
    delivery = [
        placed(first, customer),
        placed(second, customer),
        confirmed(first, customer, EUROS),
        rejected(second, customer),
    ]
    await inbox.apply(delivery)
    await inbox.apply(delivery)
    assert await statistics_of_user(database, customer) == CustomerStatistics(
        customer, orders_placed=2, orders_confirmed=1, orders_rejected=1, amount_spent=(Money("EUR", 1234),)
    )


async def test_a_fact_that_comes_again_in_its_own_batch_counts_once(database: Database, inbox: Inbox) -> None:
    customer, order_id = new_id(), new_id()
    fact = placed(order_id, customer)
    await inbox.apply([fact, fact])
    assert await statistics_of_user(database, customer) == CustomerStatistics(customer, orders_placed=1)


async def test_a_fact_without_a_customer_is_an_error_and_counts_for_nobody(inbox: Inbox) -> None:
    broken = received(new_id(), 1, events_pb2.OrderPlaced(user_id="nobody"))
    with pytest.raises(ValueError, match="UUID"):
        await inbox.apply([broken])
