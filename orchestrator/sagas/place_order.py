"""place_order: reserve, price, charge, sell, confirm; or undo all of it. The pivot is the last step."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from orchestrator.saga import Ending, Parallel, Saga, Step, View, additive, calls
from orchestrator.sagas.parts import INVENTORY, ORDERS, PAYMENTS, PROVIDER_TIMEOUT, USERS, refusal_message
from sagacity.common.v1.money_pb2 import Money
from sagacity.inventory.v1 import inventory_pb2
from sagacity.orders.v1 import orders_pb2
from sagacity.payments.v1 import payments_pb2
from sagacity.sagas.v1 import sagas_pb2
from sagacity.users.v1 import users_pb2

DEADLINE = timedelta(minutes=5)
# The hold outlives the deadline, so that a saga that is still allowed to go forward does not lose its stock.
HOLD_SECONDS = 600
# The parameter `capture`, as the payments context wants it.
CAPTURE_MODES = {
    "AUTOMATIC": payments_pb2.CAPTURE_MODE_AUTOMATIC,
    "MANUAL": payments_pb2.CAPTURE_MODE_MANUAL,
}


# --- parameters ---


@dataclass(frozen=True)
class PlaceOrder:
    """What was asked for, and the ids minted before the first call, so that any outcome can be undone.

    `capture` says when the money is taken: AUTOMATIC with the charge, MANUAL when the order is shipped.
    """

    user_id: str
    order_id: str
    reservation_id: str
    payment_id: str
    items: list[tuple[str, int]]
    currency_code: str
    address_id: str
    payment_method_id: str
    expected_total_minor: int | None = None
    capture: str = additive("AUTOMATIC")

    @property
    def order_items(self) -> list[orders_pb2.OrderItem]:
        """The items as the orders context wants them."""
        return [orders_pb2.OrderItem(sku=sku, quantity=quantity) for sku, quantity in self.items]


# --- steps ---


@calls(ORDERS, "CreateOrder")
def create_order(saga: View[PlaceOrder]) -> orders_pb2.CreateOrderRequest:
    """A PENDING order."""
    return orders_pb2.CreateOrderRequest(
        saga_step=saga.call,
        order_id=saga.params.order_id,
        user_id=saga.params.user_id,
        items=saga.params.order_items,
        currency_code=saga.params.currency_code,
    )


@calls(ORDERS, "RejectOrder")
def reject_order(saga: View[PlaceOrder]) -> orders_pb2.RejectOrderRequest:
    """The order becomes REJECTED, and is inserted so where the create never landed."""
    refusal = saga.refusal
    return orders_pb2.RejectOrderRequest(
        saga_step=saga.call,
        order_id=saga.params.order_id,
        user_id=saga.params.user_id,
        items=saga.params.order_items,
        currency_code=saga.params.currency_code,
        rejection=orders_pb2.Rejection(
            reason=refusal.reason if refusal else "UNDONE",
            message=refusal.message[:1000] if refusal else "",
        ),
    )


@calls(USERS, "AssertCanOrder")
def assert_can_order(saga: View[PlaceOrder]) -> users_pb2.AssertCanOrderRequest:
    """A check; its reply carries the address snapshot."""
    return users_pb2.AssertCanOrderRequest(user_id=saga.params.user_id, address_id=saga.params.address_id)


@calls(INVENTORY, "Reserve")
def reserve_stock(saga: View[PlaceOrder]) -> inventory_pb2.ReserveRequest:
    """A hold on all lines or none, priced."""
    return inventory_pb2.ReserveRequest(
        saga_step=saga.call,
        reservation_id=saga.params.reservation_id,
        order_id=saga.params.order_id,
        lines=[inventory_pb2.ReserveLine(sku=sku, quantity=quantity) for sku, quantity in saga.params.items],
        currency_code=saga.params.currency_code,
        ttl=Duration(seconds=HOLD_SECONDS),
    )


@calls(INVENTORY, "ReleaseReservation")
def release_stock(saga: View[PlaceOrder]) -> inventory_pb2.ReleaseReservationRequest:
    """Held or sold stock comes back."""
    return inventory_pb2.ReleaseReservationRequest(
        saga_step=saga.call, reservation_id=saga.params.reservation_id
    )


@calls(ORDERS, "QuoteOrder", reads=("reservation", "customer"))
def quote_order(saga: View[PlaceOrder]) -> orders_pb2.QuoteOrderRequest:
    """A check: what the priced lines cost at the address; refuses where the client expected another total."""
    expected = saga.params.expected_total_minor
    return orders_pb2.QuoteOrderRequest(
        lines=priced_lines(saga),
        shipping_address=saga.output("customer", users_pb2.AssertCanOrderResponse).address,
        expected_total=None
        if expected is None
        else Money(currency_code=saga.params.currency_code, minor_units=expected),
    )


@calls(PAYMENTS, "Charge", timeout=PROVIDER_TIMEOUT, reads=("quote",))
def charge_payment(saga: View[PlaceOrder]) -> payments_pb2.ChargeRequest:
    """The quote's total is taken; or held, until the order is shipped."""
    return payments_pb2.ChargeRequest(
        saga_step=saga.call,
        payment_id=saga.params.payment_id,
        order_id=saga.params.order_id,
        user_id=saga.params.user_id,
        payment_method_id=saga.params.payment_method_id,
        amount=saga.output("quote", orders_pb2.QuoteOrderResponse).quote.total,
        capture=CAPTURE_MODES[saga.params.capture],
    )


