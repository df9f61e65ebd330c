import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

import pytest
from google.protobuf.message import Message

from chassis.cloud_events import ReceivedEvent
from chassis.ids import new_id
from chassis.inbox import Inbox
from chassis.postgres import Database
from sagacity.orders.v1 import events_pb2
from services.users.domain import CustomerStatistics, Money, NeverSpentError
from services.users.store.statistics import statistics_of_user
from services.users.subscriber import CONSUMER_GROUP, HANDLERS, TOPIC
from tests.integration.users import order_facts as facts

pytestmark = pytest.mark.integration


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
    return received(order_id, 1, facts.placed(order_id, user_id))


def confirmed(order_id: UUID, user_id: UUID) -> ReceivedEvent:
    return received(order_id, 2, facts.confirmed(order_id, user_id, 1234))


def rejected(order_id: UUID, user_id: UUID) -> ReceivedEvent:
    return received(order_id, 2, facts.rejected(order_id, user_id))


async def test_facts_that_are_delivered_twice_count_once(database: Database, inbox: Inbox) -> None:
    customer, first, second = new_id(), new_id(), new_id()
    delivery = [
        placed(first, customer),
        placed(second, customer),
        confirmed(first, customer),
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


async def test_what_went_back_is_not_spent_and_a_cancellation_takes_what_was_left(
    database: Database, inbox: Inbox
) -> None:
    customer, called_off, kept, sent = [new_id() for _ in range(4)]
    delivery = [
        *(
            each
            for order in (called_off, kept, sent)
            for each in (placed(order, customer), confirmed(order, customer))
        ),
        received(called_off, 3, facts.refunded(called_off, customer, 200)),
        received(kept, 3, facts.refunded(kept, customer, 34)),
        received(kept, 4, facts.refunded(kept, customer, 200)),
        received(called_off, 4, facts.cancelled(called_off, customer, total=1234, refunded=200)),
        received(sent, 3, facts.shipped(sent, customer)),
    ]
    for _ in range(2):
        await inbox.apply(delivery)
    for each in delivery:
        await inbox.apply([each])
    assert await statistics_of_user(database, customer) == CustomerStatistics(
        customer,
        orders_placed=3,
        orders_confirmed=3,
        orders_cancelled=1,
        amount_spent=(Money("EUR", 2 * 1234 - 234),),
    )


async def test_an_order_that_was_refunded_whole_is_cancelled_for_nothing(
    database: Database, inbox: Inbox
) -> None:
    customer, order_id = new_id(), new_id()
    await inbox.apply(
        [
            placed(order_id, customer),
            confirmed(order_id, customer),
            received(order_id, 3, facts.refunded(order_id, customer, 1234)),
            received(order_id, 4, facts.cancelled(order_id, customer, total=1234, refunded=1234)),
        ]
    )
    assert await statistics_of_user(database, customer) == CustomerStatistics(
        customer, orders_placed=1, orders_confirmed=1, orders_cancelled=1, amount_spent=(Money("EUR", 0),)
    )


async def test_facts_of_one_customer_from_two_partitions_add_up(database: Database, inbox: Inbox) -> None:
    """Two members of the group count for one customer at once; neither's count is lost."""
    customer = new_id()
    orders = [new_id() for _ in range(40)]

    async def member(mine: list[UUID]) -> None:
        for order in mine:
            await inbox.apply([placed(order, customer), confirmed(order, customer)])
            await inbox.apply([received(order, 3, facts.refunded(order, customer, 234))])
            await inbox.apply(
                [received(order, 4, facts.cancelled(order, customer, total=1234, refunded=234))]
            )

    await asyncio.gather(member(orders[:20]), member(orders[20:]))
    assert await statistics_of_user(database, customer) == CustomerStatistics(
        customer, orders_placed=40, orders_confirmed=40, orders_cancelled=40, amount_spent=(Money("EUR", 0),)
    )


@pytest.mark.parametrize(
    ("fact", "error"),
    [
        (lambda order, user: facts.refunded(order, user, 1), NeverSpentError),
        (lambda order, user: facts.cancelled(order, user, total=1, refunded=0), NeverSpentError),
        (lambda order, user: facts.cancelled(order, user, total=1, refunded=2), ValueError),
        (lambda order, user: facts.refunded(order, user, -1), ValueError),
        (lambda order, user: facts.cancelled(order, user, total=1, refunded=-1), ValueError),
    ],
)
async def test_what_cannot_have_gone_back_is_an_error_and_counts_nothing(
    database: Database, inbox: Inbox, fact: Callable[[UUID, UUID], Message], error: type[Exception]
) -> None:
    customer, order_id = new_id(), new_id()
    await inbox.apply([placed(order_id, customer)])
    with pytest.raises(error):
        await inbox.apply([received(order_id, 2, fact(order_id, customer))])
    assert await statistics_of_user(database, customer) == CustomerStatistics(customer, orders_placed=1)
