"""What requests to OrderSagas ask for, as parameters of sagas; what no saga can do is refused here."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message

from chassis.errors import Detail, Fault, FaultKind
from chassis.ids import NewId
from orchestrator.sagas.fulfil_order import FulfilOrder
from orchestrator.sagas.place_order import PlaceOrder
from orchestrator.sagas.refund_order import RefundOrder
from sagacity.sagas.v1 import sagas_pb2

# Of one SKU in one order, as orders.proto and inventory.proto have it for a line.
MAX_QUANTITY = 1_000_000

Request = TypeVar("Request", bound=Message)


class Units(Protocol):
    """An item or a line: so many units of a product."""

    @property
    def sku(self) -> str:
        """The product."""

    @property
    def quantity(self) -> int:
        """Units."""


def place_order(request: sagas_pb2.PlaceOrderRequest, new_id: NewId, *, capture: str) -> PlaceOrder:
    """The parameters of place_order; `capture` is when the money is taken.

    Raises:
        Fault: INVALID_ARGUMENT with the field.
    """
    expected: int | None = None
    if request.HasField("expected_total"):
        expected = request.expected_total.minor_units
        if request.expected_total.currency_code != request.currency_code:
            problem = "the expected total is in another currency than the order"
            raise _invalid("expected_total.currency_code", f"must be {request.currency_code}", problem)
    return PlaceOrder(
        user_id=request.user_id,
        order_id=str(new_id()),
        reservation_id=str(new_id()),
        payment_id=str(new_id()),
        items=_summed(request.items, "items"),
        currency_code=request.currency_code,
        address_id=request.address_id,
        payment_method_id=request.payment_method_id,
        expected_total_minor=expected,
        capture=capture,
    )


def refund_order(request: sagas_pb2.RefundOrderRequest, new_id: NewId) -> RefundOrder:
    """The parameters of refund_order: by line, by amount, or all that is left.

    Raises:
        Fault: INVALID_ARGUMENT with the field.
    """
    by_amount = request.HasField("amount")
    if by_amount and request.lines:
        raise _invalid("amount", "a refund is by line or by amount, not both")
    if by_amount and request.restock:
        raise _invalid("restock", "which units come back is known of lines, or of all that is left")
    if by_amount and request.amount.minor_units <= 0:
        raise _invalid("amount.minor_units", "must be above 0")
    return RefundOrder(
        order_id=request.order_id,
        refund_id=str(new_id()),
        reason=request.reason,
        lines=_summed(request.lines, "lines"),
        amount_minor=request.amount.minor_units if by_amount else None,
        currency_code=request.amount.currency_code,
        restock=request.restock,
    )


def fulfil_order(request: sagas_pb2.FulfilOrderRequest) -> FulfilOrder:
    """The parameters of fulfil_order."""
    return FulfilOrder(request.order_id, request.shipment.carrier, request.shipment.tracking_number)


def journaled(params: Any) -> dict[str, Any]:
    """Parameters as the journal keeps them.

    What has its default is left out: code of before that does not know the field can go on with the saga.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(params)}
    return {name: value for name, value in dataclasses.asdict(params).items() if value != defaults[name]}


def request_hash(request: Request) -> bytes:
    """What a key names: the whole request but for the key itself and how long the client cares to wait."""
    named = type(request)()
    named.CopyFrom(request)
    named.ClearField("wait")
    named.ClearField("idempotency_key")
    return hashlib.sha256(named.SerializeToString(deterministic=True)).digest()


def _summed(units: Iterable[Units], field: str) -> list[tuple[str, int]]:
    quantities: dict[str, int] = {}
    for item in units:
        quantities[item.sku] = quantities.get(item.sku, 0) + item.quantity
        # The edge checks each item, the participants their sum: where that is unfit for them, neither a step
        # nor its undo could ever be done, so it must not be accepted.
        if quantities[item.sku] > MAX_QUANTITY:
            raise _invalid(field, f"more than {MAX_QUANTITY} units of {item.sku}")
    return sorted(quantities.items())


def _invalid(field: str, problem: str, message: str = "") -> Fault:
    return Fault(
        FaultKind.INVALID_ARGUMENT, "INVALID_ARGUMENT", message or problem, fields=(Detail(field, problem),)
    )
