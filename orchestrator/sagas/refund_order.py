"""refund_order: give back some or all of an order's money, and take units back. The pivot is Refund."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.saga import Ending, Saga, Step, View, calls
from orchestrator.sagas.parts import INVENTORY, ORDERS, PAYMENTS, PROVIDER_TIMEOUT, REQUEST_DEADLINE, refused
from sagacity.common.v1.money_pb2 import Money
from sagacity.inventory.v1 import inventory_pb2
from sagacity.orders.v1 import orders_pb2
from sagacity.payments.v1 import payments_pb2
from sagacity.sagas.v1 import sagas_pb2

# --- parameters ---


@dataclass(frozen=True)
class RefundOrder:
    """What is to go back, and the refund's id, minted before the first call.

    Without lines and amount it is all that is left. `currency_code` belongs to the amount.
    """

    order_id: str
    refund_id: str
    reason: str
    lines: list[tuple[str, int]]
    amount_minor: int | None
    currency_code: str
    restock: bool


# --- steps ---


@calls(ORDERS, "QuoteRefund")
def quote_refund(saga: View[RefundOrder]) -> orders_pb2.QuoteRefundRequest:
    """A check: what goes back, for which units; refuses what is too much."""
    params = saga.params
    amount = params.amount_minor
    return orders_pb2.QuoteRefundRequest(
        order_id=params.order_id,
        lines=[orders_pb2.RefundLine(sku=sku, quantity=quantity) for sku, quantity in params.lines],
        amount=None if amount is None else Money(currency_code=params.currency_code, minor_units=amount),
    )


@calls(PAYMENTS, "Refund", timeout=PROVIDER_TIMEOUT, reads=("quote",))
def refund_payment(saga: View[RefundOrder]) -> payments_pb2.RefundRequest:
    """The pivot: the quote's amount goes back."""
    quote = _quote(saga)
    return payments_pb2.RefundRequest(
        saga_step=saga.call,
        payment_id=quote.payment_id,
        refund_id=saga.params.refund_id,
        amount=quote.amount,
        reason=saga.params.reason,
    )


@calls(INVENTORY, "Restock", reads=("quote",))
def restock(saga: View[RefundOrder]) -> inventory_pb2.RestockRequest:
    """The quote's units are on hand again."""
    quote = _quote(saga)
    return inventory_pb2.RestockRequest(
        saga_step=saga.call,
        reservation_id=quote.reservation_id,
        lines=[inventory_pb2.RestockLine(sku=line.sku, quantity=line.quantity) for line in quote.lines],
    )


@calls(ORDERS, "RecordRefund", reads=("quote",))
def record_refund(saga: View[RefundOrder]) -> orders_pb2.RecordRefundRequest:
    """The order knows of it."""
    quote = _quote(saga)
    return orders_pb2.RecordRefundRequest(
        saga_step=saga.call,
        order_id=saga.params.order_id,
        refund_id=saga.params.refund_id,
        amount=quote.amount,
        lines=quote.lines,
        reason=saga.params.reason,
    )


def _quote(saga: View[RefundOrder]) -> orders_pb2.QuoteRefundResponse:
    return saga.output("quote", orders_pb2.QuoteRefundResponse)


def _is_restocked(params: RefundOrder) -> bool:
    return params.restock


# --- answer ---


def answer(ending: Ending) -> sagas_pb2.RefundOrderResponse:
    """What RefundOrder answers once the saga has ended; stored byte for byte under the idempotency key."""
    params: RefundOrder = ending.params
    response = sagas_pb2.RefundOrderResponse(
        saga_id=str(ending.saga_id), order_id=params.order_id, refund_id=params.refund_id
    )
    if "record" not in ending.replies:
        return refused(response, ending)
    response.progress = sagas_pb2.REQUEST_PROGRESS_DONE
    response.order.CopyFrom(orders_pb2.RecordRefundResponse.FromString(ending.replies["record"]).order)
    response.refunded.CopyFrom(orders_pb2.QuoteRefundResponse.FromString(ending.replies["quote"]).amount)
    return response


# --- definition ---

REFUND_ORDER = Saga(
    kind="refund_order",
    version=1,
    params=RefundOrder,
    deadline=REQUEST_DEADLINE,
    answer=answer,
    steps=(
        Step("quote", quote_refund, check=True),
        Step("refund", refund_payment, pivot=True),
        # May be skipped: then the units stay sold, as they do after a refund that does not take them back.
        Step("restock", restock, when=_is_restocked, skippable=True),
        Step("record", record_refund),
    ),
)
