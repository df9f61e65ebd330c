"""fulfil_order: take the money where it is only held, and ship. The pivot is Capture."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.saga import Ending, Saga, Step, View, calls
from orchestrator.sagas.parts import ORDERS, PAYMENTS, PROVIDER_TIMEOUT, REQUEST_DEADLINE, refused
from sagacity.orders.v1 import orders_pb2
from sagacity.payments.v1 import payments_pb2
from sagacity.sagas.v1 import sagas_pb2

# --- parameters ---


@dataclass(frozen=True)
class FulfilOrder:
    """Which order, and how it travels."""

    order_id: str
    carrier: str
    tracking_number: str


# --- steps ---


@calls(ORDERS, "AssertCanFulfil")
def assert_can_fulfil(saga: View[FulfilOrder]) -> orders_pb2.AssertCanFulfilRequest:
    """A check; its reply says which payment is to be captured."""
    return orders_pb2.AssertCanFulfilRequest(order_id=saga.params.order_id)


@calls(PAYMENTS, "Capture", timeout=PROVIDER_TIMEOUT, reads=("order",))
def capture_payment(saga: View[FulfilOrder]) -> payments_pb2.CaptureRequest:
    """The pivot: what is only held is taken; what was taken with the charge is a success."""
    order = saga.output("order", orders_pb2.AssertCanFulfilResponse).order
    return payments_pb2.CaptureRequest(saga_step=saga.call, payment_id=order.payment_id)


@calls(ORDERS, "MarkShipped")
def mark_shipped(saga: View[FulfilOrder]) -> orders_pb2.MarkShippedRequest:
    """The order is SHIPPED."""
    params = saga.params
    return orders_pb2.MarkShippedRequest(
        saga_step=saga.call,
        order_id=params.order_id,
        shipment=orders_pb2.Shipment(carrier=params.carrier, tracking_number=params.tracking_number),
    )


# --- answer ---


def answer(ending: Ending) -> sagas_pb2.FulfilOrderResponse:
    """What FulfilOrder answers once the saga has ended; stored byte for byte under the idempotency key."""
    params: FulfilOrder = ending.params
    response = sagas_pb2.FulfilOrderResponse(saga_id=str(ending.saga_id), order_id=params.order_id)
    if "shipment" not in ending.replies:
        return refused(response, ending)
    response.progress = sagas_pb2.REQUEST_PROGRESS_DONE
    response.order.CopyFrom(orders_pb2.MarkShippedResponse.FromString(ending.replies["shipment"]).order)
    return response


# --- definition ---

FULFIL_ORDER = Saga(
    kind="fulfil_order",
    version=1,
    params=FulfilOrder,
    deadline=REQUEST_DEADLINE,
    answer=answer,
    steps=(
        Step("order", assert_can_fulfil, check=True),
        Step("capture", capture_payment, pivot=True),
        Step("shipment", mark_shipped),
    ),
)
