"""The simulation's sagas: the real ones, and two of shapes that they do not have.

`ship` has its pivot in the middle, with parallel steps before and after it; `void` begins with its pivot.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from orchestrator.definitions import Definitions
from orchestrator.saga import Action, Ending, Parallel, Saga, Step, View, calls
from orchestrator.sagas.cancel_order import CANCEL_ORDER, CancelOrder, cancel, release_stock, reverse_payment
from orchestrator.sagas.fulfil_order import FULFIL_ORDER
from orchestrator.sagas.place_order import PLACE_ORDER
from orchestrator.sagas.refund_order import REFUND_ORDER
from sagacity.inventory.v1 import inventory_pb2
from sagacity.orders.v1 import orders_pb2
from sagacity.sagas.v1 import sagas_pb2

# Less than the real ones have, so that deadlines pass while it is simulated.
DEADLINE = timedelta(seconds=12)
CALL_TIMEOUT = timedelta(seconds=2)

INVENTORY = "sagacity.inventory.v1.Inventory"
ORDERS = "sagacity.orders.v1.Orders"
PAYMENTS = "sagacity.payments.v1.Payments"
USERS = "sagacity.users.v1.Users"


@dataclass(frozen=True)
class Ship:
    """Which order is shipped."""

    order_id: str


def _call(service: str, method: str) -> Action:
    """A call of which only the path and the step's identity matter."""

    @calls(service, method, timeout=CALL_TIMEOUT)
    def action(saga: View[Ship]) -> inventory_pb2.CommitReservationRequest:
        return inventory_pb2.CommitReservationRequest(saga_step=saga.call)

    return action


@calls(ORDERS, "AssertCanFulfil", timeout=CALL_TIMEOUT)
def may_be_shipped(saga: View[Ship]) -> orders_pb2.AssertCanFulfilRequest:
    """A check."""
    return orders_pb2.AssertCanFulfilRequest(order_id=saga.params.order_id)


@calls(ORDERS, "MarkShipped", timeout=CALL_TIMEOUT)
def mark_shipped(saga: View[Ship]) -> orders_pb2.MarkShippedRequest:
    """The pivot."""
    return orders_pb2.MarkShippedRequest(saga_step=saga.call, order_id=saga.params.order_id)


def _answer(ending: Ending) -> sagas_pb2.PlaceOrderResponse:
    return sagas_pb2.PlaceOrderResponse(saga_id=str(ending.saga_id), order_id=ending.state)


SHIP = Saga(
    kind="ship",
    version=1,
    params=Ship,
    deadline=DEADLINE,
    answer=_answer,
    steps=(
        Parallel(
            Step("box", _call(INVENTORY, "AdjustStock"), undo=_call(INVENTORY, "UpdateProduct")),
            Step("courier", _call(PAYMENTS, "AddPaymentMethod"), undo=_call(PAYMENTS, "RemovePaymentMethod")),
        ),
        Step("allowed", may_be_shipped, check=True),
        Step("shipped", mark_shipped, pivot=True),
        Parallel(
            Step("points", _call(USERS, "SetRole")),
            Step("told", _call(USERS, "AddAddress"), skippable=True),
        ),
    ),
)

VOID = Saga(
    kind="void",
    version=1,
    params=CancelOrder,
    deadline=DEADLINE,
    answer=_answer,
    steps=(
        Step("cancellation", cancel, pivot=True),
        Parallel(Step("payment", reverse_payment), Step("stock", release_stock)),
    ),
)


def _hasty(saga: Saga[Any]) -> Saga[Any]:
    return dataclasses.replace(saga, deadline=DEADLINE)


PLACE, CANCEL, REFUND, FULFIL = (
    _hasty(saga) for saga in (PLACE_ORDER, CANCEL_ORDER, REFUND_ORDER, FULFIL_ORDER)
)
SAGAS: dict[str, Saga[Any]] = {saga.kind: saga for saga in (PLACE, CANCEL, REFUND, FULFIL, SHIP, VOID)}
DEFINITIONS = Definitions({(saga.kind, saga.version): saga for saga in SAGAS.values()})

# By the kind of the saga and the name of the step.
PIVOTS = frozenset(
    (saga.kind, step.name) for saga in SAGAS.values() for step in saga.all_steps() if step.pivot
)
CHECKS = frozenset(
    (saga.kind, step.name) for saga in SAGAS.values() for step in saga.all_steps() if step.check
)
UNDOABLE = tuple(
    f"{saga.kind}.{step.name}" for saga in SAGAS.values() for step in saga.all_steps() if step.undo
)
SKIPPABLE = {saga.kind: step.name for saga in SAGAS.values() for step in saga.all_steps() if step.skippable}


def _after_pivot(saga: Saga[Any]) -> frozenset[tuple[str, str]]:
    names = [step.name for step in saga.all_steps()]
    pivot = next(step.name for step in saga.all_steps() if step.pivot)
    return frozenset((saga.kind, name) for name in names[names.index(pivot) + 1 :])


AFTER_PIVOT = frozenset().union(*(_after_pivot(saga) for saga in SAGAS.values()))
