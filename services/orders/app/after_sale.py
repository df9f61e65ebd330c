"""Use cases of an order that was sold: cancelled, shipped, refunded; each is called by the orchestrator."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

from chassis import barrier, outbox
from chassis.barrier import Json, SagaCall
from chassis.postgres import Transaction
from services.orders import events, refunds
from services.orders.app.parts import Parts
from services.orders.domain import (
    Money,
    Order,
    OrderItem,
    OrderNotFoundError,
    OrderRefund,
    OrderState,
    Sale,
    Shipment,
    merge_items,
    require_transition,
)
from services.orders.refunds import RefundQuote
from services.orders.store import after_sale as store
from services.orders.store import reads
from services.orders.store.rows import order_from_json


@dataclass(frozen=True, kw_only=True)
class AfterSale(Parts):
    """What sagas do to an order that was sold."""

    async def cancel_order(self, call: SagaCall, order_id: UUID, user_id: UUID | None, reason: str) -> Order:
        """Makes a CONFIRMED order CANCELLED, once per saga step: a pivot, so its refusals are stored.

        Args:
            call: identity of the call.
            order_id: which order.
            user_id: whose it must be; None: anybody's.
            reason: why, for people.

        Raises:
            Fault: the refusal, recorded: ORDER_NOT_FOUND, ORDER_NOT_CONFIRMED; or as `barrier.replay`.
        """

        async def cancel(tx: Transaction) -> Json:
            order = await store.lock_whole_order(tx, order_id)
            if user_id not in (None, order.user_id):
                raise OrderNotFoundError
            require_transition(order.state, OrderState.CANCELLED)
            now = self.clock.now()
            reply, sequence = await store.cancel_order(tx, order, reason, now)
            cancelled = events.order_cancelled(
                self.new_id(),
                order_id,
                order.user_id,
                now,
                total=_sale(order).quote.total,
                refunded=order.refunded,
            )
            await outbox.append(tx, cancelled, sequence=sequence)
            return reply

        return await self._once(call, cancel, pivot=True)

    async def assert_can_fulfil(self, order_id: UUID) -> Order:
        """Reads an order that may be shipped.

        Raises:
            OrderNotFoundError: there is none.
            TransitionRefusedError: it is not CONFIRMED.
        """
        order = await reads.order_by_id(self.database, order_id)
        require_transition(order.state, OrderState.SHIPPED)
        return order

    async def mark_shipped(self, call: SagaCall, order_id: UUID, shipment: Shipment) -> Order:
        """Makes a CONFIRMED order SHIPPED, once per saga step; a refusal is not stored.

        Raises:
            Fault: ORDER_NOT_FOUND, ORDER_NOT_CONFIRMED; or as `barrier.replay`.
        """

        async def ship(tx: Transaction) -> Json:
            order = await store.lock_whole_order(tx, order_id)
            require_transition(order.state, OrderState.SHIPPED)
            now = self.clock.now()
            reply, sequence = await store.ship_order(tx, order, shipment, now)
            shipped = events.order_shipped(self.new_id(), order_id, order.user_id, now, shipment=shipment)
            await outbox.append(tx, shipped, sequence=sequence)
            return reply

        return await self._once(call, ship, pivot=False)

    async def quote_refund(
        self, order_id: UUID, lines: tuple[OrderItem, ...], amount: Money | None
    ) -> tuple[Order, Sale, RefundQuote]:
        """Computes what a refund gives back: by line, by amount, or all that is left where neither is given.

        Returns:
            The order as it stands, what was sold, and what goes back.

        Raises:
            OrderNotFoundError: there is no such order.
            OrdersError: as `refunds.quote_refund`.
        """
        refunds.require_valid(lines, amount)
        order = await reads.order_by_id(self.database, order_id)
        quoted = refunds.quote_refund(order, lines, amount)
        return order, _sale(order), quoted

    async def record_refund(
        self, call: SagaCall, order_id: UUID, *, refund_id: UUID, quoted: RefundQuote, reason: str
    ) -> Order:
        """Records a refund that was made, once per saga step; a refusal is not stored.

        Args:
            call: identity of the call.
            order_id: which order.
            refund_id: the refund's own.
            quoted: what went back, for which units; those of one SKU are summed.
            reason: why, for people.

        Raises:
            Fault: ORDER_NOT_FOUND, ORDER_NOT_REFUNDABLE, REFUND_TOO_LARGE, REFUND_EXISTS, or INVALID_ARGUMENT
                for a refund that no order or not this order can have; or as `barrier.replay`.
        """

        async def record(tx: Transaction) -> Json:
            order = await store.lock_whole_order(tx, order_id)
            now = self.clock.now()
            refund = OrderRefund(refund_id, quoted.amount, merge_items(quoted.lines), reason, now)
            return await self._record(tx, order, refund, call.saga_id)

        return await self._once(call, record, pivot=False)

    async def _record(self, tx: Transaction, order: Order, refund: OrderRefund, saga_id: UUID | None) -> Json:
        """Records a refund of an order that is locked, and publishes it; no saga where the provider made it.

        Raises:
            OrdersError: the order cannot have had it, or there is another refund of its id.
        """
        refund_state = refunds.require_recordable(order, refund.amount, refund.lines)
        reply, sequence = await store.refund_order(tx, order, refund, refund_state, saga_id)
        refunded = events.order_refunded(
            self.new_id(),
            order.id,
            order.user_id,
            refund,
            refunded=order.refunded + refund.amount,
            total=_sale(order).quote.total,
        )
        await outbox.append(tx, refunded, sequence=sequence)
        return reply

    async def _once(
        self, call: SagaCall, effect: Callable[[Transaction], Awaitable[Json]], *, pivot: bool
    ) -> Order:
        # What is refused after the pivot parks the saga: an operator mends what is wrong, and the same call
        # must then be decided anew.
        reply = await barrier.do_once(
            self.database, call, effect, as_refusal=self.as_refusal, store_refusals=pivot
        )
        self.published()
        return order_from_json(reply)


def _sale(order: Order) -> Sale:
    # The constraint orders_sale_complete: whatever is or was CONFIRMED has one.
    assert order.sale is not None
    return order.sale
