"""The participants: a barrier that remembers as `chassis.barrier` does, and a domain in which things add up.

The domain is a ledger: units move from one account to another and none may go below zero, so stock and money
are conserved unless something is done twice, or half.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

from google.protobuf.message import Message

from chassis.errors import Fault, FaultKind
from sagacity.common.v1 import money_pb2, saga_step_pb2
from sagacity.inventory.v1 import inventory_pb2
from sagacity.orders.v1 import orders_pb2
from sagacity.payments.v1 import payments_pb2
from sagacity.users.v1 import users_pb2
from tests.simulation.definitions import AFTER_PIVOT, CHECKS

PRICE = 7
COURIER_FEE = 3
STOCK = 9
WALLET = 50 * PRICE

Reply = bytes


class Identity(NamedTuple):
    """Which call it is: what the barrier reads of a request."""

    saga_id: UUID
    step: str
    undo: bool


@dataclass(slots=True)
class Remembered:
    """A row of the barrier."""

    outcome: str  # IN_PROGRESS | DONE | REFUSED | TOMBSTONE
    request_hash: bytes = b""
    reply: Reply = b""
    refusal: Fault | None = None
    undo_reply: Reply | None = None


class World:
    """What the participants hold, and how often each step had its effect."""

    def __init__(self, count: Callable[[str], None]) -> None:
        self.accounts: Counter[str] = Counter({"stock": STOCK, "boxes": STOCK, "wallet": WALLET})
        self.orders: dict[str, str] = {}
        self.reservations: dict[str, str] = {}
        self.payments: dict[str, str] = {}
        self.effects: Counter[Identity] = Counter()
        self.barrier: dict[tuple[UUID, str], Remembered] = {}
        self._count = count

    # --- the ledger ---

    def total(self, *names: str) -> int:
        return sum(value for name, value in self.accounts.items() if name.partition(":")[0] in names)

    def move(self, source: str, target: str, amount: int, reason: str) -> None:
        if self.accounts[source] < amount:
            raise Fault(FaultKind.FAILED_PRECONDITION, reason, f"{source} has less than {amount}")
        self.accounts[source] -= amount
        self.accounts[target] += amount

    def empty(self, source: str, target: str) -> None:
        self.move(source, target, self.accounts[source], "EMPTY")

    def become(self, order_id: str, state: str, *before: str) -> None:
        if self.orders.get(order_id, "") not in before:
            found = self.orders.get(order_id, "nothing")
            raise Fault(FaultKind.FAILED_PRECONDITION, "ORDER_STATE", f"the order is {found}")
        self.orders[order_id] = state

    # --- the barrier ---

    def do(self, identity: Identity, request: bytes, *, refusal: Fault | None, effect: Effect) -> Reply:
        """Answer a do as the table of `chassis.barrier` says; `refusal` is what chance has the domain say."""
        digest, key = hashlib.sha256(request).digest(), (identity.saga_id, identity.step)
        stored = self.barrier.get(key)
        if stored is not None and (stored.outcome != "IN_PROGRESS" or stored.request_hash != digest):
            return self._replayed(stored, digest)
        try:
            if refusal is not None:
                raise refusal
            reply = effect(self)
        except Fault as fault:
            if identity.step in AFTER_PIVOT:
                raise
            recorded = Fault(fault.kind, fault.reason, fault.message, recorded=True)
            self.barrier[key] = Remembered("REFUSED", digest, refusal=recorded)
            raise recorded from fault
        self.effects[identity] += 1
        self.barrier[key] = Remembered("DONE", digest, reply)
        return reply

    def _replayed(self, stored: Remembered, digest: bytes) -> Reply:
        if stored.outcome == "TOMBSTONE":
            self._count("tombstone met")
            raise Fault(FaultKind.FAILED_PRECONDITION, "TOMBSTONED", "undone before", recorded=True)
        if stored.request_hash != digest:
            raise Fault(FaultKind.FAILED_PRECONDITION, "REQUEST_CHANGED", "another request before")
        self._count("duplicate answered")
        if stored.refusal is not None:
            raise stored.refusal
        return stored.reply

    def start(self, identity: Identity, request: bytes) -> bool:
        """Begin what takes long, in a transaction of its own; whether anything is left to do."""
        key = (identity.saga_id, identity.step)
        if key not in self.barrier:
            self.barrier[key] = Remembered("IN_PROGRESS", hashlib.sha256(request).digest())
        return self.barrier[key].outcome == "IN_PROGRESS"

    def undo(self, identity: Identity, *, refusal: Fault | None, effect: Effect) -> Reply:
        key = (identity.saga_id, identity.step)
        stored = self.barrier.get(key)
        if stored is None:
            # Nothing to undo, but what the saga's caller is told: an order that never was is REJECTED.
            reply = effect(self) if identity.step == "order" else b""
            self.barrier[key] = Remembered("TOMBSTONE", undo_reply=reply)
            self._count("tombstone left")
            return reply
        if stored.undo_reply is not None:
            self._count("duplicate undo answered")
            return stored.undo_reply
        if stored.outcome == "REFUSED":
            self._count("undo of a refused step")
            return b""
        if refusal is not None:
            raise refusal
        reply = stored.undo_reply = effect(self)
        if stored.outcome == "IN_PROGRESS":
            self._count("undo of a step in progress")
            stored.outcome = "TOMBSTONE"
        else:
            self.effects[identity] += 1
        return reply


Effect = Callable[[World], Reply]


# --- the domain: what each RPC does ---


def _create_order(world: World, request: Any) -> Message:
    world.become(request.order_id, "PENDING", "")
    return orders_pb2.CreateOrderResponse()


def _reject_order(world: World, request: Any) -> Message:
    world.become(request.order_id, "REJECTED", "", "PENDING")
    return orders_pb2.RejectOrderResponse()


def _confirm_order(world: World, request: Any) -> Message:
    world.become(request.order_id, "CONFIRMED", "PENDING")
    world.reservations[request.order_id] = request.reservation_id
    world.payments[request.order_id] = request.payment_id
    return orders_pb2.ConfirmOrderResponse()


def _assert_can_order(world: World, request: Any) -> Message:
    return users_pb2.AssertCanOrderResponse()


def _quote_order(world: World, request: Any) -> Message:
    total = money_pb2.Money(currency_code="EUR", minor_units=PRICE * request.lines[0].quantity)
    return orders_pb2.QuoteOrderResponse(quote=orders_pb2.Quote(total=total))


def _reserve(world: World, request: Any) -> Message:
    line = request.lines[0]
    world.move("stock", f"held:{request.reservation_id}", line.quantity, "OUT_OF_STOCK")
    reserved = inventory_pb2.ReservedLine(sku=line.sku, quantity=line.quantity)
    return inventory_pb2.ReserveResponse(reservation=inventory_pb2.Reservation(lines=[reserved]))


def _release(world: World, request: Any) -> Message:
    world.empty(f"held:{request.reservation_id}", "stock")
    world.empty(f"sold:{request.reservation_id}", "stock")
    return inventory_pb2.ReleaseReservationResponse()


def _commit(world: World, request: Any) -> Message:
    held = f"held:{request.reservation_id}"
    world.move(held, f"sold:{request.reservation_id}", max(1, world.accounts[held]), "NOT_HELD")
    return inventory_pb2.CommitReservationResponse()


def _charge(world: World, request: Any) -> Message:
    world.move("wallet", f"paid:{request.payment_id}", request.amount.minor_units, "DECLINED")
    return payments_pb2.ChargeResponse()


def _reverse(world: World, request: Any) -> Message:
    world.empty(f"paid:{request.payment_id}", "wallet")
    return payments_pb2.ReverseResponse()


def _moves(source: str, target: str, amount: int) -> Callable[[World, Any], Message]:
    def move(world: World, request: Any) -> Message:
        world.move(source, target, amount, "SHORT")
        return orders_pb2.CancelOrderResponse()

    return move


def _becomes(state: str, before: str) -> Callable[[World, Any], Message]:
    def become(world: World, request: Any) -> Message:
        world.become(request.reservation_id, state, before)
        return orders_pb2.CancelOrderResponse()

    return become


def _shippable(world: World, request: Any) -> Message:
    if world.orders.get(request.reservation_id) != "CONFIRMED":
        raise Fault(FaultKind.FAILED_PRECONDITION, "NOT_CONFIRMED", "nothing to ship")
    return orders_pb2.AssertCanFulfilResponse()


def _counts(account: str) -> Callable[[World, Any], Message]:
    def count(world: World, request: Any) -> Message:
        world.accounts[account] += 1
        return orders_pb2.CancelOrderResponse()

    return count


def _refund(world: World, request: Any) -> Message:
    world.empty(f"paid:{world.payments[request.reservation_id]}", "wallet")
    return payments_pb2.RefundResponse()


def _restock(world: World, request: Any) -> Message:
    world.empty(f"sold:{world.reservations[request.reservation_id]}", "stock")
    return inventory_pb2.RestockResponse()


_ABOUT = inventory_pb2.CommitReservationRequest
RPCS: dict[str, tuple[type[Any], Callable[[World, Any], Message]]] = {
    "CreateOrder": (orders_pb2.CreateOrderRequest, _create_order),
    "RejectOrder": (orders_pb2.RejectOrderRequest, _reject_order),
    "ConfirmOrder": (orders_pb2.ConfirmOrderRequest, _confirm_order),
    "AssertCanOrder": (users_pb2.AssertCanOrderRequest, _assert_can_order),
    "QuoteOrder": (orders_pb2.QuoteOrderRequest, _quote_order),
    "Reserve": (inventory_pb2.ReserveRequest, _reserve),
    "ReleaseReservation": (inventory_pb2.ReleaseReservationRequest, _release),
    "CommitReservation": (_ABOUT, _commit),
    "Charge": (payments_pb2.ChargeRequest, _charge),
    "Reverse": (payments_pb2.ReverseRequest, _reverse),
    "AdjustStock": (_ABOUT, _moves("boxes", "used", 1)),
    "UpdateProduct": (_ABOUT, _moves("used", "boxes", 1)),
    "Capture": (_ABOUT, _moves("wallet", "courier", COURIER_FEE)),
    "RemovePaymentMethod": (_ABOUT, _moves("courier", "wallet", COURIER_FEE)),
    "AssertCanFulfil": (_ABOUT, _shippable),
    "MarkShipped": (_ABOUT, _becomes("SHIPPED", "CONFIRMED")),
    "SetRole": (_ABOUT, _counts("points")),
    "AddAddress": (_ABOUT, _counts("told")),
    "CancelOrder": (_ABOUT, _becomes("CANCELLED", "CONFIRMED")),
    "Refund": (_ABOUT, _refund),
    "Restock": (_ABOUT, _restock),
}
# Checks have no identity in their request, and nothing remembers them.
UNNAMED = {"AssertCanOrder", "QuoteOrder"}
LONG = {"Charge"}


def identity_of(method: str, message: Any) -> Identity | None:
    """Which call a request is; None for a check."""
    if method in UNNAMED or message.saga_step.step in CHECKS:
        return None
    named = message.saga_step
    undo = named.operation == saga_step_pb2.OPERATION_UNDO
    return Identity(UUID(named.saga_id), named.step, undo)
