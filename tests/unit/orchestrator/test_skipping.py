"""A skip takes one step for done, and no other: two steps after the pivot that run in parallel."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from uuid import NAMESPACE_DNS, uuid5

from chassis.errors import Fault, FaultKind
from orchestrator.entries import REQUESTED, Event, Result, State, Verb
from orchestrator.progress import Progress
from orchestrator.saga import Ending, Outcome, Parallel, Saga, Step, View, calls
from sagacity.inventory.v1 import inventory_pb2

NO = Fault(FaultKind.FAILED_PRECONDITION, "NO", "no", domain="sagacity.test")
LATE = Fault(FaultKind.DEADLINE_EXCEEDED, "LATE", "late", domain="sagacity.test")


@dataclass(frozen=True)
class Nothing:
    pass


@calls("sagacity.inventory.v1.Inventory", "CommitReservation")
def do(saga: View[Nothing]) -> inventory_pb2.CommitReservationRequest:
    return inventory_pb2.CommitReservationRequest(saga_step=saga.call)


def answer(ending: Ending) -> inventory_pb2.CommitReservationResponse:
    return inventory_pb2.CommitReservationResponse()


DEFINITION = Saga(
    kind="skipping",
    version=1,
    params=Nothing,
    deadline=timedelta(minutes=5),
    answer=answer,
    steps=(
        Step("pivot", do, pivot=True),
        Parallel(Step("points", do), Step("told", do, skippable=True)),
    ),
)


def parked() -> Progress:
    """Bring a saga where one of the two was refused and the other's outcome is unknown."""
    progress = Progress(DEFINITION, uuid5(NAMESPACE_DNS, "saga"), Nothing(), State.RUNNING, 1, 0)
    progress.begin()
    progress.absorb(
        [Result(call, Outcome.DONE, reply=b"") for call in progress.pending()], deadline_passed=False
    )
    points, told = progress.pending()
    results = [Result(points, Outcome.REFUSED, fault=NO), Result(told, Outcome.UNKNOWN, fault=LATE)]
    progress.absorb(results, deadline_passed=False)
    assert progress.state is State.PARKED
    return progress


def test_a_refused_neighbour_of_a_skipped_step_is_asked_again() -> None:
    progress = parked()
    progress.state = State.RUNNING
    progress.replay(Event("told", Verb.SKIP, 0, REQUESTED, reply=b""))
    assert [call.step for call in progress.pending()] == ["points"]
    entry = progress.absorb([], deadline_passed=False)
    assert entry.state is State.RUNNING
    (again,) = progress.pending()
    assert again.attempt == 2
    entry = progress.absorb([Result(again, Outcome.DONE, reply=b"")], deadline_passed=False)
    assert entry.state is State.COMPLETED


def test_a_skipped_step_that_was_refused_itself_is_not_asked_again() -> None:
    progress = parked()
    progress.state = State.RUNNING
    progress.replay(Event("points", Verb.SKIP, 0, REQUESTED, reply=b""))
    assert [call.step for call in progress.pending()] == ["told"]
