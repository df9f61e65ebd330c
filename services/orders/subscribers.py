"""What this context learns from others: facts about users and payments -> cancellations and refunds.

Two consumers, so that what halts one of them leaves the other alone.
"""

from collections.abc import Mapping
from datetime import UTC
from typing import Final
from uuid import UUID

from chassis.consumer import Handler, ReceivedEvent
from chassis.postgres import Transaction
from sagacity.payments.v1 import events_pb2 as payments_pb2
from sagacity.users.v1 import events_pb2 as users_pb2
from services.orders.app import Orders
from services.orders.domain import Money
from services.orders.provider_refunds import ProviderRefund

USERS_TOPIC: Final = "sagacity.users.v1"
PAYMENTS_TOPIC: Final = "sagacity.payments.v1"
DEACTIVATIONS_GROUP: Final = "orders.customer-deactivations"
PROVIDER_GROUP: Final = "orders.provider-refunds"
# Of a refund whose provider does not say why.
NO_REASON: Final = "UNKNOWN"
MAX_REASON: Final = 100


def facts_of_users(app: Orders) -> Mapping[str, Handler]:
    """The handlers of facts about users, by type."""

    async def user_deactivated(tx: Transaction, event: ReceivedEvent) -> None:
        fact = users_pb2.UserDeactivated.FromString(event.payload)
        await app.customer_deactivated(tx, UUID(fact.user_id), fact.deactivate_time.ToDatetime(UTC))

    return {users_pb2.UserDeactivated.DESCRIPTOR.full_name: user_deactivated}


def facts_of_payments(app: Orders) -> Mapping[str, Handler]:
    """The handlers of facts about payments, by type.

    What a saga gave back or let go, it records in the order itself.
    """

    async def payment_refunded(tx: Transaction, event: ReceivedEvent) -> None:
        fact = payments_pb2.PaymentRefunded.FromString(event.payload)
        if fact.origin == payments_pb2.REFUND_ORIGIN_PROVIDER:
            await app.refunded_by_provider(tx, _refund(fact))

    async def payment_voided(tx: Transaction, event: ReceivedEvent) -> None:
        fact = payments_pb2.PaymentVoided.FromString(event.payload)
        if fact.origin == payments_pb2.REFUND_ORIGIN_PROVIDER:
            await app.payment_voided_by_provider(tx, UUID(fact.order_id))

    return {
        payments_pb2.PaymentRefunded.DESCRIPTOR.full_name: payment_refunded,
        payments_pb2.PaymentVoided.DESCRIPTOR.full_name: payment_voided,
    }


def _refund(fact: payments_pb2.PaymentRefunded) -> ProviderRefund:
    return ProviderRefund(
        id=UUID(fact.refund_id),
        order_id=UUID(fact.order_id),
        payment_id=UUID(fact.payment_id),
        amount=Money(fact.amount.currency_code, fact.amount.minor_units),
        reason=fact.provider_reason[:MAX_REASON] or NO_REASON,
    )
