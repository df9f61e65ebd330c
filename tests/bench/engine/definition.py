"""The saga that is measured: 4 steps that do nothing, of which 3 can be undone and the last is the pivot."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from orchestrator.saga import Ending, Saga, Step, View, calls
from sagacity.inventory.v1 import inventory_pb2
from sagacity.sagas.v1 import sagas_pb2

INVENTORY = "sagacity.inventory.v1.Inventory"
DO, UNDO = "CommitReservation", "ReleaseReservation"
LAST_STEP = "four"


@dataclass(frozen=True)
class FourSteps:
    """What a saga of ours carries: the id that its requests name."""

    reservation_id: str


@calls(INVENTORY, DO)
def do(saga: View[FourSteps]) -> inventory_pb2.CommitReservationRequest:
    return inventory_pb2.CommitReservationRequest(
        saga_step=saga.call, reservation_id=saga.params.reservation_id
    )


@calls(INVENTORY, UNDO)
def undo(saga: View[FourSteps]) -> inventory_pb2.ReleaseReservationRequest:
    return inventory_pb2.ReleaseReservationRequest(
        saga_step=saga.call, reservation_id=saga.params.reservation_id
    )


def answer(ending: Ending) -> sagas_pb2.PlaceOrderResponse:
    return sagas_pb2.PlaceOrderResponse(saga_id=str(ending.saga_id))


FOUR_STEPS = Saga(
    kind="bench",
    version=1,
    params=FourSteps,
    deadline=timedelta(minutes=5),
    answer=answer,
    steps=(
        Step("one", do, undo=undo),
        Step("two", do, undo=undo),
        Step("three", do, undo=undo),
        Step(LAST_STEP, do, pivot=True),
    ),
)
