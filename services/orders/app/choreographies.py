"""What this context does when others tell it something; each is called in the transaction of the inbox."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from chassis.postgres import Transaction
from services.orders.app.after_sale import AfterSale
from services.orders.cancellations import CancellationCause
from services.orders.domain import Order, OrderNotFoundError, OrderRefund, OrdersError
from services.orders.provider_refunds import ProviderRefund, ProviderRefundState, state_after
from services.orders.refunds import RefundExistsError
from services.orders.store import after_sale, cancellations, deactivations, provider_refunds

_ANOTHER = "there is another refund of this id"


@dataclass(frozen=True, kw_only=True)
class Choreographies(AfterSale):
    """What follows here from the facts of other contexts."""

    async def customer_deactivated(self, tx: Transaction, user_id: UUID, at: datetime) -> None:
        """Confirms no order of a customer any more, and asks for the cancellation of those that are open.

        An order whose confirmation is under way is waited for, and then found. One that is made later is
        refused when it is to be confirmed.
        """
        await deactivations.deactivate(tx, user_id, at)
        # A statement of its own: its snapshot has what was committed before the customer's row was locked.
        await cancellations.request_of_user(tx, user_id, CancellationCause.CUSTOMER_DEACTIVATED)

    async def payment_voided_by_provider(self, tx: Transaction, order_id: UUID) -> None:
        """Asks for the cancellation of an order whose money cannot be taken any more, where it is open."""
        await cancellations.request_of_order(tx, order_id, CancellationCause.PAYMENT_VOIDED)

    async def refunded_by_provider(self, tx: Transaction, refund: ProviderRefund) -> None:
        """Keeps a refund that the provider made by itself, once, and records it in the order if that is sold.

        Raises:
            OrderNotFoundError: there is no such order.
            OrdersError: it does not fit the order, or another refund has its id; nothing is written.
        """
        try:
            order = await after_sale.lock_whole_order(tx, refund.order_id)
        except OrderNotFoundError:
            raise OrderNotFoundError(f"there is no order {refund.order_id}") from None
        stored = await provider_refunds.read(tx, refund.id)
        if stored is not None:
            _require_same(refund, stored[0])
            return
        state = await self._state_after(tx, order, refund)
        if not await provider_refunds.insert(tx, refund, state):
            raise RefundExistsError(_ANOTHER)
        await self._apply(tx, order, refund, state)

    async def settle_provider_refund(self, refund: ProviderRefund) -> ProviderRefundState:
        """Decides on a refund that came while its order was PENDING; in a transaction of its own.

        Returns:
            What became of it: WAITING where its order is PENDING still, REFUSED where it does not fit.
        """

        async def settle(tx: Transaction) -> ProviderRefundState:
            order = await after_sale.lock_whole_order(tx, refund.order_id)
            stored = await provider_refunds.read(tx, refund.id)
            if stored is None or stored[1] is not ProviderRefundState.WAITING:
                return stored[1] if stored else ProviderRefundState.WAITING
            try:
                state = await self._state_after(tx, order, refund)
                await self._apply(tx, order, refund, state)
            except OrdersError as error:
                reason = f"{type(error).__name__}: {error}"
                await provider_refunds.settle(tx, refund.id, ProviderRefundState.REFUSED, error=reason)
                return ProviderRefundState.REFUSED
            await provider_refunds.settle(tx, refund.id, state)
            return state

        state = await self.database.run(settle)
        self.published()
        return state

    async def _state_after(
        self, tx: Transaction, order: Order, refund: ProviderRefund
    ) -> ProviderRefundState:
        undone_minor = await provider_refunds.undone_minor(tx, order.id)
        return state_after(order, refund, undone_minor=undone_minor)

    async def _apply(
        self, tx: Transaction, order: Order, refund: ProviderRefund, state: ProviderRefundState
    ) -> None:
        if state is ProviderRefundState.RECORDED:
            now = self.clock.now()
            made = OrderRefund(refund.id, refund.amount, (), refund.reason_for_people, now)
            await self._record(tx, order, made, None)


def _require_same(refund: ProviderRefund, stored: ProviderRefund) -> None:
    if refund != stored:
        raise RefundExistsError(_ANOTHER)
