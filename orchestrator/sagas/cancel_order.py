"""cancel_order: cancel a confirmed order, give the money and the stock back. The pivot is CancelOrder.

It also stands for the cancellation of an order that is still being placed: it waits behind place_order, which
its acceptance has asked to unwind. If that won, the order is REJECTED because of it when this saga's turn
comes, and there is nothing left to do but to say so; if the pivot was faster, the order is CONFIRMED, and is
cancelled here. Either way the one idempotency key has the one answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.saga import Ending, Saga, Step, View, calls
from orchestrator.sagas.parts import INVENTORY, ORDERS, PAYMENTS, PROVIDER_TIMEOUT, REQUEST_DEADLINE, refused
from sagacity.inventory.v1 import inventory_pb2
from sagacity.orders.v1 import orders_pb2
from sagacity.payments.v1 import payments_pb2
from sagacity.sagas.v1 import sagas_pb2

# The rejection's reason of an order whose place_order saga was cancelled: orchestrator/progress.py makes it.
CANCELLED = "CANCELLED"


# --- parameters ---


@dataclass(frozen=True)
class CancelOrder:
    """Which order, and why. `user_id` is whose it must be; empty where staff cancels."""

    order_id: str
    user_id: str
    reason: str


# --- steps ---


@calls(ORDERS, "GetOrder")
def read_order(saga: View[CancelOrder]) -> orders_pb2.GetOrderRequest:
    """A check, for the answer: how the order stood when its turn had come."""
    return orders_pb2.GetOrderRequest(order_id=saga.params.order_id)


@calls(ORDERS, "CancelOrder")
def cancel(saga: View[CancelOrder]) -> orders_pb2.CancelOrderRequest:
    """The pivot: from now on the order is CANCELLED, and what follows cannot be refused."""
    return orders_pb2.CancelOrderRequest(
        saga_step=saga.call,
        order_id=saga.params.order_id,
        user_id=saga.params.user_id,
        reason=saga.params.reason,
    )


@calls(PAYMENTS, "Reverse", timeout=PROVIDER_TIMEOUT, reads=("cancellation",))
def reverse_payment(saga: View[CancelOrder]) -> payments_pb2.ReverseRequest:
    """What is authorised is voided; what was captured and did not go back yet is refunded."""
    order = saga.output("cancellation", orders_pb2.CancelOrderResponse).order
    return payments_pb2.ReverseRequest(saga_step=saga.call, payment_id=order.payment_id)


@calls(INVENTORY, "ReleaseReservation", reads=("cancellation",))
def release_stock(saga: View[CancelOrder]) -> inventory_pb2.ReleaseReservationRequest:
    """What was sold and did not come back yet is on hand again."""
    order = saga.output("cancellation", orders_pb2.CancelOrderResponse).order
    return inventory_pb2.ReleaseReservationRequest(saga_step=saga.call, reservation_id=order.reservation_id)


# --- answer ---


def answer(ending: Ending) -> sagas_pb2.CancelOrderResponse:
    """What CancelOrder answers once the saga has ended; stored byte for byte under the idempotency key."""
    params: CancelOrder = ending.params
    response = sagas_pb2.CancelOrderResponse(saga_id=str(ending.saga_id), order_id=params.order_id)
    if "cancellation" in ending.replies:
        response.progress = sagas_pb2.REQUEST_PROGRESS_DONE
        cancelled = orders_pb2.CancelOrderResponse.FromString(ending.replies["cancellation"])
        response.order.CopyFrom(cancelled.order)
        return response
    undone = _undone_before(ending)
    if undone is None:
        return refused(response, ending)
    response.progress = sagas_pb2.REQUEST_PROGRESS_DONE
    response.order.CopyFrom(undone)
    return response


def _undone_before(ending: Ending) -> orders_pb2.Order | None:
    """The order, where it could not be cancelled because a cancellation had undone it already."""
    # Who may not cancel it is refused for that, and is told nothing of its state.
    if ending.refusal is None or ending.refusal.reason != "ORDER_NOT_CONFIRMED":
        return None
    order = orders_pb2.GetOrderResponse.FromString(ending.replies["order"]).order
    rejected = order.state == orders_pb2.ORDER_STATE_REJECTED
    return order if rejected and order.rejection.reason == CANCELLED else None


# --- definition ---

CANCEL_ORDER = Saga(
    kind="cancel_order",
    version=1,
    params=CancelOrder,
    deadline=REQUEST_DEADLINE,
    answer=answer,
    steps=(
        Step("order", read_order, check=True),
        Step("cancellation", cancel, pivot=True),
        Step("payment", reverse_payment),
        Step("stock", release_stock),
    ),
)
