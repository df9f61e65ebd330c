"""What each RPC does at the simulated participants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from google.protobuf.message import Message

from chassis.errors import Fault, FaultKind
from sagacity.common.v1 import money_pb2, saga_step_pb2
from sagacity.inventory.v1 import inventory_pb2
from sagacity.orders.v1 import orders_pb2
from sagacity.payments.v1 import payments_pb2
from sagacity.users.v1 import users_pb2
from tests.simulation.participants import COURIER_FEE, PRICE, Identity, World

SKU = "MUG"


def _order(world: World, order_id: str) -> orders_pb2.Order:
    return orders_pb2.Order(
        id=order_id,
        payment_id=world.payments.get(order_id, ""),
        reservation_id=world.reservations.get(order_id, ""),
    )


def _money(amount: int) -> money_pb2.Money:
    return money_pb2.Money(currency_code="EUR", minor_units=amount)


# --- orders ---


def _create_order(world: World, request: orders_pb2.CreateOrderRequest) -> Message:
    world.become(request.order_id, "PENDING", "")
    return orders_pb2.CreateOrderResponse()


def _reject_order(world: World, request: orders_pb2.RejectOrderRequest) -> Message:
    world.become(request.order_id, "REJECTED", "", "PENDING")
    return orders_pb2.RejectOrderResponse()


def _confirm_order(world: World, request: orders_pb2.ConfirmOrderRequest) -> Message:
    world.become(request.order_id, "CONFIRMED", "PENDING")
    world.reservations[request.order_id] = request.reservation_id
    world.payments[request.order_id] = request.payment_id
    return orders_pb2.ConfirmOrderResponse()


def _quote_order(_: World, request: orders_pb2.QuoteOrderRequest) -> Message:
    total = _money(PRICE * request.lines[0].quantity)
    return orders_pb2.QuoteOrderResponse(quote=orders_pb2.Quote(total=total))


def _get_order(world: World, request: orders_pb2.GetOrderRequest) -> Message:
    return orders_pb2.GetOrderResponse(order=_order(world, request.order_id))


def _cancel_order(world: World, request: orders_pb2.CancelOrderRequest) -> Message:
    world.become(request.order_id, "CANCELLED", "CONFIRMED")
    return orders_pb2.CancelOrderResponse(order=_order(world, request.order_id))


def _assert_can_fulfil(world: World, request: orders_pb2.AssertCanFulfilRequest) -> Message:
    if world.orders.get(request.order_id) != "CONFIRMED":
        raise Fault(FaultKind.FAILED_PRECONDITION, "NOT_CONFIRMED", "nothing to ship")
    return orders_pb2.AssertCanFulfilResponse(order=_order(world, request.order_id))


def _mark_shipped(world: World, request: orders_pb2.MarkShippedRequest) -> Message:
    world.become(request.order_id, "SHIPPED", "CONFIRMED")
    return orders_pb2.MarkShippedResponse()


def _quote_refund(world: World, request: orders_pb2.QuoteRefundRequest) -> Message:
    """All that is left, or one unit."""
    order = _order(world, request.order_id)
    paid, sold = world.accounts[f"paid:{order.payment_id}"], world.accounts[f"sold:{order.reservation_id}"]
    amount, units = (PRICE, 1) if request.lines else (paid, sold)
    state = world.orders.get(request.order_id)
    if state not in {"CONFIRMED", "SHIPPED"} or not 0 < amount <= paid or units > sold:
        raise Fault(FaultKind.FAILED_PRECONDITION, "NOTHING_LEFT", "there is less than is to go back")
    lines = [orders_pb2.RefundLine(sku=SKU, quantity=units)] if units else []
    return orders_pb2.QuoteRefundResponse(
        amount=_money(amount), lines=lines, payment_id=order.payment_id, reservation_id=order.reservation_id
    )


def _record_refund(world: World, request: orders_pb2.RecordRefundRequest) -> Message:
    world.refunded[request.order_id] += request.amount.minor_units
    return orders_pb2.RecordRefundResponse()


# --- users ---


def _assert_can_order(_: World, request: users_pb2.AssertCanOrderRequest) -> Message:
    return users_pb2.AssertCanOrderResponse()


# --- inventory ---


def _reserve(world: World, request: inventory_pb2.ReserveRequest) -> Message:
    line = request.lines[0]
    world.move("stock", f"held:{request.reservation_id}", line.quantity, "OUT_OF_STOCK")
    reserved = inventory_pb2.ReservedLine(sku=line.sku, quantity=line.quantity)
    return inventory_pb2.ReserveResponse(reservation=inventory_pb2.Reservation(lines=[reserved]))


def _release(world: World, request: inventory_pb2.ReleaseReservationRequest) -> Message:
    world.empty(f"held:{request.reservation_id}", "stock")
    world.empty(f"sold:{request.reservation_id}", "stock")
    return inventory_pb2.ReleaseReservationResponse()


def _commit(world: World, request: inventory_pb2.CommitReservationRequest) -> Message:
    held = f"held:{request.reservation_id}"
    world.move(held, f"sold:{request.reservation_id}", max(1, world.accounts[held]), "NOT_HELD")
    return inventory_pb2.CommitReservationResponse()


def _restock(world: World, request: inventory_pb2.RestockRequest) -> Message:
    units = sum(line.quantity for line in request.lines)
    world.move(f"sold:{request.reservation_id}", "stock", units, "NOT_SOLD")
    return inventory_pb2.RestockResponse()


# --- payments ---


def _charge(world: World, request: payments_pb2.ChargeRequest) -> Message:
    world.move("wallet", f"paid:{request.payment_id}", request.amount.minor_units, "DECLINED")
    return payments_pb2.ChargeResponse()


def _reverse(world: World, request: payments_pb2.ReverseRequest) -> Message:
    world.empty(f"paid:{request.payment_id}", "wallet")
    return payments_pb2.ReverseResponse()


def _capture(world: World, request: payments_pb2.CaptureRequest) -> Message:
    world.accounts[f"captured:{request.payment_id}"] += 1
    return payments_pb2.CaptureResponse()


def _refund(world: World, request: payments_pb2.RefundRequest) -> Message:
    world.move(f"paid:{request.payment_id}", "wallet", request.amount.minor_units, "TOO_MUCH")
    return payments_pb2.RefundResponse()


# --- the steps of `ship` that have no meaning elsewhere ---


def _moves(source: str, target: str, amount: int) -> Callable[[World, Any], Message]:
    def move(world: World, _: Any) -> Message:
        world.move(source, target, amount, "SHORT")
        return orders_pb2.CancelOrderResponse()

    return move


def _counts(account: str) -> Callable[[World, Any], Message]:
    def count(world: World, _: Any) -> Message:
        world.accounts[account] += 1
        return orders_pb2.CancelOrderResponse()

    return count


_ANY = inventory_pb2.CommitReservationRequest
RPCS: dict[str, tuple[type[Any], Callable[[World, Any], Message]]] = {
    "CreateOrder": (orders_pb2.CreateOrderRequest, _create_order),
    "RejectOrder": (orders_pb2.RejectOrderRequest, _reject_order),
    "ConfirmOrder": (orders_pb2.ConfirmOrderRequest, _confirm_order),
    "QuoteOrder": (orders_pb2.QuoteOrderRequest, _quote_order),
    "GetOrder": (orders_pb2.GetOrderRequest, _get_order),
    "CancelOrder": (orders_pb2.CancelOrderRequest, _cancel_order),
    "AssertCanFulfil": (orders_pb2.AssertCanFulfilRequest, _assert_can_fulfil),
    "MarkShipped": (orders_pb2.MarkShippedRequest, _mark_shipped),
    "QuoteRefund": (orders_pb2.QuoteRefundRequest, _quote_refund),
    "RecordRefund": (orders_pb2.RecordRefundRequest, _record_refund),
    "AssertCanOrder": (users_pb2.AssertCanOrderRequest, _assert_can_order),
    "Reserve": (inventory_pb2.ReserveRequest, _reserve),
    "ReleaseReservation": (inventory_pb2.ReleaseReservationRequest, _release),
    "CommitReservation": (inventory_pb2.CommitReservationRequest, _commit),
    "Restock": (inventory_pb2.RestockRequest, _restock),
    "Charge": (payments_pb2.ChargeRequest, _charge),
    "Reverse": (payments_pb2.ReverseRequest, _reverse),
    "Capture": (payments_pb2.CaptureRequest, _capture),
    "Refund": (payments_pb2.RefundRequest, _refund),
    "AdjustStock": (_ANY, _moves("boxes", "used", 1)),
    "UpdateProduct": (_ANY, _moves("used", "boxes", 1)),
    "AddPaymentMethod": (_ANY, _moves("wallet", "courier", COURIER_FEE)),
    "RemovePaymentMethod": (_ANY, _moves("courier", "wallet", COURIER_FEE)),
    "SetRole": (_ANY, _counts("points")),
    "AddAddress": (_ANY, _counts("told")),
}
# They ask their provider, in between two transactions.
LONG = {"Charge", "Refund", "Capture"}


def identity_of(message: Any) -> Identity | None:
    """Which call a request is; None for a check, which nothing remembers."""
    if "saga_step" not in message.DESCRIPTOR.fields_by_name:
        return None
    named = message.saga_step
    undo = named.operation == saga_step_pb2.OPERATION_UNDO
    return Identity(UUID(named.saga_id), named.step, undo)
