"""The linter refuses every definition that could lose or half-do an order."""

from dataclasses import dataclass
from datetime import timedelta

import pytest
from google.protobuf.message import Message

from orchestrator.saga import Action, DefinitionError, Ending, Parallel, Saga, Step, View, calls
from sagacity.inventory.v1 import inventory_pb2

INVENTORY = "sagacity.inventory.v1.Inventory"


@dataclass(frozen=True)
class Nothing:
    pass


def build(saga: View[Nothing]) -> Message:
    return inventory_pb2.ReleaseReservationRequest(saga_step=saga.call)


def answer(_ending: Ending) -> Message:
    return inventory_pb2.ReleaseReservationResponse()


DO = Action(INVENTORY, "Reserve", build)
UNDO = Action(INVENTORY, "ReleaseReservation", build)


def saga(*steps: Step | Parallel, deadline: timedelta = timedelta(minutes=1)) -> Saga[Nothing]:
    return Saga(kind="test", version=1, params=Nothing, deadline=deadline, steps=steps, answer=answer)


def test_a_sound_definition_is_accepted() -> None:
    definition = saga(
        Step("a", DO, undo=UNDO), Step("b", DO, check=True), Step("c", DO, pivot=True), Step("d", DO)
    )
    assert [step.name for step in definition.all_steps()] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("steps", "complaint"),
    [
        ((Step("a", DO, undo=UNDO), Step("a", DO, undo=UNDO)), "two steps are named"),
        ((Step("a", DO, pivot=True), Step("b", DO, pivot=True)), "more than one pivot"),
        ((Step("a", DO),), "neither undo nor check"),
        ((Step("a", DO, pivot=True), Step("b", DO, undo=UNDO)), "undoable step after the pivot"),
        ((Step("a", DO, undo=UNDO, pivot=True),), "a pivot cannot be undone"),
        ((Step("a", DO, undo=UNDO, check=True),), "a check has nothing to undo"),
        ((Parallel(Step("a", DO, undo=UNDO), Step("b", DO, pivot=True)),), "must be a group of its own"),
        ((Step("a", Action(INVENTORY, "Steal", build), undo=UNDO),), "has no RPC Steal"),
        ((Step("a", Action("sagacity.nowhere.v1.No", "Do", build), undo=UNDO),), "there is no service"),
    ],
)
def test_an_unsound_definition_is_refused(steps: tuple[Step | Parallel, ...], complaint: str) -> None:
    with pytest.raises(DefinitionError, match=complaint):
        saga(*steps)


def test_a_call_that_may_outlast_the_saga_is_refused() -> None:
    with pytest.raises(DefinitionError, match="not inside the saga's deadline"):
        saga(Step("a", DO, undo=UNDO), deadline=timedelta(seconds=5))


def test_params_that_cannot_be_journaled_are_refused() -> None:
    with pytest.raises(DefinitionError, match="dataclass"):
        Saga(kind="t", version=1, params=int, deadline=timedelta(minutes=1), steps=(), answer=answer)


def test_the_hash_changes_with_the_shape_and_only_with_it() -> None:
    one = saga(Step("a", DO, undo=UNDO))
    same = saga(Step("a", calls(INVENTORY, "Reserve")(build), undo=UNDO))
    other = saga(Step("b", DO, undo=UNDO))
    assert one.hash == same.hash
    assert one.hash != other.hash
