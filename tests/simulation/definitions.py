"""The simulation's sagas: the real place_order, one with its pivot in the middle, one that begins with it.

Of the last two only the RPC's path matters: every request names the order where a reservation would be named.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from orchestrator.definitions import Definitions
from orchestrator.saga import Action, Ending, Parallel, Saga, Step, View, calls
from orchestrator.sagas.place_order import PLACE_ORDER
from sagacity.inventory.v1 import inventory_pb2
from sagacity.sagas.v1 import sagas_pb2

DEADLINE = timedelta(seconds=12)
CALL_TIMEOUT = timedelta(seconds=2)

INVENTORY = "sagacity.inventory.v1.Inventory"
ORDERS = "sagacity.orders.v1.Orders"
PAYMENTS = "sagacity.payments.v1.Payments"
USERS = "sagacity.users.v1.Users"


@dataclass(frozen=True)
class AboutOrder:
    """What is shipped or cancelled: an order, with what was reserved and paid for it."""

    order_id: str


def _call(service: str, method: str) -> Action:
    @calls(service, method, timeout=CALL_TIMEOUT)
    def action(saga: View[AboutOrder]) -> inventory_pb2.CommitReservationRequest:
        return inventory_pb2.CommitReservationRequest(
            saga_step=saga.call, reservation_id=saga.params.order_id
        )

    return action


def _answer(ending: Ending) -> sagas_pb2.PlaceOrderResponse:
    return sagas_pb2.PlaceOrderResponse(saga_id=str(ending.saga_id), order_id=ending.state)


take_box = _call(INVENTORY, "AdjustStock")
return_box = _call(INVENTORY, "UpdateProduct")
pay_courier = _call(PAYMENTS, "Capture")
unpay_courier = _call(PAYMENTS, "RemovePaymentMethod")
may_be_shipped = _call(ORDERS, "AssertCanFulfil")
mark_shipped = _call(ORDERS, "MarkShipped")
give_points = _call(USERS, "SetRole")
tell_customer = _call(USERS, "AddAddress")
cancel_order = _call(ORDERS, "CancelOrder")
refund = _call(PAYMENTS, "Refund")
restock = _call(INVENTORY, "Restock")

# The same steps in less time, so that deadlines pass while it is simulated.
PLACE = dataclasses.replace(PLACE_ORDER, deadline=DEADLINE)

SHIP = Saga(
    kind="ship",
    version=1,
    params=AboutOrder,
    deadline=DEADLINE,
    answer=_answer,
    steps=(
        Parallel(Step("box", take_box, undo=return_box), Step("courier", pay_courier, undo=unpay_courier)),
        Step("allowed", may_be_shipped, check=True),
        Step("shipped", mark_shipped, pivot=True),
        Parallel(Step("points", give_points), Step("told", tell_customer, skippable=True)),
    ),
)

CANCEL = Saga(
    kind="cancel",
    version=1,
    params=AboutOrder,
    deadline=DEADLINE,
    answer=_answer,
    steps=(
        Step("cancelled", cancel_order, pivot=True),
        Parallel(Step("refunded", refund), Step("restocked", restock)),
    ),
)

SAGAS = {saga.kind: saga for saga in (PLACE, SHIP, CANCEL)}
DEFINITIONS = Definitions({(saga.kind, saga.version): saga for saga in SAGAS.values()})
UNDOABLE = tuple(
    f"{saga.kind}.{step.name}" for saga in SAGAS.values() for step in saga.all_steps() if step.undo
)


def _after_pivot(saga: Saga[Any]) -> frozenset[str]:
    names = [step.name for step in saga.all_steps()]
    pivot = next(step.name for step in saga.all_steps() if step.pivot)
    return frozenset(names[names.index(pivot) + 1 :])


AFTER_PIVOT = frozenset().union(*(_after_pivot(saga) for saga in SAGAS.values()))
PIVOTS = frozenset(step.name for saga in SAGAS.values() for step in saga.all_steps() if step.pivot)
CHECKS = frozenset(step.name for saga in SAGAS.values() for step in saga.all_steps() if step.check)