@calls(PAYMENTS, "Reverse", timeout=PROVIDER_TIMEOUT)
def reverse_payment(saga: View[PlaceOrder]) -> payments_pb2.ReverseRequest:
    """What was authorised is voided, what was captured refunded."""
    return payments_pb2.ReverseRequest(saga_step=saga.call, payment_id=saga.params.payment_id)


@calls(INVENTORY, "CommitReservation")
def commit_reservation(saga: View[PlaceOrder]) -> inventory_pb2.CommitReservationRequest:
    """Held stock becomes sold stock."""
    return inventory_pb2.CommitReservationRequest(
        saga_step=saga.call, reservation_id=saga.params.reservation_id
    )


@calls(ORDERS, "ConfirmOrder", reads=("reservation", "quote", "customer"))
def confirm_order(saga: View[PlaceOrder]) -> orders_pb2.ConfirmOrderRequest:
    """The pivot: CONFIRMED implies sold and paid."""
    return orders_pb2.ConfirmOrderRequest(
        saga_step=saga.call,
        order_id=saga.params.order_id,
        user_id=saga.params.user_id,
        lines=priced_lines(saga),
        quote=saga.output("quote", orders_pb2.QuoteOrderResponse).quote,
        shipping_address=saga.output("customer", users_pb2.AssertCanOrderResponse).address,
        payment_id=saga.params.payment_id,
        reservation_id=saga.params.reservation_id,
    )


def priced_lines(saga: View[PlaceOrder]) -> list[orders_pb2.OrderLine]:
    """The reserved lines as order lines."""
    reservation = saga.output("reservation", inventory_pb2.ReserveResponse).reservation
    return [
        orders_pb2.OrderLine(sku=line.sku, name=line.name, quantity=line.quantity, unit_price=line.unit_price)
        for line in reservation.lines
    ]


# --- answer ---


def answer(ending: Ending) -> sagas_pb2.PlaceOrderResponse:
    """What PlaceOrder answers once the saga has ended; stored byte for byte under the idempotency key."""
    params: PlaceOrder = ending.params
    response = sagas_pb2.PlaceOrderResponse(saga_id=str(ending.saga_id), order_id=params.order_id)
    if "confirmation" in ending.replies:
        response.progress = sagas_pb2.ORDER_PROGRESS_CONFIRMED
        confirmed = orders_pb2.ConfirmOrderResponse.FromString(ending.replies["confirmation"])
        response.order.CopyFrom(confirmed.order)
        return response
    response.progress = sagas_pb2.ORDER_PROGRESS_REJECTED
    if "order" in ending.undo_replies:
        rejected = orders_pb2.RejectOrderResponse.FromString(ending.undo_replies["order"])
        response.order.CopyFrom(rejected.order)
    if ending.refusal is not None:
        response.refusal.CopyFrom(refusal_message(ending.refused_step, ending.refusal.to_json()))
    return response


# --- definition ---

PLACE_ORDER = Saga(
    kind="place_order",
    version=1,
    params=PlaceOrder,
    deadline=DEADLINE,
    answer=answer,
    steps=(
        Parallel(
            Step("order", create_order, undo=reject_order),
            Step("customer", assert_can_order, check=True),
        ),
        Step("reservation", reserve_stock, undo=release_stock),
        Step("quote", quote_order, check=True),
        Step("payment", charge_payment, undo=reverse_payment),
        Step("stock", commit_reservation, undo=release_stock),
        Step("confirmation", confirm_order, pivot=True),
    ),
)
